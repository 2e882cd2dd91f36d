"""Packs, newest events, event times and versions in memory. What was asked before reads no file.

What is held is what the file holds, at every moment at which it is used:

- It is used within `SqliteOnlineState.transaction`, which holds the write lock. Nobody else can write then.
- Before that, another connection or another user of this connection may have written. Both are seen, and
  everything is dropped.
- The state's own writes change what is held. Where they are undone, the keys that they touched are dropped.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from feature_repo.engine.functions.terms import LEAST, MOST

# Of one process. The keys whose last question is longest ago are dropped.
MOST_BYTES = 128_000_000
MOST_ENDS = 100_000  # Of a stream. About 20 MB more.
MOST_VERSIONS = 100_000  # About 15 MB more.
# Of a key, with what Python needs for a tuple, and of each of its events.
KEY_BYTES, EVENT_BYTES = 600, 250

# Event times of a stream that are read at once, after the moment of a question.
TIMES = 256

Row = tuple[Any, ...]
Name = tuple[int, str | None]  # A view's id and a key.


@dataclass(slots=True)
class Held:
    """The pack of a key, and every event that happened from `from_us` up to, not including, `until_us`.

    `pack` is the opened row of its table, None where the key has none. `rows` are the events, newest first:
    the time, the columns of the view, the time of creation. From `late_us` on, what has happened is known.
    """

    pack: Row | None
    from_us: int
    until_us: int
    late_us: int
    rows: tuple[Row, ...]
    size: int = 0  # In bytes.


class Memory:
    """What one connection holds of the keys of a generation."""

    def __init__(self, connection: sqlite3.Connection, most_bytes: int = MOST_BYTES) -> None:
        self.holds = False  # Whether anything may be used and kept now.
        self._connection, self._most_bytes = connection, most_bytes
        self._held: OrderedDict[Name, Held] = OrderedDict()
        self._bytes = 0
        self._touched: set[Name] = set()
        # By stream and key: no pack ends after this moment. The moment may be too late, which costs a query.
        # It is never too early.
        self._ends: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._new_ends: set[tuple[str, str]] = set()  # Kept in the open transaction.
        self._versions: dict[tuple[int, str], int] = {}
        # By stream: the times of all events from the first of them up to a moment, sorted, and that moment.
        self._times: dict[str, tuple[list[int], int]] = {}
        self._version = self._changes = -1
        self._begun = False

    def begin(self) -> bool:
        """At the beginning of a transaction, under the write lock.

        Returns whether nobody else has written since the last transaction. Where somebody has, nothing is
        held in this one either: two processes that write in turns would fill the memory for nothing.
        """
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        self.holds = version == self._version and self._connection.total_changes == self._changes
        self._version, self._begun = version, True
        if not self.holds:
            self._drop_all()
        return self.holds

    def end(self) -> None:
        """After the transaction was committed or undone, or could not begin."""
        if not self._begun:
            return
        self.holds = self._begun = False
        self._touched.clear()
        self._new_ends.clear()
        self._changes = self._connection.total_changes

    def undo(self) -> None:
        """The writes of the transaction were undone."""
        for name in self._touched:
            self._drop(name)
        for stream, key in self._new_ends:
            self._ends[stream].pop(key, None)
        self._versions.clear()
        self._times.clear()

    def forget(self) -> None:
        """Drop everything, and hold nothing until the next transaction."""
        self.holds = False
        self._drop_all()

    def get(self, name: Name) -> Held | None:
        """What is held of a key; None where nothing is."""
        if not self.holds:
            return None
        held = self._held.get(name)
        if held is not None:
            self._held.move_to_end(name)
        return held

    def keep(self, name: Name, held: Held) -> None:
        """Hold what was read of a key, or what is in the file after a write to a touched key."""
        if not self.holds:
            return
        self._drop(name)
        held.size = KEY_BYTES + EVENT_BYTES * len(held.rows)
        if held.pack is not None:
            held.size += 8 * len(held.pack[5]) + len(held.pack[6])  # Most times are narrower than 8 bytes.
        self._held[name] = held
        self._bytes += held.size
        while self._bytes > self._most_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.size

    def grow(self, held: Held, event: Row) -> None:
        """Add an event to what is held of a key."""
        rows = held.rows
        if rows and event[0] < rows[0][0]:
            held.rows = tuple(sorted((event, *rows), key=itemgetter(0), reverse=True))
        else:
            held.rows = (event, *rows)
        if event[-1] > event[0]:
            held.late_us = max(held.late_us, event[-1])
        held.size += EVENT_BYTES
        self._bytes += EVENT_BYTES

    def touch(self, name: Name) -> Held | None:
        """What is held of a key that is about to be written."""
        if not self.holds:
            return None
        self._touched.add(name)
        return self._held.get(name)

    def drop(self, names: Sequence[Name]) -> None:
        """Some keys were written, so that what is held of them is no longer in the file."""
        for name in names if self.holds else ():
            self._touched.add(name)
            self._drop(name)

    def ends_by(self, stream: str, keys: Sequence[str | None], moment_us: int) -> bool:
        """Whether it is certain that no pack of the keys ends after a moment."""
        if not self.holds:
            return False
        ends = self._ends[stream]
        return max([ends.get(key, MOST) for key in keys if key is not None], default=LEAST) <= moment_us

    def keep_end(self, stream: str, key: str, upto_us: int) -> None:
        """No pack of the key ends after a moment."""
        if self.holds:
            ends = self._ends[stream]
            if len(ends) >= MOST_ENDS:
                ends.clear()
            ends[key] = upto_us
            self._new_ends.add((stream, key))

    def raise_end(self, stream: str, key: str, upto_us: int) -> None:
        """A pack of the key was written, which ends at a moment."""
        ends = self._ends[stream]
        if upto_us > ends.get(key, MOST):
            ends[key] = upto_us

    def newest_before(self, stream: str, at_us: int) -> int | None:
        """The time of the stream's newest event before a moment; None where it is not held."""
        if not self.holds or stream not in self._times:
            return None
        times, until_us = self._times[stream]
        return times[bisect_left(times, at_us) - 1] if times[0] < at_us <= until_us else None

    def keep_times(self, stream: str, times: list[int]) -> None:
        """The times of the stream's events from one of them on, sorted; of more than `TIMES`, the first."""
        if self.holds:
            self._times[stream] = (times, MOST if len(times) <= TIMES else times[-1])

    def add_time(self, stream: str, event_us: int) -> None:
        """An event of the stream was added."""
        if self.holds and stream in self._times:
            times, until_us = self._times[stream]
            if times[0] <= event_us < until_us:
                insort(times, event_us)
                if len(times) > 4 * TIMES:
                    del times[: 2 * TIMES]

    def forget_times(self, stream: str, before_us: int = MOST) -> None:
        """Events of the stream from before a moment were removed."""
        if stream in self._times and self._times[stream][0][0] < before_us:
            del self._times[stream]

    @property
    def versions(self) -> Mapping[tuple[int, str], int]:
        """The versions that are held of histories, by the number and the key of a history."""
        return self._versions if self.holds else {}

    def keep_versions(self, versions: Mapping[tuple[int, str], int]) -> None:
        """Hold the versions that some histories have in the file."""
        if self.holds:
            if len(self._versions) >= MOST_VERSIONS:
                self._versions.clear()
            self._versions.update(versions)

    def _drop(self, name: Name) -> None:
        if (held := self._held.pop(name, None)) is not None:
            self._bytes -= held.size

    def _drop_all(self) -> None:
        if self._held:
            self._held.clear()
            self._bytes = 0
        self._ends.clear()
        self._versions.clear()
        self._times.clear()
