"""The reading half: what the service put on record, over a connection that cannot write."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from feature_repo.times import DAY_US, from_us, midnight_us
from serving.contract.subject import Feed, Subject
from serving.store.base import AGREE, Position, ServingLog
from serving.store.log_columns import (
    TIMESTAMP,
    decision_columns,
    feed_columns,
    label_columns,
    receipt_columns,
)
from serving.store.sqlite.database import open_read_only
from serving.store.sqlite.log_tables import check_subject, feed_table, position_of, subject_of_log
from serving.store.sqlite.measured import sums_since
from serving.store.sqlite.state_compatibility import agreed_us
from serving.store.version_counts import Measured

END_US = 1 << 62  # Beyond every moment that a file can hold.
IDS_A_QUERY = 500
# Multiplied by this number modulo 2^32, the numbers of neighbouring rows lie far apart (Knuth, The Art of
# Computer Programming, volume 3, 6.4). The smallest products are spread over the log.
SPREAD = "seq * 2654435761 % 4294967296"
# Column names in the file where they differ from the names outside.
STORED = {"event_timestamp": "event_us", "created_timestamp": "created_us", "label_timestamp": "label_us"}


class SqliteServingLog(ServingLog):
    """The `ServingLog` of a file. Every question opens the file, so that none keeps it open."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def subject(self) -> Subject | None:
        """From the file's own table. A file of an earlier version has none, and belongs to `BEFORE`."""
        with open_read_only(self._file) as connection:
            return None if connection is None else subject_of_log(connection)

    def decisions(self, day: str, subject: Subject) -> pa.Table:
        """From the index of arrivals."""
        return self._of_day("decisions", decision_columns(subject), "created_us", day, subject)

    def decision_ids(self, subject: Subject, day: str | None = None, sample: int | None = None) -> list[str]:
        """The rows are chosen in the index of arrivals."""
        start, end = (-END_US, END_US) if day is None else _bounds_of(day)
        query = (
            "SELECT prediction_id FROM decisions WHERE seq IN (SELECT seq FROM decisions"
            f" WHERE created_us >= ? AND created_us < ? ORDER BY {SPREAD} LIMIT ?) ORDER BY seq"
        )
        with open_read_only(self._file) as connection:
            if connection is None:
                return []
            check_subject(subject, subject_of_log(connection))
            limit = -1 if sample is None else sample  # SQLite takes -1 for no limit.
            return [row[0] for row in connection.execute(query, (start, end, limit))]

    def receipts(self, subject: Subject, ids: Sequence[str]) -> pa.Table:
        """From the index of ids, some hundred at a time."""
        schema = receipt_columns(subject)
        tables = [schema.empty_table()]
        for first in range(0, len(ids), IDS_A_QUERY):
            some = ids[first : first + IDS_A_QUERY]
            where = f"prediction_id IN ({', '.join('?' * len(some))})"
            tables.append(self._rows("decisions", schema, where, some, subject))
        return pa.concat_tables(tables).sort_by("seq")

    def labels(self, day: str, subject: Subject) -> pa.Table:
        """From the index of arrivals."""
        return self._of_day("labels", label_columns(subject), "label_us", day, subject)

    def feed_events(self, day: str, feed: Feed) -> pa.Table:
        """From the index of arrivals."""
        return self._of_day(feed_table(feed.name), feed_columns(feed), "created_us", day)

    def served_days(self, subject: Subject, dataset: str, days: Collection[str] | None = None) -> set[str]:
        """One step in the index of arrivals a day, however many rows the day has."""
        table, arrival, only = {
            subject.event.dataset: ("decisions", "created_us", "kind != 'features' AND"),
            subject.labels.dataset: ("labels", "label_us", ""),
        }.get(dataset, (feed_table(dataset), "created_us", ""))
        within = f"{only} {arrival} >= ? AND {arrival} < ?"
        query = f"SELECT {arrival} FROM {table} WHERE {within} ORDER BY {arrival} LIMIT 1"
        with open_read_only(self._file, table) as connection:
            if connection is None:
                return set()
            check_subject(subject, subject_of_log(connection))
            if days is not None:
                return {day for day in days if connection.execute(query, _bounds_of(day)).fetchone()}
            found, since = set(), -END_US
            while row := connection.execute(query, (since, END_US)).fetchone():
                found.add(from_us(row[0]).date().isoformat())
                since = (row[0] // DAY_US + 1) * DAY_US
            return found

    def measured(self, version: str, since_us: int) -> Measured:
        """The sums over the minutes."""
        with open_read_only(self._file, "measured") as connection:
            counts = {} if connection is None else sums_since(connection, version, since_us)
        return Measured.of(counts)

    def position(self) -> Position:
        """From the one row that counts."""
        with open_read_only(self._file, "sequence") as connection:
            return Position(0, 0, 0) if connection is None else position_of(connection)

    def agreed_us(self, stream: str, events: int = AGREE) -> int:
        """From the index of the event times."""
        with open_read_only(self._file, "sequence") as connection:
            return 0 if connection is None else agreed_us(connection, stream, events)

    def _of_day(
        self, table: str, schema: pa.Schema, arrival: str, day: str, subject: Subject | None = None
    ) -> pa.Table:
        return self._rows(table, schema, f"{arrival} >= ? AND {arrival} < ?", _bounds_of(day), subject)

    def _rows(
        self,
        table: str,
        schema: pa.Schema,
        where: str,
        values: Sequence[object],
        subject: Subject | None = None,
    ) -> pa.Table:
        with open_read_only(self._file, table) as connection:
            if connection is None:
                return schema.empty_table()
            if subject is not None:
                check_subject(subject, subject_of_log(connection))
            return _read(connection, table, schema, where, values)


def _bounds_of(day: str) -> tuple[int, int]:
    """The first moment of a day and of the next one."""
    return midnight_us(day), midnight_us(day) + DAY_US


def _read(
    connection: sqlite3.Connection, table: str, schema: pa.Schema, where: str, values: Sequence[object]
) -> pa.Table:
    # A file of an earlier version lacks the newest columns.
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    columns = ", ".join(
        stored if (stored := STORED.get(name, name)) in there else "NULL" for name in schema.names
    )
    query = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY seq"
    rows = connection.execute(query, values).fetchall()
    found: list[tuple[object, ...]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table(
        [_column(list(column), field.type) for column, field in zip(found, schema, strict=True)],
        schema=schema,
    )


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    if kind == TIMESTAMP:
        return pa.array(values, pa.int64()).cast(kind)
    if kind == pa.bool_():
        return pa.array([None if v is None else bool(v) for v in values], kind)
    return pa.array(values, kind)
