"""A rebuild of the online state in the service's file, with the replay of the log."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.rebuild import OnlineRebuild
from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.events import EventRules
from serving.contract.subject import Subject
from serving.store.sqlite.database import named_errors
from serving.store.sqlite.event_log import SqliteEventLog
from serving.store.sqlite.log_tables import create_tables

BUSY_TIMEOUT_S = 60.0
PAUSE_S = 0.001  # Between two small commits, so that a waiting request gets the lock.
# With more checkpoints the rebuild waits for the disk. With fewer, the WAL grows until the rebuild ends.
COMMITS_A_CHECKPOINT = 50
# The cache holds the tables that are being filled; `_Pause` does the checkpoints.
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "wal_autocheckpoint = 0",
    "cache_size = -400000",
    "mmap_size = 1073741824",
)


class SqliteStateRebuild(OnlineRebuild):
    """The `StateRebuild` of a file, over a connection that nobody else uses."""

    def __init__(self, connection: sqlite3.Connection, subject: Subject, plan: FeaturePlan) -> None:
        super().__init__(connection, plan, _Pause(connection))
        self._rules, self._log = EventRules(subject), SqliteEventLog(connection, subject)

    def keep_waiting(self, labels: Iterable[tuple[str, int, bool]]) -> None:
        """In one commit."""
        with self.transaction():
            self._log.keep_waiting(labels)

    def replay(self, since_us: int, maturity_us: int) -> int:
        """In small commits. Events that the state has already are not changed."""
        state, replayed = self.serving(), 0
        steps = self._rules.replay(self._log, state, since_us, maturity_us)
        while True:
            with self.transaction():
                state.follow()
                rows = next(steps, None)
            if rows is None:
                return replayed
            replayed += rows
            time.sleep(PAUSE_S)

    def serving(self) -> SqliteOnlineState:
        """Over the same connection."""
        return SqliteOnlineState(self._connection, self._plan)


@contextlib.contextmanager
def rebuilding(file: Path, subject: Subject, plan: FeaturePlan) -> Iterator[SqliteStateRebuild]:
    """A rebuild of the state in a file, which is made where it is missing.

    `RebuildError` while another rebuild of the file runs, `BadStore` for the log of another use case,
    `StoreError` for whatever SQLite refuses.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        named_errors(),
        contextlib.closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection,
    ):
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        create_tables(connection, subject)
        rebuild = SqliteStateRebuild(connection, subject, plan)
        with rebuild:
            yield rebuild


class _Pause:
    """Called between two commits. Lets others write, and moves what was committed into the file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self._commits = connection, 0

    def __call__(self) -> None:
        self._commits += 1
        if self._commits % COMMITS_A_CHECKPOINT == 0:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        time.sleep(PAUSE_S)
