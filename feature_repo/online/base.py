"""The interface of the online state: the recent events of each stream, and the windows over them at any
moment.

Each store of events is a sibling folder of this module. `tests/online/test_any_store.py` runs on every store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from feature_repo.engine.plan import FeaturePlan

Value = float | int | None
Keys = Mapping[str, str | None]  # By the join keys of the views. None is a key that the event does not have
Loaded = tuple[str, Mapping[str, object], int, int]  # Id, event, event_us, created_us
Versions = Mapping[str, int]  # By the name of a history: "<stream>.<key column>"


class Refused(NamedTuple):
    """How many events were refused for one reason, and when the last of them came."""

    events: int
    last_us: int


class OnlineState(Protocol):
    """The events of a plan's streams, and the features that the plan's views make from them.

    - The state is a set of events. The same events in any order, any number of times, give the same answers.
    - An answer at a moment is made from the events that happened before the moment and were known by then. It
      equals the offline value to the last bit.
    - An event whose key is null is in no history. A null key has an empty history: counts and sums are 0,
      other values are None. In a view with a time to live, all its values are None.
    - The caller owns the transactions. No method commits.
    - A history is the events of a stream that have one key. Each history that a view reads has a version, a
      number above 0. `push` and `remove` raise it by one for each change, in the caller's transaction. What
      is not committed raises nothing. A version never falls, also where the state is rebuilt, or made again
      from the lake by a clock that did not go back.
    - So whoever has read a version of a history has read every change that made this version or a smaller
      one, and no other change, however many writers there are. Events that `load` brings were known before.

    Moments are whole microseconds since the epoch, in UTC. A stream that no view of the plan reads raises
    `PlanError`.
    """

    plan: FeaturePlan

    def push(
        self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int
    ) -> Versions | None:
        """Add an event, whose columns have the names of the stream's columns.

        Returns the version that the event makes of the history of each of its keys, by `ViewPlan.history`. A
        key that is None has no history. Returns None where the id of the event is known already, and changes
        nothing then. Raises `BadEvent` for a value that cannot be aggregated, for a key that is neither text
        nor None, and for a column that a view reads and the event lacks.
        """

    def load(self, stream: str, events: Iterable[Loaded]) -> None:
        """Add many events of the lake. No version is raised.

        Where the id of an event is known already, the lake's values replace the stored values. A value that
        the lake leaves out stays. Raises what `push` raises.
        """

    def remove(self, stream: str, event_id: str) -> Versions | None:
        """Take an event out, as when a verdict takes the place of a pending verdict.

        Returns the versions that this makes, as `push` does; None where there was no such event.
        """

    def aggregates(self, keys: Keys, at_us: int) -> dict[str, Value]:
        """Every feature of the plan's views at these keys and a moment, by name.

        Raises `BadEvent` where the key of a view is absent from `keys`, or is neither text nor None.
        """

    def vector(self, keys: Keys, at_us: int, request: Mapping[str, float | int]) -> dict[str, float | None]:
        """The vector of the service, in its order, for a request made at `at_us`.

        `request` holds the request fields of the plan. Raises what `aggregates` raises.
        """

    def versions(self, keys: Keys) -> Versions:
        """The version of each history that the views read at these keys, by `ViewPlan.asked_history`.

        A key that is None has no history. Within a transaction these are the versions that its vector reads.
        """

    def settle(self) -> None:
        """Do some of the housekeeping that earlier questions have shown to be due.

        A writer calls it inside a transaction. No answer changes. Where nobody calls it, answers take longer.
        """

    def find(self, stream: str, event_id: str) -> dict[str, object] | None:
        """The stored event: its columns as they were pushed, `event_id`, `event_us` and `created_us`.

        None where the event is not in the state.
        """

    def find_of(self, stream: str, subject_id: str) -> list[dict[str, object]]:
        """The events about one subject, in a stream whose ids are `<subject_id>:<event_us>`, by their ids.

        A stream of verdicts may hold several events about one subject.
        """

    def newest_us(self, stream: str, at_us: int) -> int | None:
        """The time of the newest event before a moment; None where there is none."""

    def last_event_us(self, stream: str) -> int | None:
        """The time of the newest event of the stream; None where the stream is empty."""

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the events from `from_us` up to, not including, `to_us`, in any order."""

    def count(self, stream: str) -> int:
        """The number of events of the stream in the state."""

    def columns(self, stream: str) -> frozenset[str]:
        """The columns of an event that the state reads, those of its id included."""

    def prune(self, before_us: int, limit: int) -> int:
        """Forget up to `limit` events that happened before a moment. Returns their number.

        No version is raised. Windows that reach behind the moment have no answer afterwards.
        """

    def refuse(self, stream: str, reason: str, at_us: int) -> None:
        """Count an event that was refused."""

    def quarantine(self, stream: str, event: Mapping[str, object], reason: str, at_us: int) -> None:
        """Count an event that was refused, and keep it for a person to look at.

        The oldest events are dropped where there are too many.
        """

    def refusals(self) -> dict[tuple[str, str], Refused]:
        """The refused events, by stream and reason."""
