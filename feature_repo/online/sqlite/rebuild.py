"""A new online state, filled beside the state that serves.

The rebuild writes in small commits while other connections read and write. One commit then puts the new state
in the place of the old state.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice, repeat
from types import TracebackType
from typing import TypeVar

from filelock import FileLock, Timeout

from feature_repo.engine.plan import FeaturePlan
from feature_repo.errors import FeatureError
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded
from feature_repo.online.lake_events import columns_of, events_of, reachable_days
from feature_repo.online.sqlite import generations, versions
from feature_repo.online.sqlite.generations import Generation, tables_of
from feature_repo.online.sqlite.packs import PackedView
from feature_repo.online.sqlite.queries import table_name
from feature_repo.online.sqlite.transactions import transaction

# How long a commit may hold the write lock, which requests need. The rebuild measures how many rows fit.
COMMIT_S = 0.004
# The same where nobody else writes. A page that many rows share is then written once, which halves the
# time for a million events.
QUIET_COMMIT_S = 0.1
QUIET_AFTER_S = 5.0  # Without a foreign commit for so long, nobody else writes.
FIRST, LARGEST = 20, 20_000  # Rows in the first commit, and the most rows in any.
PAGE = 500  # Rows read at a time, without a lock.
T = TypeVar("T")


class RebuildError(FeatureError):
    """A rebuild that cannot begin. The message says why, and what to do."""


class OnlineRebuild:
    """A rebuild of the online state, as a block.

    `with OnlineRebuild(...) as r: r.load_lake(lake); r.carry_over(since_us); r.pack(at_us); r.switch()`.

    The old state goes on serving where the block ends without a switch, and where the process dies. The
    rebuild needs a connection of its own to a file, with `isolation_level=None`. `pause` is called between
    two commits, when no lock is held. From the beginning on, every event that anybody pushes or removes goes
    to both states. The lake does not bring a removed event back.

    Raises `RebuildError` for any other connection, and on entering while another rebuild of the file runs.
    """

    def __init__(
        self, connection: sqlite3.Connection, plan: FeaturePlan, pause: Callable[[], None] = lambda: None
    ) -> None:
        self._connection, self._plan, self._pause = connection, plan, pause
        path = next(row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main")
        if not path or connection.isolation_level is not None:
            raise RebuildError(
                "a rebuild needs a database in a file, and a connection without transactions of its own"
                " (isolation_level=None)"
            )
        self._lock = FileLock(f"{path}.rebuild.lock")  # The system frees the lock when the process dies.
        self._version, self._disturbed = self._data_version(), -math.inf

    def __enter__(self) -> OnlineRebuild:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RebuildError(
                f"{self._lock.lock_file}: another rebuild is running;"
                " give the command again when it has ended"
            ) from None
        try:
            # Otherwise SQLite overwrites deleted pages, under the write lock.
            self._connection.execute("PRAGMA secure_delete = OFF")
            generations.create_tables(self._connection)
            self._abandon()  # The tables of a rebuild that died.
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._abandon()
        finally:
            self._lock.release()

    def load_lake(self, lake: Lake, until_day: str | None = None) -> dict[str, int]:
        """Load the validated days that a window can still reach on the lake's last day, or on `until_day`.

        Returns the number of events by stream.
        """
        loaded = {}
        for stream, days in reachable_days(self._plan, lake, until_day).items():
            wanted = columns_of(self._plan, stream, self._new.streams[stream].stored)
            loaded[stream] = sum(
                self.load(stream, events_of(self._plan, stream, wanted, lake.read(stream, [day])))
                for day in days
            )
        return loaded

    def load(self, stream: str, events: Iterable[Loaded]) -> int:
        """Load events into the new state, except events that were removed since the rebuild began.

        Returns the number of loaded events. Raises what `OnlineState.load` raises.
        """
        known = self._new.streams[stream]
        rows = (
            (event_id, event_us, created_us, *known.values(event))
            for event_id, event, event_us, created_us in events
        )
        return self._in_small_commits(rows, partial(self._load, stream))

    def remove(self, stream: str, event_ids: Iterable[str]) -> int:
        """Take events out of the new state. Returns the number of events that were there."""
        return self._in_small_commits(
            event_ids, lambda batch: sum(self._new.take(stream, event_id) for event_id in batch)
        )

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the new state's events from `from_us` up to, not including, `to_us`."""
        return self._new.ids(stream, from_us, to_us)

    def carry_over(self, since_us: int) -> dict[str, int]:
        """Copy the events that the old state learnt at or after `since_us` and that the new state lacks.

        Returns the number of events by stream.
        """
        return {
            stream: self._in_small_commits(self._missing(stream, since_us), self._copy(stream))
            for stream in self._new.streams
        }

    def pack(self, at_us: int) -> None:
        """Pack every key for questions from `at_us` on."""
        for packed in self._new.packed.values():
            keys = self._keys(self._new.streams[packed.view.stream].table, packed.view.entity)
            self._in_small_commits(keys, partial(self._refresh, packed, at_us))

    def switch(self) -> None:
        """Let the new state serve. Each connection changes to it with its next `follow`."""
        with self.transaction():
            versions.begin_epoch(self._connection)
            self._connection.execute(
                "UPDATE online_generation SET current = building, building = NULL WHERE building = ?",
                (self._new.number,),
            )

    def sweep(self) -> None:
        """Empty and drop the tables of the generations that no longer serve, and forget their versions.

        The end of the block does it in any case. Readers that never call `follow` should have ended by then.
        """
        standing = generations.standing(self._connection)
        last = self._connection.execute("SELECT last FROM online_generation").fetchone()[0]
        for number in set(range(last + 1)) - set(standing):
            for table in tables_of(self._connection, number):
                for index in [
                    row[1] for row in self._connection.execute(f"PRAGMA index_list({table})") if row[3] == "c"
                ]:
                    # This takes 30 ms for a million rows. Emptying is a tenth of the work without indexes.
                    self._connection.execute(f"DROP INDEX {index}")
                    self._pause()
                self._empty(table)
                self._connection.execute(f"DROP TABLE {table}")
        forgotten = repeat(None, versions.before_epoch(self._connection))
        self._in_small_commits(
            forgotten, lambda batch: versions.forget_before_epoch(self._connection, len(batch))
        )

    def _begin(self) -> None:
        """Make the new generation, with all columns and indexes that any plan gave the old generation."""
        with self.transaction():
            current, last = self._connection.execute("SELECT current, last FROM online_generation").fetchone()
            number = last + 1
            self._old = Generation(self._connection, self._plan, current)
            for stream in self._old.streams.values():
                there = (
                    "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"
                )
                for (sql,) in self._connection.execute(there, (stream.table,)).fetchall():
                    self._connection.execute(sql.replace(stream.table, table_name(stream.name, number)))
            self._new = Generation(self._connection, self._plan, number)
            self._connection.execute(
                f"CREATE TABLE {self._new.removed} (stream TEXT, event_id TEXT, PRIMARY KEY (stream,"
                " event_id)) WITHOUT ROWID"
            )
            self._connection.execute("UPDATE online_generation SET building = ?, last = ?", (number, number))

    def _abandon(self) -> None:
        with self.transaction():
            self._connection.execute(
                "UPDATE online_generation SET building = NULL WHERE building IS NOT NULL"
            )
        self.sweep()

    def _load(self, stream: str, rows: Sequence[Sequence[object]]) -> int:
        removed = {
            i
            for (i,) in self._connection.execute(
                f"SELECT event_id FROM {self._new.removed} WHERE stream = ?", (stream,)
            )
        }
        kept = [row for row in rows if row[0] not in removed]
        self._new.load(stream, kept)
        return len(kept)

    def _missing(self, stream: str, since_us: int) -> Iterator[str]:
        old, new = self._old.streams[stream].table, self._new.streams[stream].table
        lacking = f"NOT EXISTS (SELECT 1 FROM {new} WHERE {new}.event_id = {old}.event_id)"
        newer = f"event_id > ? AND created_us >= {since_us:d} AND {lacking}"
        return self._paged(f"SELECT event_id FROM {old} WHERE {newer} ORDER BY event_id LIMIT {PAGE}")

    def _copy(self, stream: str) -> Callable[[Sequence[str]], int]:
        old, new = self._old.streams[stream].table, self._new.streams[stream].table
        columns = ", ".join(row[1] for row in self._connection.execute(f"PRAGMA table_info({old})"))
        copy = (
            f"INSERT OR IGNORE INTO {new} ({columns}) SELECT {columns} FROM {old} WHERE event_id = ?"
            " RETURNING *"
        )

        def copied(event_ids: Sequence[str]) -> int:
            # Under the write lock, so that an event that is removed during the copy is in neither state.
            rows = [
                row
                for event_id in event_ids
                for row in self._connection.execute(copy, (event_id,)).fetchall()
            ]
            for row in rows:
                self._new.forget_late(stream, row)
            return len(rows)

        return copied

    def _refresh(self, packed: PackedView, at_us: int, keys: Sequence[str]) -> int:
        return sum(packed.refresh(self._connection, key, at_us) for key in keys)

    def _keys(self, table: str, entity: str) -> Iterator[str]:
        return self._paged(f"SELECT min({entity}) FROM {table} WHERE {entity} > ?")

    def _empty(self, table: str) -> None:
        key = ", ".join(
            [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})") if row[5]] or ["rowid"]
        )
        some = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} LIMIT ?)"
        rows = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        self._in_small_commits(
            repeat(None, rows), lambda batch: self._connection.execute(some, (len(batch),)).rowcount
        )

    def _paged(self, query: str) -> Iterator[str]:
        """The values of one column in their order, read a page at a time.

        `query` takes the last value of the page before.
        """
        last = ""
        while page := [
            value for (value,) in self._connection.execute(query, (last,)).fetchall() if value is not None
        ]:
            yield from page
            last = page[-1]

    def _in_small_commits(self, items: Iterable[T], write: Callable[[list[T]], int]) -> int:
        """Write all items, with as many in a commit as its time allows.

        Returns the sum of the results of the writes.
        """
        rest, size, total = iter(items), FIRST, 0
        while batch := list(islice(rest, size)):
            with self.transaction():
                started = time.perf_counter()
                total += write(batch)
            took = time.perf_counter() - started
            size = max(1, min(LARGEST, int(size * min(2.0, self._budget_s() / took))))
            self._pause()
        return total

    def _budget_s(self) -> float:
        if (version := self._data_version()) != self._version:
            self._version, self._disturbed = version, time.monotonic()
        return COMMIT_S if time.monotonic() < self._disturbed + QUIET_AFTER_S else QUIET_COMMIT_S

    def _data_version(self) -> int:
        """A number that changes whenever another connection has committed."""
        found: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return found

    def transaction(self) -> AbstractContextManager[None]:
        """One commit on the rebuild's own connection, or nothing of it."""
        return transaction(self._connection)
