"""The service's one file: online state, ids and log share it, so that they commit together."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.bundle import Release
from serving.store.sqlite.log_tables import LogError, create_tables
from serving.store.sqlite.pruning import prune
from serving.store.sqlite.state_compatibility import missing
from serving.store.sqlite.version_counts import Tally

OPENING_TIMEOUT_MS = 10_000  # several workers open the file at once
# Another worker's commit takes a tenth of a millisecond; longer waits are the transport's, which can do other
# work meanwhile
BUSY_TIMEOUT_MS = 5
# Left to SQLite, every thousandth page is checkpointed inside somebody's commit and waits for the disk (p99 5
# ms, with the thread 0.5).
TIDY_EVERY_S = 0.5
MAPPED_BYTES = 1 << 30  # of the file, read without a copy: a key's pack in half the time
PRUNE_PAUSE_S = 0.02  # between two commits of deletions, so that requests get their turn
AUTOMATIC_CHECKPOINT_PAGES = 20_000  # 80 MB; by then a commit has only the last few pages left to move

logger = logging.getLogger("serving.store.sqlite.database")


def open_database(
    database: Path, fsync: bool = False, busy_timeout_ms: int = BUSY_TIMEOUT_MS
) -> sqlite3.Connection:
    """The connection to serving.db, its tables made; `LogError` where it cannot be opened for writing.

    WAL: readers never wait for a writer.
    """
    try:
        return _opened(database, fsync, busy_timeout_ms)
    except (OSError, sqlite3.Error) as error:
        raise LogError(f"{database} cannot be opened for writing ({error})") from error


def _opened(database: Path, fsync: bool, busy_timeout_ms: int) -> sqlite3.Connection:
    database.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        database, timeout=OPENING_TIMEOUT_MS / 1_000, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOMATIC_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
    connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
    connection.execute("PRAGMA secure_delete = OFF")  # forgetting old events would first write over them
    create_tables(connection)
    SqliteOnlineState.create_tables(connection)
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    return connection


def state_check(database: Path, fsync: bool = False) -> Callable[[Release], list[str]]:
    """For the follower's thread, over a connection of its own: reasons why the file cannot serve a release.

    Where it can, the log's tables and the state's indexes are made here, and not while a request waits.
    """

    def reasons_against(release: Release) -> list[str]:
        with contextlib.closing(open_database(database, fsync, OPENING_TIMEOUT_MS)) as connection:
            reasons = missing(connection, release.plan)
            if reasons:
                return reasons
            try:
                create_tables(connection, release.subject)
            except LogError as error:
                return [str(error)]
            SqliteOnlineState(connection, release.plan)
            return []

    return reasons_against


def tidy_until(
    stop: threading.Event,
    database: Path,
    release: Callable[[], Release | None],
    tally: Tally,
    fsync: bool = False,
) -> None:
    """For a thread, so that no request has to do it, until `stop` is set.

    Writes what was counted, moves what was committed from the WAL into the file, and forgets what no window
    of the release reaches.
    """
    connection = open_database(database, fsync, OPENING_TIMEOUT_MS)

    def pause() -> bool:
        # The deletions would fill the WAL otherwise, and a request empty it.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return stop.wait(PRUNE_PAUSE_S)

    with contextlib.closing(connection):
        last = False
        while not last:
            last = stop.wait(TIDY_EVERY_S)
            try:
                tally.write(connection, time.time_ns() // 1_000)
                if current := release():
                    stream = current.subject.event.dataset
                    prune(connection, current.plan, stream, current.bounds.lateness_us, pause)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.OperationalError as error:
                logger.warning("tidying serving.db has to wait: %s", error)
