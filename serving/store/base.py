"""The seam of serving stores: the service's log and the online state, which commit together.

`ServingLog` is the reading half, for assets, commands and sensors. `ServingStore` is the writing half, for
the service. `StateRebuild` replaces the online state while the service goes on.

Each store is a sibling folder of this module. `tests/serving/store/test_serving_stores.py` runs on every one.
Days are UTC, such as "2026-03-01". Moments are whole microseconds since the epoch, in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import pyarrow as pa

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded, OnlineState, Versions
from serving.contract.events import EventLog
from serving.contract.records import Answer
from serving.contract.subject import Feed, Subject
from serving.errors import ServingError
from serving.store.version_counts import Counts, Measured

# A moment is believed once so many events have reached it. One wrong date can be a typing error, and two can
# be its repetition.
AGREE = 3


class StoreError(ServingError):
    """The store did not do what it was asked for. Nothing of the open commit is kept."""


class StoreBusy(StoreError):
    """Another process holds the store's lock. Nothing happened, and the request may be sent again."""


class BadStore(StoreError):
    """The store is damaged, of a newer version of the platform, of another use case, or cannot be opened."""


class Position(NamedTuple):
    """Where a log stands.

    `last` is the number of its newest row. `clock_us` is when the newest event became known, on the service's
    clock, and `newest_us` when the newest event happened. Both are 0 before the first event.
    """

    last: int
    clock_us: int
    newest_us: int


class DecisionRow(NamedTuple):
    """A decision as it goes on record.

    `seq` is its number in the log. `values` are the event's keys and columns in the order of the subject,
    None for a ready-made vector, whose `kind` is "features". `digest` tells two payloads of one id apart.
    `read` are the versions that the vector read, `made` those that the event made. A ready-made vector has
    neither.
    """

    seq: int
    kind: str
    event_us: int
    created_us: int
    values: Sequence[object] | None
    vector: Mapping[str, float | None]
    answer: Answer
    maturity_us: int
    digest: bytes
    read: Versions | None = None
    made: Versions | None = None


class LabelRow(NamedTuple):
    """A label as it goes on record: `given_us` is the time that the client gave, None where it gave none.

    `known` says that the event was found.
    """

    seq: int
    event_id: str
    positive: bool
    label_us: int
    known: bool
    given_us: int | None


class FeedEventRow(NamedTuple):
    """An event of a further feed as it goes on record, with its keys and columns by name.

    `made` are the versions that it made.
    """

    seq: int
    event_id: str
    event_us: int
    created_us: int
    values: Mapping[str, object]
    made: Versions


class ServingLog(Protocol):
    """What the service put on record.

    - A reader sees what was committed before it asked, and nothing of an open commit.
    - A reader writes nothing. No reader waits for a writer, and no writer waits for a reader.
    - A store that no service ever made reads as empty.
    - A store of an earlier version is read as it is. What it lacks is null.
    - `BadStore` where the store cannot be read, is of a newer version, or of another use case than the
      `subject` that is asked for.
    """

    def subject(self) -> Subject | None:
        """The use case whose decisions are on record; None where no release was ever served."""

    def decisions(self, day: str, subject: Subject) -> pa.Table:
        """The decisions that arrived on a day, in commit order, in the columns of `decision_columns`."""

    def decision_ids(self, subject: Subject, day: str | None = None, sample: int | None = None) -> list[str]:
        """The ids of the decisions that arrived on a day, or of all decisions, in commit order.

        With `sample`, at most so many of them, spread over the log. The same log gives the same ids.
        """

    def receipts(self, subject: Subject, ids: Sequence[str]) -> pa.Table:
        """The decisions under some ids, in commit order, in the columns of `receipt_columns`.

        An id that the log does not have gives no row.
        """

    def labels(self, day: str, subject: Subject) -> pa.Table:
        """The labels that became known on a day, in commit order, in the columns of `label_columns`."""

    def feed_events(self, day: str, feed: Feed) -> pa.Table:
        """The events of a further feed that arrived on a day, in commit order, in the columns of
        `feed_columns`.
        """

    def served_days(self, subject: Subject, dataset: str, days: Collection[str] | None = None) -> set[str]:
        """The arrival days, of `days` or of all, on which the service took at least one row of a dataset of
        the use case: an event, a label, or an event of a further feed.

        For those days the log is the source, and not the feed's file. Ready-made vectors do not count, since
        they bring no event.
        """

    def measured(self, version: str, since_us: int) -> Measured:
        """What was measured of a version since the minute of a moment."""

    def position(self) -> Position:
        """Where the log stands; zeros where no service ever ran."""

    def agreed_us(self, stream: str, events: int = AGREE) -> int:
        """The moment that so many events of a stream of the online state have reached; 0 where there are
        fewer.
        """


class ServingStore(EventLog, Protocol):
    """The log and the online state, as the service writes them.

    - What is written within `one_commit` is there as a whole, or not at all. What is called outside of it,
      commits what it writes: `hold`, `add_measured`, `forget_some`, `settle_some`, `tidy`, `begin_again`.
    - Several processes may have a store open. Their commits come one after the other.
    - One thread at a time uses an opened store.
    - A store of an earlier version is brought up to this one when it is opened. Nothing in it is lost.
    - `StoreBusy` where another process holds the lock for too long. `StoreError` for anything else that the
      store cannot do, as on a full disk.
    - Within `one_commit` a method may raise an error of the store's library (`owns`). That error leaves
      `one_commit` as a `StoreError`.
    """

    @property
    def subject(self) -> Subject | None:
        """The use case of the log; None until a release was held."""

    @property
    def state(self) -> OnlineState:
        """The online state by the plan that was held last; `StoreError` before that."""

    def lacks(self, plan: FeaturePlan) -> list[str]:
        """Why the stored events cannot serve a plan, a line each; empty where they can."""

    def hold(self, subject: Subject, plan: FeaturePlan) -> None:
        """Make what the log of a subject and the state of a plan need, and open the state.

        `BadStore` where the log is of another use case.
        """

    def one_commit(self) -> AbstractContextManager[None]:
        """Commit all writes of the block, or none of them. Raises `StoreBusy` before the block begins."""

    @property
    def changes(self) -> int:
        """A number that grows with each row that is written within a commit.

        `move_to` does not count, because it is written at the end of the commit.
        """

    def position(self) -> Position:
        """Where the log stands."""

    def move_to(self, position: Position) -> None:
        """Set where the log stands."""

    def agreed_us(self, stream: str) -> int:
        """The moment that `AGREE` events of a stream of the online state have reached; 0 where there are
        fewer.
        """

    def known(self, prediction_ids: Sequence[str]) -> frozenset[str]:
        """Those of some ids under which an answer is stored."""

    def find(self, prediction_id: str) -> tuple[Answer, bytes] | None:
        """The stored answer to an id, marked as repeated, and the digest of what was asked; None where the id
        is new.
        """

    def add_decisions(self, rows: Iterable[DecisionRow]) -> None:
        """Record decisions. Each has read what came before it in the log."""

    def add_label(self, row: LabelRow) -> bool:
        """Record a label; False where this very label was there already, and nothing changed."""

    def add_made(self, row: LabelRow, made: Versions) -> None:
        """Add to a recorded label the versions that its verdicts made."""

    def find_feed_event(self, feed: Feed, event_id: str) -> tuple[int, Mapping[str, object]] | None:
        """When the event under this id happened, and its keys and columns; None where the id is new."""

    def add_feed_event(self, feed: Feed, row: FeedEventRow) -> None:
        """Record an event of a further feed."""

    def add_measured(self, now_us: int, counts: Counts) -> None:
        """Add counts of versions to the minute of a moment, in a commit. What is too old is forgotten."""

    def on_duty(self) -> bool:
        """Whether the housekeeping of the store is up to who has opened this one.

        It is up to one of all that have the store open, in whichever process. When that one is closed, or its
        process dies, it is up to the next one that asks.
        """

    def forget_some(self, stream: str, lateness_us: int) -> int:
        """Forget a few events that no window of the held plan reaches any more; returns how many.

        It takes about 1 ms, and commits. 0 where nothing is left to be forgotten, or no release is held.
        The newest events of `stream` say what time it is. Events are kept for `lateness_us` longer, because
        late events may come.
        """

    def settle_some(self) -> bool:
        """Do some of the housekeeping that questions to `state` have shown to be due; False where none was.

        It takes about 1 ms, and commits. It is called between two requests, on the store that they use.
        """

    def tidy(self, begin_again: Callable[[], bool]) -> int:
        """Do a step of the housekeeping; returns the bytes of the store's journal.

        Called many times a second, in a thread and on an opened store that no request waits for. Mostly there
        is nothing to do. Where the journal should begin again, the step calls `begin_again`, which has the
        method of that name called on the store that requests use.
        """

    def begin_again(self) -> bool:
        """Let the journal begin again, so that it does not grow; False where another process was in the way.

        It takes some milliseconds, and is called between two requests.
        """

    def owns(self, error: Exception) -> bool:
        """Whether an error comes from the store's library, and not from the caller."""

    def close(self) -> None:
        """Close the store. No other method may be called afterwards."""


class StateRebuild(Protocol):
    """A new online state, filled beside the serving state in commits so small that no request waits.

    The serving state goes on until `switch`, also where the process dies. From the beginning of the rebuild
    on, the service pushes to both states and removes from both.
    """

    def load_lake(self, lake: Lake) -> dict[str, int]:
        """Load the validated days that a window can still reach; returns the number of events by stream."""

    def load(self, stream: str, events: Iterable[Loaded]) -> int:
        """Load events into the new state; returns how many were loaded."""

    def remove(self, stream: str, event_ids: Iterable[str]) -> int:
        """Take events out of the new state; returns how many were there."""

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the new state's events from `from_us` up to, not including, `to_us`."""

    def carry_over(self, since_us: int) -> dict[str, int]:
        """Copy the events that the old state learnt at or after a moment and the new state lacks.

        Returns their number by stream.
        """

    def keep_waiting(self, labels: Iterable[tuple[str, int, bool]]) -> None:
        """Replace the labels that wait in the lake for their events: (id, when it became known, positive).

        These labels are no part of the log. The days on which they came are not days on which the service
        took labels.
        """

    def replay(self, since_us: int, maturity_us: int) -> int:
        """Bring into both states what the log took at or after a moment; returns the number of its rows.

        `maturity_us` is when silence means negative, for events that only the lake has.
        """

    def pack(self, at_us: int) -> None:
        """Prepare every key for questions from a moment on."""

    def switch(self) -> None:
        """Let the new state serve."""

    def serving(self) -> OnlineState:
        """The state that serves now, for questions only."""
