"""The SQL of online state: the table of a stream, and a view as one statement over it."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from feature_repo.engine import rounding
from feature_repo.engine.columns import BadEvent, scaled_value
from feature_repo.engine.plan import AGES, Aggregate, FeaturePlan, PlanError, ViewPlan
from feature_repo.online.base import Value
from feature_repo.times import SECOND_US, to_us

COUNTED = (
    "count",
    "count_distinct",
    *AGES,
)  # functions that do not depend on what kind of number a column holds
RESERVED = frozenset(
    {"format", "generation", "packs", "removed", "refusals", "quarantine"}
)  # other tables of the state


def table_name(name: str, generation: int) -> str:
    """Generation 0 has the names that files of the first format had."""
    return f"online_{name}_g{generation}" if generation else f"online_{name}"


@dataclass(frozen=True)
class StreamTable:
    """The table of one stream.

    It holds whatever the stream declares, so that a view which comes later finds the events that are there.
    `indexed` are the columns that the views of a key read.
    """

    name: str
    indexed: Mapping[str, tuple[str, ...]]
    stored: tuple[str, ...]
    ids: frozenset[str]
    scales: Mapping[str, int]
    generation: int

    @classmethod
    def of(cls, name: str, plan: FeaturePlan, generation: int = 0) -> StreamTable:
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
            raise PlanError(f"{name!r} is no name for a stream: the online state needs it itself")
        return cls(name, indexed, stored, ids, scales, generation)

    @cached_property
    def table(self) -> str:
        return table_name(self.name, self.generation)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return ("event_id", "event_us", "created_us", *self.stored)

    @cached_property
    def needed(self) -> frozenset[str]:
        return frozenset(self.indexed).union(*self.indexed.values())

    @cached_property
    def insert(self) -> str:
        return (
            f"INSERT OR IGNORE INTO {self.table} ({', '.join(self.columns)}) VALUES"
            f" ({', '.join('?' * len(self.columns))})"
        )

    @cached_property
    def upsert(self) -> str:
        """Where the id is known, the new values hold; what they leave out stays."""
        times = ("event_us = excluded.event_us", "created_us = excluded.created_us")
        fill = ", ".join((*times, *(f"{c} = coalesce(excluded.{c}, {c})" for c in self.stored)))
        return f"{self.insert.replace(' OR IGNORE', '')} ON CONFLICT (event_id) DO UPDATE SET {fill}"

    @cached_property
    def select(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.table}"

    def values(self, event: Mapping[str, object]) -> Iterator[object]:
        """What is stored of an event: ids as they are, numbers of a declared scale as integers.

        What no view reads may be absent.
        """
        for name in self.stored:
            value = event.get(name)
            if value is None:
                if name in self.needed and name not in event:
                    raise BadEvent(name, None)
                yield None
            elif name in self.scales:
                yield scaled_value(name, value, self.scales[name])
            elif isinstance(value, str) or (name not in self.ids and isinstance(value, int)):
                yield value
            elif name in self.ids:
                raise BadEvent(name, value)
            else:
                yield _plain(name, value)

    def ensure(self, connection: sqlite3.Connection) -> None:
        """Make the table, its columns and its indexes where they are missing; a state that has them all is
        not written to.
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
    """One view as one statement: every window is a filter over the events of the widest.

    Sums come back as integers and are finished as offline.
    """

    def __init__(self, view: ViewPlan, table: str) -> None:
        self.view = view
        self.summed = [a for a in view.aggregates if a.function in COUNTED or a.column in view.scales]
        self.listed = [a for a in view.aggregates if a not in self.summed]
        self.windows = sorted({a.window_us for a in self.summed}, reverse=True)
        terms: dict[str, int] = {}
        # Each aggregate with the places of its terms in the answer.
        self.places = [
            (a, 10 ** view.scales.get(a.column, 0), [terms.setdefault(t, len(terms)) for t in self._terms(a)])
            for a in self.summed
        ]
        self.source = (
            f"FROM {table} WHERE {view.entity} = ?1 AND event_us >= ?3 AND event_us < ?2 AND created_us <= ?2"
        )
        self.sql = f"SELECT {', '.join(terms)} {self.source}"

    def answer(self, connection: sqlite3.Connection, key: str, at_us: int, result: dict[str, Value]) -> None:
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
        for aggregate, unit, places in self.places:
            # A product beyond 64 bits becomes a float in SQLite, a sum an error: both are rare, and then the
            # values are added here.
            if row is None or any(isinstance(row[p], float) for p in places):
                result[aggregate.name] = self.alone(connection, aggregate, key, at_us)
            else:
                result[aggregate.name] = finished(aggregate.function, at_us, unit, *(row[p] for p in places))
        for aggregate in self.listed:
            result[aggregate.name] = self.alone(connection, aggregate, key, at_us)

    def _terms(self, aggregate: Aggregate) -> list[str]:
        """What has to be selected for an aggregate, beside others of the view."""
        bound = f"event_us >= ?{3 + self.windows.index(aggregate.window_us)}"
        return [f"{e} FILTER (WHERE {_only(aggregate)}{bound})" for e in _expressions(aggregate)]

    def alone(self, connection: sqlite3.Connection, aggregate: Aggregate, key: str, at_us: int) -> Value:
        """One aggregate by itself, numbers from their values."""
        counted = aggregate.function in COUNTED
        what = _expressions(aggregate)[0] if counted else aggregate.column
        only = _only(aggregate) if counted else f"{aggregate.column} IS NOT NULL AND "
        sql = f"SELECT {what} {self.source.replace('WHERE ', f'WHERE {only}')}"
        values = [
            row[0]
            for row in connection.execute(sql, (key, at_us, self.view.lower_us(at_us, aggregate.window_us)))
        ]
        if counted:
            return finished(aggregate.function, at_us, 1, values[0])
        scale = self.view.scales.get(aggregate.column)
        return rounding.of_values(aggregate.function, values, None if scale is None else 10**scale)


def _expressions(aggregate: Aggregate) -> list[str]:
    column = aggregate.column
    return {
        "count": ["count(*)"],
        "sum": [f"sum({column})"],
        "avg": [f"sum({column})", f"count({column})"],
        "std": [f"sum({column})", f"count({column})", f"sum({column} * {column})"],
        "min": [f"min({column})"],
        "max": [f"max({column})"],
        "count_distinct": [f"count(DISTINCT {column})"],
        "seconds_since_last": ["max(event_us)"],
        "seconds_since_first": ["min(event_us)"],
    }[aggregate.function]


def _only(aggregate: Aggregate) -> str:
    """Which events matter: of a flag, those where it is set."""
    return f"{aggregate.flag} AND " if aggregate.flag else ""


def finished(function: str, at_us: int, unit: int, first: Any, count: Any = 0, squares: Any = 0) -> Value:
    if function in ("count", "count_distinct"):
        return int(first)
    if function == "sum":
        return int(first or 0) if unit == 1 else rounding.quotient(first or 0, unit)
    if function == "avg":
        return rounding.mean(first or 0, count, unit)
    if function == "std":
        return rounding.spread(first or 0, squares or 0, count, unit)
    if first is None:
        return None
    return (at_us - first) / SECOND_US if function in AGES else rounding.quotient(first, unit)


def _plain(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return to_us(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadEvent(name, value) from error
    if number != number or number in (float("inf"), float("-inf")):
        raise BadEvent(name, value)
    return number
