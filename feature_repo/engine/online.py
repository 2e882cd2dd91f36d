"""Online state: the recent events in SQLite, and the same windows as offline over them, as of any moment.

One table a stream holds its events once; a covering index for each key serves the windows. The state is a set of events: it does not depend on the
order in which they came. The caller owns the connection and its transactions: nothing here commits.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from feature_repo.engine import finish
from feature_repo.engine.columns import BadEvent, scaled_value
from feature_repo.engine.lake import Lake
from feature_repo.engine.plan import Aggregate, FeaturePlan, PlanError, ViewPlan

__all__ = ["BadEvent", "OnlineState", "rebuild"]

FORMAT = 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Value = float | int | None


class OnlineState:
    def __init__(self, connection: sqlite3.Connection, plan: FeaturePlan) -> None:
        self.connection, self.plan = connection, plan
        self._streams = {name: _Stream.of(name, plan) for name in dict.fromkeys(v.stream for v in plan.views)}
        for stream in self._streams.values():
            stream.ensure(connection)
        self._views = [(view, _Query(view)) for view in plan.views]
        self._on_demand = [(o, o.load()) for o in plan.on_demand]

    @staticmethod
    def create_tables(connection: sqlite3.Connection) -> None:
        """What every plan shares. The tables of a plan's streams are made when the state is opened with it."""
        if not connection.execute("PRAGMA table_info(online_format)").fetchall():
            connection.execute("CREATE TABLE online_format (version INTEGER PRIMARY KEY) WITHOUT ROWID")
            connection.execute("INSERT INTO online_format VALUES (?)", (FORMAT,))
        if (found := connection.execute("SELECT max(version) FROM online_format").fetchone()[0]) != FORMAT:
            raise PlanError(f"the online state has format {found}, this version reads {FORMAT}: rebuild it")

    def push(self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int) -> bool:
        """Add an event. False: its id is known already, and nothing changes. A value that cannot be aggregated raises `BadEvent`."""
        known = self._stream(stream)
        row = (event_id, event_us, created_us, *known.values(event))
        return self.connection.execute(known.insert, row).rowcount == 1

    def remove(self, stream: str, event_id: str) -> bool:
        """Take an event out, as when a verdict takes the place of a pending one. False: there was none."""
        return self.connection.execute(f"DELETE FROM {self._stream(stream).table} WHERE event_id = ?", (event_id,)).rowcount == 1

    def aggregates(self, keys: Mapping[str, str], at_us: int) -> dict[str, Value]:
        """Every view feature of these keys at a moment."""
        result: dict[str, Value] = {}
        for view, query in self._views:
            if not isinstance(keys.get(view.entity), str):
                raise BadEvent(view.entity, keys.get(view.entity))
            query.answer(self.connection, keys[view.entity], at_us, result)
        return result

    def vector(self, keys: Mapping[str, str], at_us: int, request: Mapping[str, float | int]) -> dict[str, float | None]:
        """The service's vector in its order, for a request made at `at_us`."""
        known: dict[str, Any] = {**self.aggregates(keys, at_us), **request}
        for plan, function in self._on_demand:
            outputs = function({name: [known[name]] for name in plan.inputs})
            known |= {name: values[0] for name, values in outputs.items()}
        return {name: None if (value := known[name]) is None else float(value) for name in self.plan.features}

    def prune(self, before_us: int) -> int:
        """Forget events that happened before a moment; the number of those."""
        tables = [s.table for s in self._streams.values()]
        return sum(self.connection.execute(f"DELETE FROM {table} WHERE event_us < ?", (before_us,)).rowcount for table in tables)

    def last_event_us(self, stream: str) -> int | None:
        found: int | None = self.connection.execute(f"SELECT max(event_us) FROM {self._stream(stream).table}").fetchone()[0]
        return found

    def load(self, stream: str, events: Iterable[tuple[str, Mapping[str, object], int, int]]) -> int:
        """Push many (id, event, event_us, created_us); the number that were new. Known ids take over columns that they did not have yet."""
        known = self._stream(stream)
        count = f"SELECT count(*) FROM {known.table}"
        before = self.connection.execute(count).fetchone()[0]
        self.connection.executemany(known.upsert, ((i, at, created, *known.values(event)) for i, event, at, created in events))
        added: int = self.connection.execute(count).fetchone()[0] - before
        return added

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise PlanError(f"{self.plan.service}: no view reads the stream {name!r}")
        return self._streams[name]


def rebuild(connection: sqlite3.Connection, plan: FeaturePlan, lake: Lake, until_day: str | None = None) -> dict[str, int]:
    """Push every event of the lake that a window can still reach on its last day (`until_day`, if given), and count the new ones by stream.

    Events that are there already stay; doing it again changes nothing.
    """
    state = OnlineState(connection, plan)
    days = {s: [d for d in lake.partitions(s) if until_day is None or d <= until_day] for s in dict.fromkeys(v.stream for v in plan.views)}
    last = max((d[-1] for d in days.values() if d), default=None)
    result = {}
    for stream, written in days.items():
        reach = max(v.reach_us for v in plan.views if v.stream == stream)
        since = datetime.fromisoformat(last).replace(tzinfo=UTC) - timedelta(microseconds=reach) if last else None
        result[stream] = 0
        for day in written:
            if since is not None and day >= since.date().isoformat():
                result[stream] += load_day(state, lake, stream, day)
    return result


def load_day(state: OnlineState, lake: Lake, stream: str, day: str) -> int:
    """Push one arrival day of a stream; the number of new events."""
    return state.load(stream, _events(state.plan, stream, lake.read(stream, [day])))


def _events(plan: FeaturePlan, stream: str, table: pa.Table) -> Iterator[tuple[str, Mapping[str, object], int, int]]:
    from feature_repo.engine.windows import microseconds

    times = microseconds(table["event_timestamp"]).tolist(), microseconds(table["created_timestamp"]).tolist()
    names = [c for c in table.column_names if c not in ("event_timestamp", "created_timestamp")]
    rows = zip(*(table[c].to_pylist() for c in names), strict=True)
    for event_us, created_us, row in zip(*times, rows, strict=True):
        event = {name: None if value != value else value for name, value in zip(names, row, strict=True)}  # NaN is null here, as offline
        yield plan.event_id(stream, event, event_us), event, event_us, created_us


@dataclass(frozen=True)
class _Stream:
    """The table of one stream, its columns in order, and the statements that write it."""

    name: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    scales: Mapping[str, int]

    @classmethod
    def of(cls, name: str, plan: FeaturePlan) -> _Stream:
        views = [v for v in plan.views if v.stream == name]
        scales: dict[str, int] = {}
        for view in views:
            scales |= view.scales
        keys = tuple(dict.fromkeys(v.entity for v in views))
        columns = tuple(sorted({c for v in views for c in v.columns} | scales.keys() - set(keys)))
        for identifier in (name, *keys, *columns):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", identifier):
                raise PlanError(f"{identifier!r} is no name for a table or a column")
        return cls(name, keys, columns, scales)

    @property
    def table(self) -> str:
        return f"online_{self.name}"

    @property
    def stored(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.keys, *self.columns)))

    @property
    def insert(self) -> str:
        names = ("event_id", "event_us", "created_us", *self.stored)
        return f"INSERT OR IGNORE INTO {self.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"

    @property
    def upsert(self) -> str:
        fill = ", ".join(f"{c} = coalesce({c}, excluded.{c})" for c in self.stored)
        return f"{self.insert.replace(' OR IGNORE', '')} ON CONFLICT (event_id) DO UPDATE SET {fill}"

    def values(self, event: Mapping[str, object]) -> Iterator[object]:
        """What is stored of an event: keys as they are, numbers of a declared scale as integers."""
        for name in self.stored:
            if name not in event:
                raise BadEvent(name, None)
            value = event[name]
            if name in self.keys:
                if value is not None and not isinstance(value, str):
                    raise BadEvent(name, value)
                yield value
            elif name in self.scales:
                yield scaled_value(name, value, self.scales[name])
            elif value is None or isinstance(value, (str, int)):
                yield value
            else:
                yield _plain(name, value)

    def ensure(self, connection: sqlite3.Connection) -> None:
        """Make the table, its columns and its indexes where they are missing; a state that has them all is not written to."""
        there = {row[1] for row in connection.execute(f"PRAGMA table_info({self.table})")}
        if not there:
            fixed = "event_id TEXT PRIMARY KEY, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL"
            connection.execute(f"CREATE TABLE {self.table} ({', '.join((fixed, *self.stored))}) WITHOUT ROWID")
            there = set(self.stored)
        for column in self.stored:
            if column not in there:
                connection.execute(f"ALTER TABLE {self.table} ADD COLUMN {column}")
        indexes = {row[1] for row in connection.execute(f"PRAGMA index_list({self.table})")}
        for name, indexed in [(f"{self.table}_by_time", ["event_us"]), *map(self._covering, self.keys)]:
            if name not in indexes:
                connection.execute(f"CREATE INDEX {name} ON {self.table} ({', '.join(indexed)})")

    def _covering(self, key: str) -> tuple[str, list[str]]:
        columns = [key, "event_us", "created_us", *(c for c in self.stored if c != key)]
        return f"{self.table}_by_{key}_{hashlib.sha256(','.join(columns).encode()).hexdigest()[:8]}", columns


class _Query:
    """One view as one statement: every window is a filter over the events of the widest. Sums come back as integers and are finished as offline."""

    def __init__(self, view: ViewPlan) -> None:
        self.view = view
        self.windows = sorted({a.window_us for a in view.aggregates}, reverse=True)
        self.summed = [a for a in view.aggregates if a.function in ("count", "seconds_since_last", "count_distinct") or a.column in view.scales]
        self.listed = [a for a in view.aggregates if a not in self.summed]
        terms: dict[str, int] = {}
        # Each aggregate with the places of its terms in the answer.
        self.places = [(a, 10 ** view.scales.get(a.column, 0), [terms.setdefault(t, len(terms)) for t in self._terms(a)]) for a in self.summed]
        self.source = f"FROM online_{view.stream} WHERE {view.entity} = ?1 AND event_us >= ?3 AND event_us < ?2 AND created_us <= ?2"
        self.sql = f"SELECT {', '.join(terms)} {self.source}"

    def answer(self, connection: sqlite3.Connection, key: str, at_us: int, result: dict[str, Value]) -> None:
        parameters = (key, at_us, *(self.view.lower_us(at_us, w) for w in self.windows))
        if self.places:
            try:
                row = connection.execute(self.sql, parameters).fetchone()
            except sqlite3.OperationalError as error:
                if "integer overflow" not in str(error):
                    raise
                row = None
            for aggregate, unit, places in self.places:
                result[aggregate.name] = (
                    self._listed(connection, aggregate, parameters)
                    # A product beyond 64 bits becomes a float in SQLite, a sum an error: both are rare, and then the values are added here.
                    if row is None or any(isinstance(row[p], float) for p in places)
                    else _finish(aggregate.function, at_us, unit, *(row[p] for p in places))
                )
        for aggregate in self.listed:
            result[aggregate.name] = self._listed(connection, aggregate, parameters)

    def _terms(self, aggregate: Aggregate) -> list[str]:
        column = aggregate.column
        flagged = "" if column == "event_timestamp" else f"{column} AND "
        terms = {
            "count": ["count(*)"],
            "sum": [f"sum({column})"],
            "avg": [f"sum({column})", f"count({column})"],
            "std": [f"sum({column})", f"count({column})", f"sum({column} * {column})"],
            "min": [f"min({column})"],
            "max": [f"max({column})"],
            "count_distinct": [f"count(DISTINCT {column})"],
            "seconds_since_last": ["max(event_us)"],
        }[aggregate.function]
        bound = f"event_us >= ?{3 + self.windows.index(aggregate.window_us)}"
        condition = f"{flagged if aggregate.function == 'seconds_since_last' else ''}{bound}"
        return [f"{term} FILTER (WHERE {condition})" for term in terms]

    def _listed(self, connection: sqlite3.Connection, aggregate: Aggregate, parameters: tuple[Any, ...]) -> Value:
        if aggregate.function in ("count", "seconds_since_last", "count_distinct"):
            (found,) = connection.execute(f"SELECT {self._terms(aggregate)[0]} {self.source}", parameters).fetchone()
            return _finish(aggregate.function, parameters[1], 1, found)
        bound = 3 + self.windows.index(aggregate.window_us)
        sql = f"SELECT {aggregate.column} {self.source} AND event_us >= ?{bound} AND {aggregate.column} IS NOT NULL"
        values = [row[0] for row in connection.execute(sql, parameters)]
        scale = self.view.scales.get(aggregate.column)
        return finish.of_values(aggregate.function, values, None if scale is None else 10**scale)


def _finish(function: str, at_us: int, unit: int, first: Any, count: Any = 0, squares: Any = 0) -> Value:
    if function in ("count", "count_distinct"):
        return int(first)
    if function == "sum":
        return int(first or 0) if unit == 1 else finish.quotient(first or 0, unit)
    if function == "avg":
        return finish.mean(first or 0, count, unit)
    if function == "std":
        return finish.spread(first or 0, squares or 0, count, unit)
    if first is None:
        return None
    return (at_us - first) / finish.SECOND_US if function == "seconds_since_last" else finish.quotient(first, unit)


def _plain(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadEvent(name, value) from error
    if number != number or number in (float("inf"), float("-inf")):
        raise BadEvent(name, value)
    return number
