"""The service's one file: online state, ids and log share it, so that they commit together."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.store.base import BadStore, StoreBusy, StoreError
from serving.store.sqlite.log_tables import create_tables, version_of
from serving.store.sqlite.turns import TURN_S

OPENING_TIMEOUT_MS = 10_000  # Several workers open the file at once.
# Another worker's commit takes a tenth of a millisecond. The transport waits longer, because it can do other
# work at the same time.
BUSY_TIMEOUT_MS = 5
READING_TIMEOUT_S = 10.0
MAPPED_BYTES = 1 << 30  # Of the file, read without a copy: a key's pack in half the time.
# 400 MB, some seconds of the highest rate. Only where `Checkpoints` is dead, or a reader holds old pages for
# so long, does a request's commit move pages.
EMERGENCY_CHECKPOINT_PAGES = 100_000
# Where the file of the WAL is larger, it is cut when the WAL begins again.
WAL_BYTES = 200_000_000


def open_for_writing(
    file: Path, fsync: bool = False, patient: bool = False, in_turns: bool = False
) -> sqlite3.Connection:
    """The connection to serving.db with its tables made.

    `fsync` makes each commit survive a power cut. `patient` waits 10 s for the lock of the file, for threads
    that no request waits for; others wait 5 ms, and 20 ms `in_turns`. `BadStore` where the file cannot be
    opened for writing.
    """
    busy_timeout_ms = round(TURN_S * 1_000) if in_turns else BUSY_TIMEOUT_MS
    if patient:
        busy_timeout_ms = OPENING_TIMEOUT_MS
    try:
        return _opened(file, fsync, busy_timeout_ms)
    except (OSError, sqlite3.Error) as error:
        raise BadStore(f"{file} cannot be opened for writing ({error})") from error


def _opened(file: Path, fsync: bool, busy_timeout_ms: int) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        file, timeout=OPENING_TIMEOUT_MS / 1_000, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # Readers never wait for a writer.
        connection.execute(f"PRAGMA wal_autocheckpoint = {EMERGENCY_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
        connection.execute("PRAGMA secure_delete = OFF")  # Forgetting old events would first overwrite them.
        create_tables(connection)
        SqliteOnlineState.create_tables(connection)
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_read_only(file: Path, table: str = "decisions") -> Iterator[sqlite3.Connection | None]:
    """A connection that cannot write; None where no service ever made the table.

    `BadStore` where the file cannot be read.
    """
    if not file.exists():
        yield None
        return
    place = f"{file.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(
            sqlite3.connect(place, uri=True, timeout=READING_TIMEOUT_S, isolation_level=None)
        ) as connection:
            version_of(connection)
            exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            yield connection if exists else None
    except sqlite3.DatabaseError as error:
        raise BadStore(f"{file.name} cannot be read ({error})") from error


def store_error(error: sqlite3.Error) -> StoreError:
    """The store's own error for an error of SQLite."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy("the online store is locked")
    return StoreError(f"serving.db: {error}")


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Raise the errors of SQLite as errors of the store."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error) from error
