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
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.functions.terms import LEAST, NOTHING, running_latest
from feature_repo.engine.plan import Aggregate, ViewPlan
from feature_repo.online.base import Value
from feature_repo.online.pack_format import Pack, decode, encode, entry_of
from feature_repo.online.pack_terms import PackedWindow, is_packed, merged_suffixes, terms_of

# With more events than this in the tail, a new pack is made. As measured, a row of the tail costs 0.3 to
# 1 µs in each question, and a new pack costs 110 to 200 µs once.
TAIL = 16
KEPT = 4  # Events that a new pack leaves in the tail.
FEW = 48  # A key with no more events than this needs no pack.
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


class PackedView:
    """One view over one table of events, answered from packs."""

    def __init__(self, view: ViewPlan, events: str, packs: str) -> None:
        self.view, self.unit = view, view.hop_us or 1
        self.terms = terms_of(view)
        self.nothing = tuple(NOTHING[t.kind] for t in self.terms)
        self.reach_us = max(a.window_us for a in view.aggregates if is_packed(view, a))
        columns = ("event_us", *view.columns)
        self.windows = [
            PackedWindow(w, view, self.terms, columns) for w in sorted({a.window_us for a in view.aggregates})
        ]
        self.running = [
            (t.running, columns.index(t.column or "event_us")) for t in self.terms if t.running is not None
        ]
        self.latest = [
            columns.index(t.column or "") for t in self.terms if (t.kind, t.what) == ("latest", "moment")
        ]
        self.created = len(columns)  # The place of created_us in rows that have it.
        meaning = repr((view.name, view.stream, view.entity, view.hop_us, self.reach_us, self.terms))
        self.id = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:6], "big")
        self.read = (
            f"SELECT upto_us, latest_us, newest_us, start, layout, times, body FROM {packs} WHERE key = ? AND"
            f" view = {self.id}"
        )
        select = f"SELECT {', '.join(columns)}"
        of_key = f"FROM {events} WHERE {view.entity} = ? AND event_us >= ? AND event_us < ?"
        creation = ", created_us" if any(a.computed_by.by_creation for a in view.aggregates) else ""
        self.tail = f"{select}{creation} {of_key} AND created_us <= ? ORDER BY event_us DESC LIMIT ?"
        self.between = f"{select}, created_us {of_key} ORDER BY event_us DESC"
        self.single = f"{select}, created_us FROM {events} WHERE event_id = ?"
        fields = ("upto_us", "latest_us", "newest_us", "start", "layout", "times", "body")
        places = f"(?, {self.id}, '{view.stream}', {', '.join('?' * len(fields))})"
        replaced = ", ".join(f"{f} = excluded.{f}" for f in fields)
        self.write = (
            f"INSERT INTO {packs} (key, view, stream, {', '.join(fields)}) VALUES {places}"
            f" ON CONFLICT (key, view) DO UPDATE SET {replaced}"
        )
        self.delete = f"DELETE FROM {packs} WHERE key = ? AND view = {self.id}"
        self.noted: dict[str, int] = {}  # Keys whose tail is too long, each with the moment of the question.

    def answer(
        self, connection: sqlite3.Connection, key: str | None, at_us: int, result: dict[str, Value]
    ) -> Sequence[Aggregate]:
        """Put the view's features into `result`. Returns the aggregates that the packs cannot answer.

        All aggregates are returned where the pack is newer than the question, and where a key with many
        events has no pack.
        """
        hop_us, entries = self.view.hop_us, 0
        found = connection.execute(self.read, (key,)).fetchone()
        if found is None:
            upto_us = self.view.lower_us(at_us, self.reach_us)
            tail = connection.execute(self.tail, (key, upto_us, at_us, at_us, FEW + 1)).fetchall()
        else:
            upto_us, latest_us, newest_us, start, layout, times, body = found
            if upto_us > at_us or latest_us > at_us:
                return self.view.aggregates
            tail = connection.execute(self.tail, (key, upto_us, at_us, at_us, -1)).fetchall()
            times, entry = memoryview(times).cast(layout[0]), entry_of(layout)
            entries = len(times)
        if (events := len(tail)) > TAIL and key is not None:
            self.noted[key] = at_us
            if found is None and events > FEW:
                return self.view.aggregates
        moments, suffixes = self._suffixes(tail)
        left: list[Aggregate] = []
        # Of a window: its events in the tail, and its place in the pack. Each window is longer than the last.
        count, place = 0, entries
        for window in self.windows:
            lower_us = at_us - window.window_us
            if hop_us:
                lower_us -= lower_us % hop_us
            while count < events and moments[count] >= lower_us:
                count += 1
            of_tail, newest = (suffixes[count - 1], moments[0]) if count else (self.nothing, None)
            of_pack: Sequence[int] = self.nothing
            if (
                entries
                and lower_us < upto_us
                and (place := bisect_left(times, (lower_us - start) // self.unit, 0, place)) < entries
            ):
                of_pack, newest = (
                    entry.unpack_from(body, place * entry.size),
                    newest_us if newest is None else newest,
                )
            window.finish(of_pack, of_tail, newest, at_us, result)
            for listed in window.listed:
                if lower_us < upto_us:
                    left.append(listed.aggregate)
                else:
                    result[listed.aggregate.name] = listed.of_rows(tail[:count], at_us)
        return left

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
        try:
            pack = self._merged(old, self._pack(events, upto_us))
        except OverflowError:
            connection.execute(self.delete, (key,))
            return False
        connection.execute(
            self.write, (key, pack.upto_us, pack.latest_us, pack.newest_us, *encode(pack, self.unit))
        )
        return True

    def _suffixes(self, rows: Sequence[Any]) -> tuple[Sequence[int], Sequence[tuple[int, ...]]]:
        """The times of events, newest first, and the terms of the first event, the first two events, and so
        on.
        """
        if not rows:
            return (), ()
        columns = list(zip(*rows, strict=True))
        moments = columns[0]
        sums: list[Iterable[int]] = [running(moments, columns[place]) for running, place in self.running]
        for place in self.latest:
            sums += zip(*running_latest(moments, columns[self.created], columns[place]), strict=True)
        return moments, list(zip(*sums, strict=True)) if sums else [()] * len(rows)

    def _pack(self, events: Sequence[Any], upto_us: int) -> Pack:
        moments, suffixes = self._suffixes(events)
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
