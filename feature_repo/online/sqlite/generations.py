"""Generations: the tables of the online state, and during a rebuild a second set of them.

Generation 0 has names without a number (`online_<stream>`, `online_packs`). Generation N has the same names
with `_gN`. One row says which generation serves, and which generation is being built. A writer writes to
both.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from feature_repo.engine.functions.terms import LEAST
from feature_repo.engine.plan import Aggregate, FeaturePlan, PlanError, ViewPlan
from feature_repo.online.pack_terms import is_packed
from feature_repo.online.sqlite import packs, versions
from feature_repo.online.sqlite.memory import TIMES, Memory
from feature_repo.online.sqlite.packs import KeyPacks, PackedView
from feature_repo.online.sqlite.queries import RESERVED, StreamTable, Value, ViewQuery, table_name

FORMAT = 3
ALIVE = "within ttl"  # The platform adds this aggregate: how many events keep a key's values alive.

SHARED = f"""{versions.TABLES};
CREATE TABLE IF NOT EXISTS online_generation (
    id INTEGER PRIMARY KEY CHECK (id = 0), current INTEGER, building INTEGER, last INTEGER
);
INSERT OR IGNORE INTO online_generation VALUES (0, 0, NULL, 0);
CREATE TABLE IF NOT EXISTS online_refusals (
    stream TEXT, reason TEXT, count INTEGER, last_us INTEGER, PRIMARY KEY (stream, reason)
);
CREATE TABLE IF NOT EXISTS online_quarantine (
    id INTEGER PRIMARY KEY, stream TEXT, reason TEXT, event TEXT, at_us INTEGER
);
"""


class Standing(NamedTuple):
    """The generation that serves, and the generation that is being built; None where none is."""

    current: int
    building: int | None


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables that every plan shares. A file of an earlier format gets the present format.

    Raises `PlanError` for a file of a newer format.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS online_format (version INTEGER PRIMARY KEY) WITHOUT ROWID")
    found = connection.execute("SELECT max(version) FROM online_format").fetchone()[0]
    if found == FORMAT:
        return
    if found not in (None, 1, 2):
        raise PlanError(f"the online state has format {found}, this version reads {FORMAT}: rebuild it")
    for statement in filter(str.strip, SHARED.split(";")):
        connection.execute(statement)
    # Generation 0 has the tables of the first format.
    connection.execute("DELETE FROM online_format")
    connection.execute("INSERT OR IGNORE INTO online_format VALUES (?)", (FORMAT,))


def standing(connection: sqlite3.Connection) -> Standing:
    """The generation that serves, and the generation that is being built."""
    return Standing(*connection.execute("SELECT current, building FROM online_generation").fetchone())


def tables_of(connection: sqlite3.Connection, number: int) -> list[str]:
    """The names of all tables of a generation, of whatever plan, sorted."""
    names = (
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'online\\_%' ESCAPE '\\'"
        )
    )
    shared = {f"online_{name}" for name in RESERVED - {"packs", "removed"}}
    return sorted(
        n
        for n in names
        if n not in shared and int(found[1] if (found := re.search(r"_g(\d+)$", n)) else 0) == number
    )


class Generation:
    """A plan's tables in one generation. What is read of them is held in `memory`, where there is one."""

    def __init__(
        self, connection: sqlite3.Connection, plan: FeaturePlan, number: int, memory: Memory | None = None
    ) -> None:
        self.connection, self.number = connection, number
        self._memory = memory or Memory(connection)
        self.packs, self.removed = table_name("packs", number), table_name("removed", number)
        self.streams = {
            name: StreamTable.of(name, plan, number) for name in dict.fromkeys(v.stream for v in plan.views)
        }
        for stream in self.streams.values():
            stream.ensure(connection)
        packs.create_table(connection, self.packs)
        of_key = KeyPacks(self.packs, list(self.streams), self._memory)
        self.views = [_View(view, self.streams[view.stream], of_key, self._memory) for view in plan.views]
        self.packed: dict[int, PackedView] = {
            v.packed.id: v.packed for v in self.views if v.packed is not None
        }
        self._packed_of = {
            name: [p for p in self.packed.values() if p.view.stream == name] for name in self.streams
        }
        self._packs_of = {
            name: (
                f"SELECT key, view, upto_us FROM {self.packs} WHERE key IN ({', '.join('?' * len(s.ids))})"
                f" AND upto_us > ? AND stream = '{name}'"
            )
            for name, s in self.streams.items()
        }
        self._ids = {name: [s.columns.index(i) for i in sorted(s.ids)] for name, s in self.streams.items()}

    def put(self, stream: str, row: Sequence[Any]) -> bool:
        """Add one event, and add it to the packs that end after it.

        False where the id is known.
        """
        if self.connection.execute(self.streams[stream].insert, row).rowcount != 1:
            return False
        keys = [row[i] for i in self._ids[stream]]
        if not self._memory.ends_by(stream, keys, row[1]):
            self._bring_into_packs(stream, keys, row)
        if self._memory.holds:
            self._memory.add_time(stream, row[1])
            for packed in self._packed_of[stream]:
                packed.put(row)
        return True

    def load(self, stream: str, rows: Iterable[Sequence[object]]) -> None:
        """Add many events.

        Where the id is known, the new values replace the stored values, and a null leaves the stored value.
        """
        known = self.streams[stream]
        self._memory.forget()
        if not self.connection.execute(
            f"SELECT 1 FROM {self.packs} WHERE stream = ? LIMIT 1", (stream,)
        ).fetchone():
            self.connection.executemany(known.upsert, rows)
            return
        for row in rows:
            old = self.row(stream, str(row[0]))
            if old is None:
                self.put(stream, row)
            elif any(new is not None and new != value for new, value in zip(row, old, strict=True)):
                self.forget_late(stream, old)
                # The stored row, because the lake may have left a key out.
                self.forget_late(
                    stream,
                    self.connection.execute(
                        f"{known.upsert} RETURNING {', '.join(known.columns)}", row
                    ).fetchone(),
                )

    def take(self, stream: str, event_id: str) -> bool:
        """Remove one event. Returns False where there was none."""
        deleted = self.connection.execute(
            f"DELETE FROM {self.streams[stream].table} WHERE event_id = ? RETURNING *", (event_id,)
        ).fetchall()
        for row in deleted:
            self.forget_late(stream, row)
        self._memory.forget_times(stream)
        return bool(deleted)

    def row(self, stream: str, event_id: str) -> Sequence[object] | None:
        """One event as `put` takes it; None where it does not exist."""
        found: Sequence[object] | None = self.connection.execute(
            f"{self.streams[stream].select} WHERE event_id = ?", (event_id,)
        ).fetchone()
        return found

    def newest_us(self, stream: str, at_us: int) -> int | None:
        """The time of the newest event before a moment; None where there is none."""
        newest_us = self._memory.newest_before(stream, at_us)
        if newest_us is None:
            table = self.streams[stream].table
            newest = f"SELECT max(event_us) FROM {table} WHERE event_us < ?"
            newest_us = self.connection.execute(newest, (at_us,)).fetchone()[0]
            if newest_us is not None and self._memory.holds:
                later = f"SELECT event_us FROM {table} WHERE event_us >= ? ORDER BY event_us LIMIT ?"
                times = self.connection.execute(later, (newest_us, TIMES + 1)).fetchall()
                self._memory.keep_times(stream, [event_us for (event_us,) in times])
        return newest_us

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the events from `from_us` up to, not including, `to_us`."""
        query = f"SELECT event_id FROM {self.streams[stream].table} WHERE event_us >= ? AND event_us < ?"
        return [event_id for (event_id,) in self.connection.execute(query, (from_us, to_us))]

    def prune(self, before_us: int, limit: int) -> int:
        """Forget up to `limit` events from before a moment, and the packs that end with them.

        Returns the number of events.
        """
        forgotten = 0
        for stream in self.streams.values():
            old = f"SELECT event_id FROM {stream.table} WHERE event_us < ? LIMIT ?"
            if self.connection.execute(old, (before_us, 1)).fetchone() is None:  # A look takes no lock.
                continue
            ids = ", ".join(sorted(stream.ids))
            delete = f"DELETE FROM {stream.table} WHERE event_id IN ({old}) RETURNING {ids}"
            rows = self.connection.execute(delete, (before_us, limit - forgotten)).fetchall()
            self._memory.forget_times(stream.name, before_us)
            empty = f"DELETE FROM {self.packs} WHERE key = ? AND newest_us < ?"
            self.connection.executemany(
                empty, [(key, before_us) for key in {key for row in rows for key in row if key is not None}]
            )
            forgotten += len(rows)
            if forgotten >= limit:
                break
        return forgotten

    def bury(self, stream: str, event_id: str) -> None:
        """Remember that an event was removed, so that the lake does not bring it back."""
        self.connection.execute(f"INSERT OR IGNORE INTO {self.removed} VALUES (?, ?)", (stream, event_id))

    def unbury(self, stream: str, event_ids: Iterable[str]) -> None:
        """Forget that events were removed, because they were pushed again."""
        self.connection.executemany(
            f"DELETE FROM {self.removed} WHERE stream = ? AND event_id = ?", ((stream, i) for i in event_ids)
        )

    def forget_late(self, stream: str, row: Sequence[object]) -> None:
        """Delete the packs that hold an event or should hold it.

        Every text of the row counts as a key, because another plan may know the event by another key.
        """
        for key in dict.fromkeys(value for value in row[3:] if isinstance(value, str)):
            self._memory.drop([(packed.id, key) for packed in self._packed_of[stream]])
            self.connection.execute(
                f"DELETE FROM {self.packs} WHERE key = ? AND upto_us > ? AND stream = ?",
                (key, row[1], stream),
            )

    def _bring_into_packs(self, stream: str, keys: Sequence[Any], row: Sequence[Any]) -> None:
        """Add an event to the packs that end after it."""
        holds = self._memory.holds
        ends = {key: LEAST for key in keys if key is not None} if holds else {}
        asked = (*keys, LEAST if holds else row[1])
        for key, view, upto_us in self.connection.execute(self._packs_of[stream], asked).fetchall():
            if holds:
                ends[key] = max(ends[key], upto_us)
            if upto_us <= row[1]:
                continue
            packed = self.packed.get(view)
            if packed is not None and row[self.streams[stream].columns.index(packed.view.entity)] == key:
                packed.patch(self.connection, key, str(row[0]))
            else:
                self._forget(key, view)
        for key, upto_us in ends.items():
            self._memory.keep_end(stream, key, upto_us)

    def _forget(self, key: str, view: int) -> None:
        self.connection.execute(f"DELETE FROM {self.packs} WHERE key = ? AND view = ?", (key, view))


class _View:
    """One view, answered from its packs where possible, else from its events."""

    def __init__(self, view: ViewPlan, stream: StreamTable, of_key: KeyPacks, memory: Memory) -> None:
        self.entity, self.ttl_us = view.asked_by, view.ttl_us
        self.features = [a.name for a in view.aggregates]
        if view.ttl_us:
            view = replace(view, aggregates=(*view.aggregates, Aggregate(ALIVE, "", "count", view.ttl_us)))
        self.query = ViewQuery(view, stream.table)
        self.packed = (
            PackedView(view, stream.table, stream.columns, of_key, memory)
            if any(is_packed(view, a) for a in view.aggregates)
            else None
        )

    def answer(
        self, connection: sqlite3.Connection, key: str | None, at_us: int, result: dict[str, Value]
    ) -> None:
        """Put the view's features into `result`. In SQL nothing equals null, so a null key has no events."""
        whole = self.query.view.aggregates
        left = whole if self.packed is None else self.packed.answer(connection, key, at_us, result)
        if left is whole:
            self.query.answer(connection, key, at_us, result)
        else:
            for aggregate in left:
                result[aggregate.name] = self.query.alone(connection, aggregate, key, at_us)
        if self.ttl_us and not result.pop(ALIVE):
            result.update(dict.fromkeys(self.features))
