"""Packs: the older events of a key as suffix aggregates. A question reads one row and a few events.

Without packs a question would read all events of ninety days. A pack covers all events of a key before
`upto_us`. It has one entry for each event, or for each tile in a tiled view. Each entry holds the aggregates
from there to the end of the pack.

Every window ends after the pack, so it takes one such suffix, which a bisection finds. The bounds of windows
lie between tiles. A tile is therefore in a window as a whole or not at all. The last tile of a pack may be
incomplete.

The newest events stay out of the pack, in the tail, so that a question about an earlier moment still finds a
pack that ends before it. Packs are a cache. A lost pack costs time and changes no answer.
"""

from __future__ import annotations

import hashlib
import sqlite3
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.functions.terms import LEAST, MOST, NOTHING
from feature_repo.engine.plan import Aggregate, ViewPlan
from feature_repo.online.base import Value
from feature_repo.online.pack_format import Pack, decode, encode, entry_of
from feature_repo.online.pack_terms import PackedWindow, is_packed, merged_suffixes, terms_of
from feature_repo.online.sqlite.memory import Held, Memory, Row
from feature_repo.online.tail_terms import TailTerms

# With more events than this in the tail, a new pack is made. As measured, a row of the tail costs 0.3 to
# 1 µs in each question, and a new pack costs 110 to 200 µs once.
TAIL = 16
KEPT = 4  # Events that a new pack leaves in the tail.
FEW = 48  # A key with no more events than this needs no pack.
# Events that are held in memory of a key, with those that the service already knows and that happen later.
HELD = 64
BIGGEST = 2**62  # The greatest sum of a suffix. The sum of two of them still fits 64 bits.


def create_table(connection: sqlite3.Connection, table: str) -> None:
    """Make a table of packs where there is none."""
    # The table has a rowid. Without a rowid, the inner pages would hold a part of every body, and the tree
    # would have seven levels instead of three.
    times = "upto_us INTEGER, latest_us INTEGER, newest_us INTEGER, start INTEGER"
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table} (key TEXT, view INTEGER, stream TEXT, {times}, layout TEXT,"
        " times BLOB, body BLOB, UNIQUE (key, view))"
    )


class KeyPacks:
    """Reads all packs of a key at once, for the views that a question asks about this key."""

    def __init__(self, table: str, streams: Sequence[str], memory: Memory) -> None:
        self.table, self._streams, self._memory = table, streams, memory
        self._read = (
            "SELECT stream, view, upto_us, latest_us, newest_us, start, layout, times, body"
            f" FROM {table} WHERE key = ?"
        )
        self._asked_by: defaultdict[str, list[PackedView]] = defaultdict(list)

    def add(self, packed: PackedView) -> None:
        """A view of the plan."""
        self._asked_by[packed.view.asked_by].append(packed)

    def hold(self, connection: sqlite3.Connection, view: PackedView, key: str | None, at_us: int) -> Held:
        """Read a key into the memory, for a view and for the other views of which nothing is held.

        The memory also learns when the packs of the key end, of whatever plan they are.
        """
        packs: dict[int, Row] = {}
        if key is not None:
            ends = dict.fromkeys(self._streams, LEAST)
            for stream, number, *pack in connection.execute(self._read, (key,)).fetchall():
                packs[number] = _opened(pack)
                if pack[0] > ends.get(stream, MOST):
                    ends[stream] = pack[0]
            for stream, upto_us in ends.items():
                self._memory.keep_end(stream, key, upto_us)
        for other in self._asked_by[view.view.asked_by]:
            if other is not view and self._memory.get((other.id, key)) is None:
                other.hold(connection, key, at_us, packs.get(other.id))
        return view.hold(connection, key, at_us, packs.get(view.id))


class PackedView:
    """One view over one table of events, answered from packs."""

    def __init__(
        self, view: ViewPlan, events: str, stored: Sequence[str], packs: KeyPacks, memory: Memory
    ) -> None:
        self.view, self.unit, self.memory, self._packs = view, view.hop_us or 1, memory, packs
        packs.add(self)
        self.terms = terms_of(view)
        self.nothing = tuple(NOTHING[t.kind] for t in self.terms)
        self.reach_us = max(a.window_us for a in view.aggregates if is_packed(view, a))
        columns = ("event_us", *view.columns)
        windows = [
            PackedWindow(w, view, self.terms, columns) for w in sorted({a.window_us for a in view.aggregates})
        ]
        self.windows = [(w.window_us, w.finishers, w.listed) for w in windows]
        self.tail_terms = TailTerms(self.terms, columns)
        meaning = repr((view.name, view.stream, view.entity, view.hop_us, self.reach_us, self.terms))
        self.id = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:6], "big")
        self.read = (
            f"SELECT upto_us, latest_us, newest_us, start, layout, times, body FROM {packs.table}"
            f" WHERE key = ? AND view = {self.id}"
        )
        select = f"SELECT {', '.join(columns)}"
        of_key = f"FROM {events} WHERE {view.entity} = ? AND event_us >= ? AND event_us < ?"
        creation = ", created_us" if any(a.computed_by.by_creation for a in view.aggregates) else ""
        self.tail = f"{select}{creation} {of_key} AND created_us <= ? ORDER BY event_us DESC LIMIT ?"
        self.between = f"{select}, created_us {of_key} ORDER BY event_us DESC"
        self.single = f"{select}, created_us FROM {events} WHERE event_id = ?"
        self.newer = (
            f"{select}, created_us FROM {events} WHERE {view.entity} = ? AND event_us >= ? ORDER BY event_us"
            " LIMIT ?"
        )
        # Of a row of all columns: the key, and what is held of it.
        self._key = stored.index(view.entity)
        self._of_row = itemgetter(*(stored.index(c) for c in (*columns, "created_us")))
        fields = ("upto_us", "latest_us", "newest_us", "start", "layout", "times", "body")
        places = f"(?, {self.id}, '{view.stream}', {', '.join('?' * len(fields))})"
        replaced = ", ".join(f"{f} = excluded.{f}" for f in fields)
        self.write = (
            f"INSERT INTO {packs.table} (key, view, stream, {', '.join(fields)}) VALUES {places}"
            f" ON CONFLICT (key, view) DO UPDATE SET {replaced}"
        )
        self.delete = f"DELETE FROM {packs.table} WHERE key = ? AND view = {self.id}"
        self.noted: dict[str, int] = {}  # Keys whose tail is too long, each with the moment of the question.

    def answer(
        self, connection: sqlite3.Connection, key: str | None, at_us: int, result: dict[str, Value]
    ) -> Sequence[Aggregate]:
        """Put the view's features into `result`. Returns the aggregates that the packs cannot answer.

        All aggregates are returned where the pack is newer than the question, and where a key with many
        events has no pack.
        """
        pack, upto_us, tail = self._read(connection, key, at_us)
        if pack is None:
            entries = 0
        elif upto_us > at_us or pack[1] > at_us:
            return self.view.aggregates
        else:
            _, _, newest_us, start, entry, times, body = pack
            entries, size = len(times), entry.size
        if (events := len(tail)) > TAIL and key is not None:
            self.noted[key] = at_us
            if pack is None and events > FEW:
                return self.view.aggregates
        moments, suffixes = self.tail_terms.suffixes(tail) if events else ((), ())
        hop_us, unit, nothing = self.view.hop_us, self.unit, self.nothing
        left: list[Aggregate] = []
        # Of a window: its events in the tail, and its place in the pack. Each window is longer than the last.
        count, place = 0, entries
        of_pack, of_tail, newest = nothing, nothing, None
        for window_us, finishers, listed in self.windows:
            lower_us = at_us - window_us
            if hop_us:
                lower_us -= lower_us % hop_us
            if count < events and moments[count] >= lower_us:
                while count < events and moments[count] >= lower_us:
                    count += 1
                of_tail, newest = suffixes[count - 1], moments[0]
            if place and lower_us < upto_us:
                first = bisect_left(times, (lower_us - start) // unit, 0, place)
                if first < place:
                    place, of_pack = first, entry.unpack_from(body, first * size)
                    if newest is None:
                        newest = newest_us
            for name, finish in finishers:
                result[name] = finish(of_pack, of_tail, newest, at_us)
            for feature in listed:
                if lower_us < upto_us:
                    left.append(feature.aggregate)
                else:
                    result[feature.aggregate.name] = feature.of_rows(tail[:count], at_us)
        return left

    def put(self, row: Sequence[Any]) -> None:
        """An event was added to the table. `row` has all its columns. Its key is held with the event."""
        if (key := row[self._key]) is None:
            return
        if (held := self.memory.touch(name := (self.id, key))) is None:
            return
        if row[1] < held.from_us:
            self.memory.drop([name])  # The pack changes, or the event is too old to be held.
        elif row[1] < held.until_us:
            self.memory.grow(held, self._of_row(row))
            if len(held.rows) > HELD:
                _limit(held)

    def refresh(self, connection: sqlite3.Connection, key: str, at_us: int) -> bool:
        """Pack the events of a key that are known at a moment, except the newest events.

        False where there is nothing to do, or where the key cannot be packed.
        """
        old = self._load(connection, key)
        if old is not None and old.upto_us > at_us:
            return False
        events = connection.execute(self.between, (key, old.upto_us if old else LEAST, at_us)).fetchall()
        if len(events) <= TAIL:
            return False
        # An event that is not known yet at that moment stays out of the pack, with all events after it.
        upto_us = min(
            (events[KEPT - 1][0], *(event_us for event_us, *_, created_us in events if created_us > at_us))
        )
        events = [e for e in events if e[0] < upto_us]
        return bool(events) and self._add(connection, key, old, events, upto_us)

    def patch(self, connection: sqlite3.Connection, key: str, event_id: str) -> None:
        """Add an event to the pack that ends after it."""
        old = self._load(connection, key)
        event = connection.execute(self.single, (event_id,)).fetchall()
        if old is not None and event[0][0] >= self.view.lower_us(old.upto_us, self.reach_us):
            self._add(connection, key, old, event, old.upto_us)

    def _add(
        self, connection: sqlite3.Connection, key: str, old: Pack | None, events: Sequence[Any], upto_us: int
    ) -> bool:
        """Write the pack with these further events, newest first. A pack beyond 64 bits is deleted."""
        name = (self.id, key)
        held = self.memory.touch(name)
        try:
            pack = self._merged(old, self._pack(events, upto_us))
        except OverflowError:
            connection.execute(self.delete, (key,))
            self.memory.drop([name])
            return False
        stored = (pack.upto_us, pack.latest_us, pack.newest_us, *encode(pack, self.unit))
        connection.execute(self.write, (key, *stored))
        self.memory.raise_end(self.view.stream, key, upto_us)
        if held is not None and held.from_us <= upto_us:
            rows = tuple(row for row in held.rows if row[0] >= upto_us)
            self.memory.keep(name, Held(_opened(stored), upto_us, held.until_us, held.late_us, rows))
        else:
            self.memory.drop([name])
        return True

    def _read(
        self, connection: sqlite3.Connection, key: str | None, at_us: int
    ) -> tuple[Row | None, int, Sequence[Row]]:
        """The pack of a key, the moment at which it ends, and the events from there on, newest first.

        A key without a pack has the events of the longest window instead, or at least one more than `FEW`.
        Where the pack is newer than the question, its events are left out.
        """
        if self.memory.holds:
            held = self.memory.get((self.id, key))
            if held is None or held.until_us < at_us:
                held = self._packs.hold(connection, self, key, at_us)
            pack, from_us, rows = held.pack, held.from_us, held.rows
            upto_us = from_us if pack is not None else self.view.lower_us(at_us, self.reach_us)
            if from_us <= upto_us and at_us <= held.until_us and (pack is None or pack[1] <= at_us):
                if held.late_us > at_us:
                    rows = tuple(row for row in rows if row[-1] <= at_us)
                if pack is None or (rows and rows[0][0] >= at_us):
                    return pack, upto_us, [row for row in rows if upto_us <= row[0] < at_us]
                return pack, upto_us, rows
        stored = connection.execute(self.read, (key,)).fetchone()
        pack = None if stored is None else _opened(stored)
        if pack is None:
            upto_us, most = self.view.lower_us(at_us, self.reach_us), FEW + 1
        elif pack[0] > at_us or pack[1] > at_us:
            return pack, pack[0], ()
        else:
            upto_us, most = pack[0], -1
        return pack, upto_us, connection.execute(self.tail, (key, upto_us, at_us, at_us, most)).fetchall()

    def hold(self, connection: sqlite3.Connection, key: str | None, at_us: int, pack: Row | None) -> Held:
        """Read the events of a key into the memory, with what happens after `at_us` or is known later.

        `pack` is the key's pack as `_opened` returns it, None where there is none.
        """
        from_us = self.view.lower_us(at_us, self.reach_us) if pack is None else pack[0]
        rows = connection.execute(self.newer, (key, from_us, HELD + 1)).fetchall()
        late_us = max([row[-1] for row in rows if row[-1] > row[0]], default=LEAST)
        held = Held(pack, from_us, MOST, late_us, tuple(rows[::-1]))
        if len(rows) > HELD:
            _limit(held)
        self.memory.keep((self.id, key), held)
        return held

    def _pack(self, events: Sequence[Any], upto_us: int) -> Pack:
        moments, suffixes = self.tail_terms.suffixes(events)
        tiles = np.array(moments, np.int64)[::-1] // self.unit * self.unit
        values = np.array(suffixes, np.int64).reshape(len(events), len(self.terms))[::-1].T
        first = np.flatnonzero(np.diff(tiles, prepend=tiles[0] - 1))  # An entry starts with its oldest event.
        return Pack(upto_us, max(e[-1] for e in events), moments[0], tiles[first], values[:, first])

    def _merged(self, old: Pack | None, new: Pack) -> Pack:
        """Both packs as one, without the entries that no window reaches any more.

        A suffix of the whole is the sum of the two suffixes.
        """
        times, values = new.times, new.values
        if old is not None:
            times = np.union1d(old.times, new.times)
            a, b = self._at(old, times), self._at(new, times)
            sums = sum(t.kind == "sum" for t in self.terms)
            if any(int(np.abs(x[:sums]).max(initial=0)) >= BIGGEST for x in (a, b)):
                raise OverflowError
            values = merged_suffixes(self.terms, a, b)
            new = Pack(
                new.upto_us,
                max(old.latest_us, new.latest_us),
                max(old.newest_us, new.newest_us),
                times,
                values,
            )
        reached = int(np.searchsorted(times, self.view.lower_us(new.upto_us, self.reach_us)))
        return Pack(new.upto_us, new.latest_us, new.newest_us, times[reached:], values[:, reached:])

    def _at(self, pack: Pack, times: NDArray[np.int64]) -> NDArray[np.int64]:
        padded = np.column_stack([pack.values, np.array(self.nothing, np.int64)])
        return padded[:, np.searchsorted(pack.times, times)]

    def _load(self, connection: sqlite3.Connection, key: str) -> Pack | None:
        found = connection.execute(self.read, (key,)).fetchone()
        return None if found is None else decode(found, self.unit)


def _opened(stored: Sequence[Any]) -> Row:
    """The row of a pack as `answer` reads it: with its times as numbers, and what unpacks an entry."""
    *moments, layout, times, body = stored
    return (*moments, entry_of(layout), array(layout[0], times), body)


def _limit(held: Held) -> None:
    """Leave out the newest events where there are more than `HELD`."""
    held.until_us = held.rows[-HELD - 1][0]
    held.rows = tuple([row for row in held.rows if row[0] < held.until_us])
