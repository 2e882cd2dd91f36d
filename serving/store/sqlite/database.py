"""The service's one file: online state, ids and log share it, so that they commit together."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.bundle import Release
from serving.settings import ServingSettings
from serving.store.sqlite import decision_log
from serving.store.sqlite.pruning import prune
from serving.store.sqlite.state_compatibility import missing
from serving.store.sqlite.version_counts import Tally

OPENING_TIMEOUT_MS = 10_000  # several workers open the file at once
# another worker's commit takes a tenth of a millisecond; longer waits are the transport's, which can do other
# work meanwhile
BUSY_TIMEOUT_MS = 5
# Left to SQLite, every thousandth page is checkpointed inside somebody's commit and waits for the disk (p99 5
# ms, with the thread 0.5).
TIDY_EVERY_S = 0.5
MAPPED_BYTES = 1 << 30  # of the file, read without a copy: a customer's pack in half the time
PRUNE_PAUSE_S = 0.02  # between two commits of deletions, so that payments get their turn
AUTOMATIC_CHECKPOINT_PAGES = 20_000  # 80 MB; by then a commit has only the last few pages left to move

logger = logging.getLogger("serving.store.sqlite.database")


def open_database(settings: ServingSettings, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
    """The connection to serving.db, its tables made; `LogError` where it cannot be opened for writing.

    WAL: readers never wait for a writer.
    """
    try:
        return _opened(settings, busy_timeout_ms)
    except (OSError, sqlite3.Error) as error:
        raise decision_log.LogError(f"{settings.database} cannot be opened for writing ({error})") from error


def _opened(settings: ServingSettings, busy_timeout_ms: int) -> sqlite3.Connection:
    settings.folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        settings.database, timeout=OPENING_TIMEOUT_MS / 1_000, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOMATIC_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if settings.fsync else 'NORMAL'}")
    connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
    connection.execute("PRAGMA secure_delete = OFF")  # forgetting old events would first write over them
    decision_log.create_tables(connection)
    SqliteOnlineState.create_tables(connection)
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    return connection


def state_check(settings: ServingSettings) -> Callable[[FeaturePlan], list[str]]:
    """For the follower's thread, through a connection of its own: reasons why the stored state cannot serve a
    plan.

    Where it can, its indexes are made here, and not while a payment waits.
    """

    def reasons_against(plan: FeaturePlan) -> list[str]:
        connection = open_database(settings, OPENING_TIMEOUT_MS)
        try:
            reasons = missing(connection, plan)
            if not reasons:
                SqliteOnlineState(connection, plan)
            return reasons
        finally:
            connection.close()

    return reasons_against


def tidy_until(
    stop: threading.Event, settings: ServingSettings, release: Callable[[], Release | None], tally: Tally
) -> None:
    """For a thread: writes what was counted, moves what was committed from the WAL into the file, and forgets
    what no window of the release reaches; so no payment has to.
    """
    connection = open_database(settings, OPENING_TIMEOUT_MS)

    def pause() -> bool:
        connection.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        )  # or the deletions would fill the WAL, and a payment empty it
        return stop.wait(PRUNE_PAUSE_S)

    with contextlib.closing(connection):
        last = False
        while not last:
            last = stop.wait(TIDY_EVERY_S)
            try:
                tally.write(connection, time.time_ns() // 1_000)
                if current := release():
                    prune(connection, current.plan, current.bounds.lateness_us, pause)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.OperationalError as error:
                logger.warning("tidying serving.db has to wait: %s", error)
