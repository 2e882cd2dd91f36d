"""The SQL of the online state: the table of a stream, and a view as one statement over the table."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from feature_repo.engine.columns import BadEvent, scaled_value
from feature_repo.engine.functions.base import SeenEvent
from feature_repo.engine.functions.terms import NOTHING
from feature_repo.engine.plan import Aggregate, FeaturePlan, PlanError, ViewPlan
from feature_repo.online.base import Value
from feature_repo.times import to_us

# The other tables of the state.
RESERVED = frozenset(
    {"format", "generation", "epoch", "versions", "packs", "removed", "refusals", "quarantine"}
)


def table_name(name: str, generation: int) -> str:
    """The table of a stream, or a shared table, in a generation.

    Tables of generation 0 have the names that they had in the first format.
    """
    return f"online_{name}_g{generation}" if generation else f"online_{name}"


@dataclass(frozen=True)
class StreamTable:
    """The table of one stream.

    The table holds every column that the stream declares, so that a later view finds the events. `indexed`
    maps a key to the columns that its views read. `ids` are text, `scales` the decimals of the exact columns.
    """

    name: str
    indexed: Mapping[str, tuple[str, ...]]
    stored: tuple[str, ...]
    ids: frozenset[str]
    scales: Mapping[str, int]
    generation: int

    @classmethod
    def of(cls, name: str, plan: FeaturePlan, generation: int = 0) -> StreamTable:
        """The table of a stream for a plan's views.

        `PlanError` where the stream or a column has a name that no table or column can have.
        """
        views = [v for v in plan.views if v.stream == name]
        scales: dict[str, int] = {}
        for view in views:
            scales |= view.scales
        indexed = {
            v.entity: tuple(sorted({c for w in views if w.entity == v.entity for c in w.columns}))
            for v in views
        }
        ids = frozenset(indexed) | {k for v in views for k in v.keys}
        stored = tuple(sorted(ids | scales.keys() | {c for columns in indexed.values() for c in columns}))
        for identifier in (name, *stored):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", identifier):
                raise PlanError(f"{identifier!r} is no name for a table or a column")
        if name in RESERVED or re.search(r"_g\d+$", name):
            raise PlanError(f"{name!r} is no name for a stream: the online state has a table of this name")
        return cls(name, indexed, stored, ids, scales, generation)

    @cached_property
    def table(self) -> str:
        """The name of the table."""
        return table_name(self.name, self.generation)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table, in order."""
        return ("event_id", "event_us", "created_us", *self.stored)

    @cached_property
    def needed(self) -> frozenset[str]:
        """The columns that an event has to have: the keys and the columns that views read."""
        return frozenset(self.indexed).union(*self.indexed.values())

    @cached_property
    def insert(self) -> str:
        """The statement that adds an event and leaves an event with the same id unchanged."""
        return (
            f"INSERT OR IGNORE INTO {self.table} ({', '.join(self.columns)}) VALUES"
            f" ({', '.join('?' * len(self.columns))})"
        )

    @cached_property
    def upsert(self) -> str:
        """The statement that adds an event, or replaces the values of an event with the same id.

        A null leaves the stored value.
        """
        times = ("event_us = excluded.event_us", "created_us = excluded.created_us")
        fill = ", ".join((*times, *(f"{c} = coalesce(excluded.{c}, {c})" for c in self.stored)))
        return f"{self.insert.replace(' OR IGNORE', '')} ON CONFLICT (event_id) DO UPDATE SET {fill}"

    @cached_property
    def select(self) -> str:
        """The statement that reads all columns; a condition may follow."""
        return f"SELECT {', '.join(self.columns)} FROM {self.table}"

    def values(self, event: Mapping[str, object]) -> Iterator[object]:
        """The values of an event as they are stored: ids unchanged, numbers of a declared scale as integers.

        A column that no view reads may be absent. `BadEvent` for a value that cannot be stored.
        """
        for name in self.stored:
            value = event.get(name)
            if value is None:
                if name in self.needed and name not in event:
                    raise BadEvent(name, None)
                yield None
            elif name in self.scales:
                yield scaled_value(name, value, self.scales[name])
            elif isinstance(value, str):
                yield value
            elif name not in self.ids and isinstance(value, int):
                yield int(value)  # A flag as SQLite gives it back.
            elif name in self.ids:
                raise BadEvent(name, value)
            else:
                yield _number(name, value)

    def ensure(self, connection: sqlite3.Connection) -> None:
        """Make the table, its columns and its indexes where they are missing.

        Nothing is written where all of them exist.
        """
        there = {row[1] for row in connection.execute(f"PRAGMA table_info({self.table})")}
        if not there:
            fixed = "event_id TEXT PRIMARY KEY, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL"
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self.table} ({', '.join((fixed, *self.stored))}) WITHOUT ROWID"
            )
            there = set(self.stored)
        for column in self.stored:
            if column not in there:
                connection.execute(f"ALTER TABLE {self.table} ADD COLUMN {column}")
        indexes = {row[1] for row in connection.execute(f"PRAGMA index_list({self.table})")}
        for name, columns in [(f"{self.table}_by_time", ["event_us"]), *map(self._covering, self.indexed)]:
            if name not in indexes:
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {name} ON {self.table} ({', '.join(columns)})"
                )

    def _covering(self, key: str) -> tuple[str, list[str]]:
        columns = [key, "event_us", "created_us", *(c for c in self.indexed[key] if c != key)]
        return f"{self.table}_by_{key}_{hashlib.sha256(','.join(columns).encode()).hexdigest()[:8]}", columns


class ViewQuery:
    """One view as one statement, in which every window is a filter over the events of the widest window.

    The statement selects the terms of the functions, as integers. The functions finish them as offline.
    """

    def __init__(self, view: ViewPlan, table: str) -> None:
        self.view = view
        self.selected = [
            a for a in view.aggregates if a.computed_by.in_sql(a.column, view.scales.get(a.column))
        ]
        self.listed = [a for a in view.aggregates if a not in self.selected]
        self.windows = sorted({a.window_us for a in self.selected}, reverse=True)
        self.source = (
            f"FROM {table} WHERE {view.entity} = ?1 AND event_us >= ?3 AND event_us < ?2 AND created_us <= ?2"
        )
        terms: dict[str, int] = {}
        # Each aggregate, with the places of its terms in the answer.
        self.places = [(a, [terms.setdefault(t, len(terms)) for t in self._terms(a)]) for a in self.selected]
        self.sql = f"SELECT {', '.join(terms)} {self.source}"

    def answer(
        self, connection: sqlite3.Connection, key: str | None, at_us: int, result: dict[str, Value]
    ) -> None:
        """Put the features of the key at a moment, in microseconds since the epoch, into `result`."""
        row: Sequence[Any] | None = ()
        if self.places:
            try:
                row = connection.execute(
                    self.sql, (key, at_us, *(self.view.lower_us(at_us, w) for w in self.windows))
                ).fetchone()
            except sqlite3.OperationalError as error:
                if "integer overflow" not in str(error):
                    raise
                row = None
        for aggregate, places in self.places:
            # Beyond 64 bits, SQLite turns a product into a float and a sum into an error. Both are rare. The
            # values are then added here.
            if row is None or any(isinstance(row[p], float) for p in places):
                result[aggregate.name] = self.alone(connection, aggregate, key, at_us)
            else:
                result[aggregate.name] = self._finished(aggregate, [row[p] for p in places], at_us)
        for aggregate in self.listed:
            result[aggregate.name] = self.alone(connection, aggregate, key, at_us)

    def alone(
        self, connection: sqlite3.Connection, aggregate: Aggregate, key: str | None, at_us: int
    ) -> Value:
        """One aggregate: counts in SQL, everything else from the values.

        Used where the aggregate has no terms in SQL, or its terms exceed 64 bits.
        """
        function, column = aggregate.computed_by, aggregate.column
        asked = (key, at_us, self.view.lower_us(at_us, aggregate.window_us))
        if function.counts and function.terms(column):
            terms = self._terms(aggregate, "event_us >= ?3")
            row = connection.execute(f"SELECT {', '.join(terms)} {self.source}", asked).fetchone()
            return self._finished(aggregate, row, at_us)
        created = "created_us" if function.by_creation else "event_us"
        value = column if aggregate.reads_values else "NULL"
        rows = connection.execute(f"SELECT event_us, {created}, {value} {self.source}", asked)
        scale = self.view.scales.get(column)
        return function.define(
            column, [SeenEvent(*row) for row in rows], at_us, None if scale is None else 10**scale
        )

    def _terms(self, aggregate: Aggregate, bound: str = "") -> list[str]:
        """The SQL of an aggregate's terms, for a statement that serves all windows of the view."""
        bound = bound or f"event_us >= ?{3 + self.windows.index(aggregate.window_us)}"
        terms = aggregate.computed_by.terms(aggregate.column)
        return [term.sql.format(bound=bound, source=self.source) for term in terms]

    def _finished(self, aggregate: Aggregate, row: Sequence[Any], at_us: int) -> Value:
        """The feature, from its terms. A null in SQL is the term of no events."""
        function, column = aggregate.computed_by, aggregate.column
        state = [
            NOTHING[term.kind] if value is None else value
            for term, value in zip(function.terms(column), row, strict=True)
        ]
        return function.finish(state, at_us, 10 ** self.view.scales.get(column, 0))


def _number(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return to_us(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadEvent(name, value) from error
    if number != number or number in (float("inf"), float("-inf")):
        raise BadEvent(name, value)
    return number
