"""Events that are pushed through Feast as a frame.

Good rows are taken. Bad rows go to quarantine with a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from feature_repo.engine.columns import BadEvent
from feature_repo.online.base import OnlineState
from feature_repo.plugins.cells import cell_or_none, frame_times, id_or_as_is
from feature_repo.plugins.refusals import Refusals, RefusedPush, now_us
from feature_repo.times import DAY_US, from_us

AHEAD_US = DAY_US  # Clocks may be a day off. A row that is further ahead is refused.
NULLABLE = "nullable"  # The tag of a source with the keys that an event may lack.
TIMES = ("event_timestamp", "created_timestamp")


def as_frame(where: str, given: object) -> pd.DataFrame:
    """The pushed value, which has to be a frame with each column once. `RefusedPush` otherwise."""
    if not isinstance(given, pd.DataFrame):
        raise RefusedPush(f"{where}: a push takes a pandas DataFrame, and got {type(given).__name__}")
    if len(twice := given.columns[given.columns.duplicated()]):
        raise RefusedPush(f"{where}: more than one column is called {twice[0]!r}; name each column once")
    return given


def nullable_keys(views: Iterable[Any]) -> frozenset[str]:
    """The keys that an event of these views may lack, by the tag of their source."""
    tags = (view.batch_source.tags.get(NULLABLE, "") for view in views)
    return frozenset(name for tag in tags for name in tag.split(",") if name)


def push_events(
    state: OnlineState,
    stream: str,
    frame: pd.DataFrame,
    refusals: Refusals,
    nullable: frozenset[str] = frozenset(),
) -> None:
    """Add the raw events of one stream, for all views of the state's plan that read the stream.

    An event without created_timestamp was known at once. Nanoseconds are cut off. A key may be missing (None,
    NaN, or no column) if it is one of `nullable`, or if no view has it as its key. The event is then in no
    history of that key.
    """
    views = [view for view in state.plan.views if view.stream == stream]
    names = dict.fromkeys(
        c for v in views for c in (*v.event_id, v.entity, *v.keys) if c != "event_timestamp"
    )
    required = {v.entity for v in views} - nullable | {c for v in views for c in v.event_id}
    latest_us = now_us() + AHEAD_US
    times = FrameTimes(frame)
    for i, row in enumerate(frame.to_dict("records")):
        event = {str(name): cell_or_none(value) for name, value in row.items()}
        try:
            at_us, created_us = times.of(i, event, latest_us)
            for name in names:
                event[name] = _key(name, event.get(name), name in required)
            state.push(stream, state.plan.event_id(stream, event, at_us), event, at_us, created_us)
        except _Refused as refused:
            refusals.add(i, refused.field, refused.value, event, refused.reason)
        except BadEvent as bad:
            refusals.add(i, bad.field, bad.value, event)


class FrameTimes:
    """The times of the rows of a frame: when each happened, and when it became known."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._event, self._created = (frame_times(frame, name) for name in TIMES)

    def of(self, row: int, event: Mapping[str, object], latest_us: int) -> tuple[int, int]:
        """The two times of a row in microseconds. `BadEvent` for a time that no event may have."""
        (at_us, has_time), (created_us, has_created) = (
            (int(us[row]), bool(known[row])) for us, known in (self._event, self._created)
        )
        if not has_time:
            raise BadEvent("event_timestamp", event.get("event_timestamp"))
        if not has_created:
            if event.get("created_timestamp") is not None:
                raise BadEvent("created_timestamp", event["created_timestamp"])
            created_us = at_us
        if created_us < at_us:
            raise _Refused("created_timestamp", from_us(created_us), "before event_timestamp")
        for name, moment_us in zip(TIMES, (at_us, created_us), strict=True):
            if moment_us > latest_us:
                raise BadEvent(name, from_us(moment_us))
        return at_us, created_us


class _Refused(BadEvent):
    """A refused value whose reason the value alone does not show."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(field, value)
        self.reason = reason


def _key(name: str, value: Any, required: bool) -> str | None:
    """An id as text; None for a missing id that is not required.

    `BadEvent` for any other value.
    """
    found = id_or_as_is(value)
    if found is None and not required:
        return None
    if not found or not isinstance(found, str):
        raise BadEvent(name, found)
    return found
