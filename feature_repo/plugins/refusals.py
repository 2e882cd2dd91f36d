"""Rows that came in through Feast and were refused: how they are kept, and what the sender is told."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime

from feature_repo.engine.columns import BadEvent
from feature_repo.errors import FeatureError
from feature_repo.online.base import OnlineState


class RefusedRows(BadEvent):
    """Some rows went to quarantine. All other rows were taken.

    `row` (from 0), `field`, `value` and `reason` are the first offence.
    """

    def __init__(self, taken: int, refused: int, row: int, field: str, value: object, reason: str) -> None:
        super().__init__(field, value)
        self.taken, self.refused, self.row, self.reason = taken, refused, row, reason
        shown = value.isoformat() if isinstance(value, datetime) else repr(value)
        self.args = (
            (
                f"{taken} rows were taken and {refused} refused; the first of these is row {row}, with"
                f" {field}: {shown} ({reason})"
            ),
        )


class RefusedPush(FeatureError):
    """A push without rows that can be read. Nothing was taken.

    The message names the target of the push and the reason.
    """


class Refusals:
    """The bad rows of one call, for all its views.

    A row that several views refuse counts once. `rows` is the number of rows of the call.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.offences: dict[int, tuple[str, object, str]] = {}
        self._new: list[tuple[Mapping[str, object], str]] = []

    def add(
        self, row: int, field: str, value: object, event: Mapping[str, object], reason: str | None = None
    ) -> None:
        """Note that a row (from 0) is refused for the value of a field."""
        reason = reason or reason_of(value)
        self.offences.setdefault(row, (field, value, reason))
        self._new.append((event, f"{field}: {reason}"))

    def keep(self, state: OnlineState, stream: str) -> None:
        """Put the rows that were added since the last call into quarantine.

        `stream` is the name of a stream or of a materialized view.
        """
        at_us = now_us()
        for event, reason in self._new:
            state.quarantine(stream, event, reason, at_us)
        self._new = []

    @property
    def summary(self) -> RefusedRows:
        """How many rows were taken and refused, and the first offence."""
        first = min(self.offences)
        return RefusedRows(self.rows - len(self.offences), len(self.offences), first, *self.offences[first])

    def tell(self) -> None:
        """Raises `RefusedRows` if any row was refused."""
        if self.offences:
            raise self.summary


def reason_of(value: object) -> str:
    """What is wrong with a value, in few words. Refusals are counted by these words."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return (
        "more than a day ahead"
        if isinstance(value, datetime)
        else f"cannot be used as {type(value).__name__}"
    )


def now_us() -> int:
    """The wall clock, in microseconds since the epoch."""
    return time.time_ns() // 1_000
