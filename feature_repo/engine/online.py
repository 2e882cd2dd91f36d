"""Online state: the recent events in SQLite, and the same windows as offline over them, as of any moment.

One table a stream holds its events once; a covering index for each key serves the windows. The state is a set of events: it does not depend on the
order in which they came. The caller owns the connection and its transactions: nothing here commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.lake import Lake
from feature_repo.engine.online_sql import StreamTable, Value, ViewQuery
from feature_repo.engine.plan import FeaturePlan, PlanError

__all__ = ["BadEvent", "OnlineState", "rebuild"]

FORMAT = 1


class OnlineState:
    def __init__(self, connection: sqlite3.Connection, plan: FeaturePlan) -> None:
        self.connection, self.plan = connection, plan
        self._streams = {name: StreamTable.of(name, plan) for name in dict.fromkeys(v.stream for v in plan.views)}
        for stream in self._streams.values():
            stream.ensure(connection)
        self._views = [(view, ViewQuery(view)) for view in plan.views]
        self._on_demand = [(o, o.load()) for o in plan.on_demand]

    @staticmethod
    def create_tables(connection: sqlite3.Connection) -> None:
        """What every plan shares. The tables of a plan's streams are made when the state is opened with it."""
        connection.execute("CREATE TABLE IF NOT EXISTS online_format (version INTEGER PRIMARY KEY) WITHOUT ROWID")
        found = connection.execute("SELECT max(version) FROM online_format").fetchone()[0]
        if found is None:
            connection.execute("INSERT OR IGNORE INTO online_format VALUES (?)", (FORMAT,))
        elif found != FORMAT:
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

    def load(self, stream: str, events: Iterable[tuple[str, Mapping[str, object], int, int]]) -> None:
        """Push many (id, event, event_us, created_us), for what comes from the lake: where an id is known already, the lake's values hold."""
        known = self._stream(stream)
        self.connection.executemany(known.upsert, ((i, at, created, *known.values(event)) for i, event, at, created in events))

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids of the events from `from_us` up to, not including, `to_us`."""
        query = f"SELECT event_id FROM {self._stream(stream).table} WHERE event_us >= ? AND event_us < ?"
        return [event_id for (event_id,) in self.connection.execute(query, (from_us, to_us))]

    def count(self, stream: str) -> int:
        found: int = self.connection.execute(f"SELECT count(*) FROM {self._stream(stream).table}").fetchone()[0]
        return found

    def columns(self, stream: str) -> frozenset[str]:
        """What is read of an event, its id's columns included."""
        return frozenset(self._stream(stream).stored).union(*(v.event_id for v in self.plan.views if v.stream == stream))

    @contextmanager
    def bulk(self, stream: str) -> Iterator[None]:
        """For loading much: a table that is empty gets its indexes when all is in it."""
        known = self._stream(stream)
        if self.last_event_us(stream) is None:
            known.drop_indexes(self.connection)
        yield
        known.ensure(self.connection)

    def _stream(self, name: str) -> StreamTable:
        if name not in self._streams:
            raise PlanError(f"{self.plan.service}: no view reads the stream {name!r}")
        return self._streams[name]


def rebuild(
    connection: sqlite3.Connection, plan: FeaturePlan, lake: Lake, until_day: str | None = None, between_days: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Push every validated event of the lake that a window can still reach on its last day (`until_day`, if given), and count the new ones by stream.

    Events that are there already stay; doing it again changes nothing. `between_days` is where a caller may commit, so that others get a turn.
    """
    state = OnlineState(connection, plan)
    days = {s: lake.between(s, "", until_day or "9999", validated=True) for s in dict.fromkeys(v.stream for v in plan.views)}
    # Streams may end on different days; the earliest end is a moment that somebody could still ask for.
    last = min((d[-1] for d in days.values() if d), default="")
    result = {}
    for stream, written in days.items():
        reach = max(v.reach_us for v in plan.views if v.stream == stream)
        since = (datetime.fromisoformat(last) - timedelta(microseconds=reach)).date().isoformat() if last else ""
        before = state.count(stream)
        with state.bulk(stream):
            for day in written:
                if day >= since:
                    load_day(state, lake, stream, day)
                    between_days()
        result[stream] = state.count(stream) - before
    return result


def load_day(state: OnlineState, lake: Lake, stream: str, day: str) -> None:
    """Push one arrival day of a stream."""
    state.load(stream, _events(state, stream, lake.read(stream, [day])))


def _events(state: OnlineState, stream: str, table: pa.Table) -> Iterator[tuple[str, Mapping[str, object], int, int]]:
    from feature_repo.engine.windows import microseconds

    times = microseconds(table["event_timestamp"]).tolist(), microseconds(table["created_timestamp"]).tolist()
    wanted = state.columns(stream)
    names = [c for c in table.column_names if c in wanted]
    rows = zip(*(table[c].to_pylist() for c in names), strict=True)
    for event_us, created_us, row in zip(*times, rows, strict=True):
        event = {name: None if value != value else value for name, value in zip(names, row, strict=True)}  # NaN is null here, as offline
        yield state.plan.event_id(stream, event, event_us), event, event_us, created_us
