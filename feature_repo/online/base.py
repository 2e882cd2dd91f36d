"""What online state is to those who use it, whatever store is behind: a set of events per stream, and the
windows over them as of any moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from feature_repo.engine.plan import FeaturePlan

Value = float | int | None
Loaded = tuple[str, Mapping[str, object], int, int]  # id, event, event_us, created_us


class Refused(NamedTuple):
    events: int
    last_us: int


class OnlineState(Protocol):
    """Who opens a store owns its transactions: nothing here commits.

    The same events in any order, any number of times, give the same state.
    """

    @property
    def plan(self) -> FeaturePlan: ...

    def push(
        self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int
    ) -> bool:
        """Add an event.

        False: its id is known already, and nothing changes. A value that cannot be aggregated raises
        `BadEvent`.
        """

    def load(self, stream: str, events: Iterable[Loaded]) -> None:
        """Add many, for what comes from the lake: where an id is known already, the lake's values hold."""

    def remove(self, stream: str, event_id: str) -> bool:
        """Take an event out, as when a verdict takes the place of a pending one. False: there was none."""

    def aggregates(self, keys: Mapping[str, str], at_us: int) -> dict[str, Value]:
        """Every view feature of these keys at a moment."""

    def vector(
        self, keys: Mapping[str, str], at_us: int, request: Mapping[str, float | int]
    ) -> dict[str, float | None]:
        """The service's vector in its order, for a request made at `at_us`."""

    def settle(self) -> None:
        """Housekeeping that the questions since the last time have shown to be due.

        For whoever writes, inside its transaction.
        """

    def find(self, stream: str, event_id: str) -> dict[str, object] | None:
        """The stored event with its columns as they were pushed, `event_id`, `event_us` and `created_us`;
        None where it is not in the state.
        """

    def find_of(self, stream: str, transaction_id: str) -> list[dict[str, object]]:
        """The events of one transaction in a stream that may hold several of it, whose ids are
        `<transaction_id>:<event_us>`.
        """

    def newest_us(self, stream: str, at_us: int) -> int | None:
        """When the newest event before a moment happened."""

    def last_event_us(self, stream: str) -> int | None: ...

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the events from `from_us` up to, not including, `to_us`."""

    def count(self, stream: str) -> int: ...

    def columns(self, stream: str) -> frozenset[str]:
        """What is read of an event, its id's columns included."""

    def prune(self, before_us: int, limit: int) -> int:
        """Forget up to `limit` events that happened before a moment, and return how many.

        Windows that reach behind it have no answer any more.
        """

    def refuse(self, stream: str, reason: str, at_us: int) -> None:
        """Count an event that did not get in."""

    def quarantine(self, stream: str, event: Mapping[str, object], reason: str, at_us: int) -> None:
        """Count an event that did not get in, and keep it for a person to look at; the oldest go when there
        are too many.
        """

    def refusals(self) -> dict[tuple[str, str], Refused]:
        """By stream and reason."""
