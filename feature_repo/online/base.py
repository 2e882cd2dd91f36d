"""What the state of the keys is to those who use it: the recent events of each stream, and the windows over
them as of any moment.

Each store of events is a sibling folder of this module. `tests/online/test_any_store.py` runs on every one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from feature_repo.engine.plan import FeaturePlan

Value = float | int | None
Keys = Mapping[str, str | None]  # by the views' join keys; None is a key that the event does not have
Loaded = tuple[str, Mapping[str, object], int, int]  # id, event, event_us, created_us


class Refused(NamedTuple):
    """How many events did not get in for one reason, and when the last of them came."""

    events: int
    last_us: int


class OnlineState(Protocol):
    """The events of a plan's streams, and what the plan's views make of them.

    - The state is a set of events: the same events in any order, any number of times, give the same answers.
    - An answer at a moment holds what happened before the moment and was known by then, nothing else. It
      equals the offline value to the last bit.
    - An event whose key is null is in nobody's history. A null key has an empty history: counts and sums are
      0, other values are None. Where a view has a time to live, all its values are None.
    - Whoever opens a state owns its transactions. No method commits.

    Moments are whole microseconds since the epoch, in UTC. A stream that no view of the plan reads raises
    `PlanError`.
    """

    plan: FeaturePlan

    def push(
        self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int
    ) -> bool:
        """Add an event, whose columns are named as the stream's.

        Returns False where its id is known already; nothing changes then. Raises `BadEvent` for a value that
        cannot be aggregated, a key that is neither text nor None, and a column that a view reads and the
        event lacks.
        """

    def load(self, stream: str, events: Iterable[Loaded]) -> None:
        """Add many events of the lake. Where an id is known already, the lake's values replace those that are
        there, and what the lake leaves out stays. Raises what `push` raises.
        """

    def remove(self, stream: str, event_id: str) -> bool:
        """Take an event out, as when a verdict takes the place of a pending one. False: there was none."""

    def aggregates(self, keys: Keys, at_us: int) -> dict[str, Value]:
        """Every feature of the plan's views at these keys and a moment.

        Raises `BadEvent` where a view's key is absent from `keys`, or neither text nor None.
        """

    def vector(self, keys: Keys, at_us: int, request: Mapping[str, float | int]) -> dict[str, float | None]:
        """The service's vector in its order, for a request made at `at_us`.

        `request` holds the plan's request fields. Raises what `aggregates` raises.
        """

    def settle(self) -> None:
        """Do the housekeeping that the questions since the last time have shown to be due.

        For whoever writes, inside its transaction. No answer changes.
        """

    def find(self, stream: str, event_id: str) -> dict[str, object] | None:
        """The stored event with its columns as they were pushed, `event_id`, `event_us` and `created_us`;
        None where it is not in the state.
        """

    def find_of(self, stream: str, subject_id: str) -> list[dict[str, object]]:
        """The events about one subject, in a stream whose ids are `<subject_id>:<event_us>`, by their ids.

        A stream of verdicts holds several events about one subject.
        """

    def newest_us(self, stream: str, at_us: int) -> int | None:
        """When the newest event before a moment happened; None where there is none."""

    def last_event_us(self, stream: str) -> int | None:
        """When the newest event of the stream happened; None where the stream is empty."""

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the events from `from_us` up to, not including, `to_us`, in any order."""

    def count(self, stream: str) -> int:
        """How many events of the stream are in the state."""

    def columns(self, stream: str) -> frozenset[str]:
        """Which columns of an event are read, those of its id included."""

    def prune(self, before_us: int, limit: int) -> int:
        """Forget up to `limit` events that happened before a moment; returns how many.

        Windows that reach behind the moment have no answer any more.
        """

    def refuse(self, stream: str, reason: str, at_us: int) -> None:
        """Count an event that did not get in."""

    def quarantine(self, stream: str, event: Mapping[str, object], reason: str, at_us: int) -> None:
        """Count an event that did not get in, and keep it for a person to look at.

        The oldest events go where there are too many.
        """

    def refusals(self) -> dict[tuple[str, str], Refused]:
        """What was refused, by stream and reason."""
