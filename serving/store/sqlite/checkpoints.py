"""Moves commits from the WAL into the file beside the requests, and lets the WAL begin again.

Left to SQLite, a request's own commit moves 20,000 pages and waits for the disk: 30 to 210 ms. Here a
thread moves a few pages at a time (PASSIVE), and no commit waits for it. Under steady writing such passes
never reach the end of the WAL, so its file would grow for ever. `begin_again` therefore moves the last few
pages between two requests (RESTART), and the next commit goes to the front of the WAL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from feature_repo.online.sqlite.transactions import transaction
from serving.store.base import StoreBusy
from serving.store.sqlite.database import store_error

# A pass should move so many pages (4 MB). With fewer, the disk is waited for too often. With more, the pages
# of the next pass come from the disk again.
PAGES_A_PASS = 1_000
SOONEST_S, LATEST_S = 0.02, 0.5  # Between two passes.
# The WAL begins again from so many pages on (48 MB). That takes 3 to 5 ms, and a transaction writes up to 15
# pages. With a longer WAL every read looks for its page in more places, and the system has to find memory for
# the file: at 100 MB, transactions sometimes took twice as long just before it began again.
BEGIN_AGAIN_PAGES = 12_000
# It begins again at a moment when the disk is quick: the pass before took no longer.
QUICK_S = 0.01
AT_LAST = 1.25  # Times `BEGIN_AGAIN_PAGES`: from there on it begins again at any moment.
# By file. See `_Flush`.
_DESCRIPTORS: dict[tuple[int, int], int] = {}
_OPENING = threading.Lock()


class Checkpoints:
    """The passes over a file, on a connection that no request waits for.

    `step` raises the errors of SQLite, and `OSError` of the disk.
    """

    def __init__(self, connection: sqlite3.Connection, file: Path) -> None:
        self._connection = connection
        self._wal = file.with_name(f"{file.name}-wal")
        self._flush = _Flush(file)
        self._seen: tuple[int, int] | None = None
        self._moved = 0  # Pages of the WAL that the passes so far have moved.
        self._pause_s, self._next_s = SOONEST_S, 0.0

    @property
    def wal_bytes(self) -> int:
        """The size of the WAL's file; 0 where there is none."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def step(self, begin_again: Callable[[], bool]) -> None:
        """Make a pass where one is due and something was written since the last one.

        Where the WAL should begin again, `begin_again` is called. Where that returns False, a later step
        calls it again.
        """
        if time.monotonic() < self._next_s or (seen := self._writes()) == self._seen:
            return
        began_s = time.monotonic()
        pages, moved = self._pass()
        self._seen = seen
        self._pause_s = min(max(self._pause_s * PAGES_A_PASS / max(moved, 1), SOONEST_S), LATEST_S)
        if pages >= BEGIN_AGAIN_PAGES:
            quick = time.monotonic() - began_s <= QUICK_S
            self._seen, self._pause_s = None, SOONEST_S  # Also where nobody writes any more.
            if quick or pages >= AT_LAST * BEGIN_AGAIN_PAGES:
                if begin_again():
                    self._seen = self._writes()
                else:
                    self._pause_s = LATEST_S  # A reader that holds old pages may do so for long.
        elif moved and self._moved == pages and self._writes() == seen and begin_again():
            # The pass has reached the end: somebody's next commit would begin again, and wait for the disk.
            self._seen = self._writes()
        self._next_s = time.monotonic() + self._pause_s

    def _writes(self) -> tuple[int, int]:
        """A value that changes with each commit, of this connection or of another one."""
        (others,) = self._connection.execute("PRAGMA data_version").fetchone()
        return others, self._connection.total_changes

    def _pass(self) -> tuple[int, int]:
        """Move pages; returns how many the WAL holds, and about how many this pass has moved.

        Both are 0 while another process makes a pass.
        """
        _, pages, all_moved = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages < 0:
            return 0, 0
        # Fewer than before: the WAL has begun again.
        moved = all_moved - self._moved if all_moved >= self._moved else all_moved
        self._moved = all_moved
        if moved:
            self._flush()  # SQLite waits for the disk only where nobody wrote during the pass.
        return pages, moved


def begin_again(connection: sqlite3.Connection) -> bool:
    """Move the last pages under the write lock, and make the first commit into the WAL that begins again.

    The first commit changes nothing. It waits for the disk, and no request should. False where another writer
    or a reader was in the way; nothing is different then. About 1 ms, where a pass has just been made.
    """
    busy, pages, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    if busy or pages < 0:
        return False
    try:
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {version}")
    except sqlite3.OperationalError as error:
        if not isinstance(store_error(error), StoreBusy):
            raise
        # Another process holds the lock, and its commit is the first.
    return True


class _Flush:
    """Waits until what was moved into the file is on the disk.

    Otherwise the pass under the write lock would wait for the pages of all passes before it. The descriptor
    is shared by the process and is never closed: POSIX would drop the locks that SQLite has on the file.
    """

    def __init__(self, file: Path) -> None:
        with _OPENING:
            found = os.stat(file)
            key = (found.st_dev, found.st_ino)
            if key not in _DESCRIPTORS:
                _DESCRIPTORS[key] = os.open(file, os.O_RDONLY)
            self._descriptor = _DESCRIPTORS[key]

    def __call__(self) -> None:
        os.fdatasync(self._descriptor)
