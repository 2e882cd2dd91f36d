"""The writing half: the log and the online state over one connection, in one commit."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import Versions
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.online.sqlite.transactions import transaction
from serving.contract.events import FeedRow, LoggedEvent
from serving.contract.records import Answer
from serving.contract.subject import Feed, Subject
from serving.store.base import (
    BadStore,
    DecisionRow,
    FeedEventRow,
    LabelRow,
    Position,
    ServingStore,
    StoreError,
)
from serving.store.sqlite.checkpoints import Checkpoints, begin_again
from serving.store.sqlite.database import named_errors, open_for_writing, store_error
from serving.store.sqlite.decision_log import DecisionLog
from serving.store.sqlite.event_log import SqliteEventLog
from serving.store.sqlite.feed_log import FeedLog
from serving.store.sqlite.log_tables import create_tables, position_of, subject_of_log
from serving.store.sqlite.measured import add_measured
from serving.store.sqlite.pruning import prune
from serving.store.sqlite.state_compatibility import agreed_us, lacks
from serving.store.sqlite.turns import Turns
from serving.store.version_counts import Counts

MOVE = "UPDATE sequence SET last = ?, clock_us = ?, newest_us = ?"


class _Log:
    """The parts of the log that follow from the subject of a use case."""

    def __init__(self, connection: sqlite3.Connection, subject: Subject) -> None:
        self.subject = subject
        self.decisions = DecisionLog(connection, subject)
        self.events = SqliteEventLog(connection, subject)
        self.feeds = {feed.name: FeedLog(connection, feed) for feed in subject.feeds}


class SqliteServingStore(ServingStore):
    """The `ServingStore` of a file. See `serving_store` for the arguments."""

    def __init__(
        self, file: Path, fsync: bool = False, patient: bool = False, in_turns: bool = False
    ) -> None:
        self.connection = open_for_writing(file, fsync, patient, in_turns)
        try:
            self._turns = Turns(file) if in_turns else None
        except OSError as error:
            self.connection.close()
            raise BadStore(f"{file} cannot be opened for writing ({error})") from error
        self._file, self._duty = file, FileLock(f"{file}.upkeep.lock")
        self._checkpoints: Checkpoints | None = None
        self._state: SqliteOnlineState | None = None
        # Within a commit: where the log stands, and what the file says of it.
        self._position: Position | None = None
        self._stored: Position | None = None
        with named_errors():
            stored = subject_of_log(self.connection)
        self._log = None if stored is None else _Log(self.connection, stored)

    @property
    def subject(self) -> Subject | None:
        """The use case of the file; None until a release was held."""
        return None if self._log is None else self._log.subject

    @property
    def state(self) -> SqliteOnlineState:
        """The online state over the same connection."""
        if self._state is None:
            raise StoreError("serving.db: no release is held, so its features are not known")
        return self._state

    def lacks(self, plan: FeaturePlan) -> list[str]:
        """By the columns of the state's tables."""
        with named_errors():
            return lacks(self.connection, plan)

    def hold(self, subject: Subject, plan: FeaturePlan) -> None:
        """Nothing is written where the file has all tables, columns and indexes already."""
        with named_errors():
            create_tables(self.connection, subject)
            if self._log is None or self._log.subject != subject:
                self._log = _Log(self.connection, subject)
            with transaction(self.connection):
                self._state = SqliteOnlineState(self.connection, plan)

    @contextlib.contextmanager
    def one_commit(self) -> Iterator[None]:
        """Takes the write lock at once. After a rebuild the state goes over to the new one."""
        try:
            with self._locked():
                yield
                if self._position is not None and self._position != self._stored:
                    self.connection.execute(MOVE, self._position)
        except sqlite3.Error as error:
            raise store_error(error) from error
        finally:
            self._position = self._stored = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        locked = transaction(self.connection) if self._state is None else self._state.transaction()
        if self._turns is None:
            with locked:
                yield
            return
        self._turns.take()
        try:
            with locked:
                self._turns.give()
                yield
        finally:
            self._turns.give()  # Where the write lock was not to be had.

    @property
    def changes(self) -> int:
        """As SQLite counts them."""
        return self.connection.total_changes

    def position(self) -> Position:
        """From the one row that counts, which is read once a commit."""
        if not self.connection.in_transaction:
            return position_of(self.connection)
        if self._position is None:
            self._position = self._stored = position_of(self.connection)
        return self._position

    def move_to(self, position: Position) -> None:
        """Into the one row that counts, which is written at the end of the commit."""
        self._position = position

    def agreed_us(self, stream: str) -> int:
        """From the index of the event times."""
        return agreed_us(self.connection, stream)

    def known(self, prediction_ids: Sequence[str]) -> frozenset[str]:
        """From the index of the ids."""
        return self._held.decisions.known(prediction_ids)

    def find(self, prediction_id: str) -> tuple[Answer, bytes] | None:
        """From the index of the ids."""
        return self._held.decisions.find(prediction_id)

    def add_decisions(self, rows: Iterable[DecisionRow]) -> None:
        """Into the table of decisions."""
        self._held.decisions.add(rows)

    def add_label(self, row: LabelRow) -> bool:
        """The index of labels says which label was there already."""
        return self._held.decisions.add_label(row)

    def add_made(self, row: LabelRow, made: Versions) -> None:
        """Into the row of the label."""
        self._held.decisions.add_made(row, made)

    def find_feed_event(self, feed: Feed, event_id: str) -> tuple[int, Mapping[str, object]] | None:
        """From the index of the feed's ids."""
        return self._held.feeds[feed.name].find(event_id)

    def add_feed_event(self, feed: Feed, row: FeedEventRow) -> None:
        """Into the table of the feed."""
        self._held.feeds[feed.name].add(row)

    def find_event(self, event_id: str) -> LoggedEvent | None:
        """From the index of the ids."""
        return self._held.events.find_event(event_id)

    def labels_of(self, event_id: str) -> list[tuple[int, bool]]:
        """From the labels of the log and those that wait."""
        return self._held.events.labels_of(event_id)

    def events_since(self, since_us: int) -> Iterator[Sequence[LoggedEvent]]:
        """A query for each few rows."""
        return self._held.events.events_since(since_us)

    def labelled_since(self, since_us: int) -> Iterator[Sequence[str]]:
        """A query for each few rows."""
        return self._held.events.labelled_since(since_us)

    def feed_events_since(self, feed: Feed, since_us: int) -> Iterator[Sequence[FeedRow]]:
        """A query for each few rows."""
        return self._held.events.feed_events_since(feed, since_us)

    def add_measured(self, now_us: int, counts: Counts) -> None:
        """In a commit."""
        with self.one_commit():
            add_measured(self.connection, now_us, counts)

    def on_duty(self) -> bool:
        """By a lock on a file beside serving.db, which the system frees when the process dies."""
        if not self._duty.is_locked:
            try:
                self._duty.acquire(timeout=0)
            except Timeout:
                return False
            except OSError as error:
                raise StoreError(f"{self._duty.lock_file}: {error}") from error
        return True

    def forget_some(self, stream: str, lateness_us: int) -> int:
        """See `prune`."""
        with named_errors():
            return 0 if self._state is None else prune(self.connection, self._state, stream, lateness_us)

    def settle_some(self) -> bool:
        """Packs keys."""
        if self._state is None or not self._state.due:
            return False
        with named_errors(), self._state.transaction():
            self._state.settle()
        return True

    def tidy(self, begin_again: Callable[[], bool]) -> int:
        """A step of the checkpoints. The journal is the WAL."""
        with named_errors():
            if self._checkpoints is None:
                self._checkpoints = Checkpoints(self.connection, self._file)
            try:
                self._checkpoints.step(begin_again)
            except OSError as error:
                raise StoreError(f"serving.db: {error}") from error
            return self._checkpoints.wal_bytes

    def begin_again(self) -> bool:
        """A checkpoint that leaves the WAL empty."""
        with named_errors():
            return begin_again(self.connection)

    def owns(self, error: Exception) -> bool:
        """Whether SQLite raised it."""
        return isinstance(error, sqlite3.Error)

    def close(self) -> None:
        """Close the connection, and leave the duty to another one."""
        self.connection.close()
        if self._turns is not None:
            self._turns.close()
        self._duty.release(force=True)

    @property
    def _held(self) -> _Log:
        if self._log is None:
            raise StoreError("serving.db: no release is held, so its columns are not known")
        return self._log
