"""The service's log: every decision with all that its replay needs, and every label, in commit order.

Nothing here needs a web framework: assets and replay read through this module.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import orjson
import pyarrow as pa

from feature_repo.times import DAY_US, from_us, midnight_us
from serving.contract.before_subjects import BEFORE
from serving.contract.records import Answer, Reason
from serving.contract.subject import Feed, Subject
from serving.store.sqlite.log_tables import feed_table, open_read_only, subject_of_log

END_US = 1 << 62  # Beyond every moment that a file can hold.

TIMESTAMP = pa.timestamp("us", tz="UTC")
KINDS = {"number": pa.float64(), "flag": pa.bool_(), "text": pa.string()}
# Column names in the file where they differ from the names outside.
STORED = {"event_timestamp": "event_us", "created_timestamp": "created_us", "label_timestamp": "label_us"}


class DecisionLog:
    """Decisions and labels of one use case in a file whose tables are there, over a caller's connection."""

    def __init__(self, connection: sqlite3.Connection, subject: Subject) -> None:
        self._connection, self._event = connection, subject.event
        own = self._event.names[1:]
        columns = (
            "seq", "prediction_id", "kind", "event_us", "created_us", *own, "features", "read_seq",
            subject.score, "decision", "review_threshold", "block_threshold", "model_version", "reasons",
            "degraded", "maturity_us", "payload_digest", "freshness",
        )  # fmt: skip
        self._insert = (
            f"INSERT INTO decisions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        )
        self._none = (None,) * len(own)
        self._find = (
            f"SELECT {subject.score}, decision, review_threshold, block_threshold, model_version, reasons,"
            " degraded, freshness, payload_digest FROM decisions WHERE prediction_id = ?"
        )
        label = f"seq, {self._event.id}, {subject.labels.name}, label_us, known, given_us"
        self._insert_label = f"INSERT OR IGNORE INTO labels ({label}) VALUES (?, ?, ?, ?, ?, ?)"

    def find(self, prediction_id: str) -> tuple[Answer, bytes] | None:
        """The stored answer to an id, and the digest of what was asked; None where the id is new."""
        row = self._connection.execute(self._find, (prediction_id,)).fetchone()
        if row is None:
            return None
        score, decision, review, block, version, reasons, degraded, freshness, digest = row
        told = tuple(Reason(**reason) for reason in orjson.loads(reasons))
        aged = orjson.loads(freshness)
        return (
            Answer(
                prediction_id,
                score,
                decision,
                review,
                block,
                version,
                told,
                bool(degraded),
                aged,
                repeated=True,
            ),
            digest,
        )

    def add(
        self,
        seq: int,
        kind: str,
        times_us: tuple[int, int],
        values: Sequence[object] | None,
        vector: object,
        answer: Answer,
        maturity_us: int,
        digest: bytes,
    ) -> None:
        """Record a decision as number `seq`, which has read what was committed before it.

        `times_us` is when it happened and when it was known. `values` are the event's keys and columns, None
        for a ready-made vector.
        """
        self._connection.execute(
            self._insert,
            (
                seq,
                answer.prediction_id,
                kind,
                *times_us,
                *(self._none if values is None else values),
                orjson.dumps(vector).decode(),
                seq - 1,
                answer.score,
                answer.decision,
                answer.threshold,
                answer.block_threshold,
                answer.model_version,
                orjson.dumps(answer.reasons).decode(),
                answer.degraded,
                maturity_us,
                digest,
                orjson.dumps(answer.freshness).decode(),
            ),
        )

    def add_label(
        self, seq: int, event_id: str, positive: bool, label_us: int, known: bool, given_us: int | None
    ) -> bool:
        """Record a label as number `seq`; False where this very label was there already."""
        row = (seq, event_id, positive, label_us, known, given_us)
        return self._connection.execute(self._insert_label, row).rowcount > 0


def decisions_schema(subject: Subject) -> pa.Schema:
    """The columns of `read_decisions`. An event's own columns are null for a ready-made vector."""
    event = subject.event
    own = [(key.name, pa.string()) for key in event.keys]
    own += [(column.name, KINDS[column.kind]) for column in event.columns]
    return pa.schema(
        [
            ("seq", pa.int64()),
            ("prediction_id", pa.string()),
            ("kind", pa.string()),
            ("event_timestamp", TIMESTAMP),
            ("created_timestamp", TIMESTAMP),
            *own,
            ("features", pa.string()),
            ("read_seq", pa.int64()),
            (subject.score, pa.float64()),
            ("decision", pa.string()),
            ("review_threshold", pa.float64()),
            ("block_threshold", pa.float64()),
            ("model_version", pa.string()),
            ("degraded", pa.bool_()),
            ("freshness", pa.string()),
        ]
    )


def labels_schema(subject: Subject) -> pa.Schema:
    """The columns of `read_labels`."""
    return pa.schema(
        [
            ("seq", pa.int64()),
            (subject.event.id, pa.string()),
            (subject.labels.name, pa.bool_()),
            ("label_timestamp", TIMESTAMP),
            ("known", pa.bool_()),
        ]
    )


def read_decisions(db: Path, day: str, subject: Subject | None = None) -> pa.Table:
    """The decisions that arrived on a day (UTC, of `created_timestamp`), in commit order.

    Empty where nothing was served. `subject` gives the columns; by default the file's own.
    """
    with open_read_only(db) as connection:
        schema = decisions_schema(subject or _subject(connection))
        return _read(connection, "decisions", schema, "created_us", day)


def read_labels(db: Path, day: str, subject: Subject | None = None) -> pa.Table:
    """The labels of a day (UTC, of `label_timestamp`), in commit order.

    `known` is false where the service had not seen the event. `subject` gives the columns; by default the
    file's own.
    """
    with open_read_only(db) as connection:
        schema = labels_schema(subject or _subject(connection))
        return _read(connection, "labels", schema, "label_us", day)


def read_feed(db: Path, feed: Feed, day: str) -> pa.Table:
    """The events of a further feed that arrived on a day (UTC, of `created_timestamp`), in commit order.

    Its columns are `seq`, the feed's two times, its keys and its columns.
    """
    own = [(key.name, pa.string()) for key in feed.keys]
    own += [(column.name, KINDS[column.kind]) for column in feed.columns]
    times = [("event_timestamp", TIMESTAMP), ("created_timestamp", TIMESTAMP)]
    schema = pa.schema([("seq", pa.int64()), *times, *own])
    with open_read_only(db, feed_table(feed.name)) as connection:
        return _read(connection, feed_table(feed.name), schema, "created_us", day)


def served_days(db: Path, what: str = "events", days: Collection[str] | None = None) -> set[str]:
    """The arrival days, of `days` or of all, on which the service took at least one event, or one label.

    `what` is `events`, `labels` or the name of a further feed.

    For those days the log is the source, and not the feed's file. Ready-made vectors do not count, as they
    bring no event.
    """
    table, arrival, only = {
        "events": ("decisions", "created_us", "kind != 'features' AND"),
        "labels": ("labels", "label_us", ""),
    }.get(what, (feed_table(what), "created_us", ""))
    # One step in the index of arrivals a day, however many rows the day has.
    within = f"{only} {arrival} >= ? AND {arrival} < ?"
    query = f"SELECT {arrival} FROM {table} WHERE {within} ORDER BY {arrival} LIMIT 1"
    with open_read_only(db, table) as connection:
        if connection is None:
            return set()
        if days is not None:
            return {
                day
                for day in days
                if connection.execute(query, (midnight_us(day), midnight_us(day) + DAY_US)).fetchone()
            }
        found, since = set(), -END_US
        while row := connection.execute(query, (since, END_US)).fetchone():
            found.add(from_us(row[0]).date().isoformat())
            since = (row[0] // DAY_US + 1) * DAY_US
        return found


def _subject(connection: sqlite3.Connection | None) -> Subject:
    return (subject_of_log(connection) if connection is not None else None) or BEFORE


def _read(
    connection: sqlite3.Connection | None, table: str, schema: pa.Schema, arrival: str, day: str
) -> pa.Table:
    if connection is None:
        return schema.empty_table()
    start = midnight_us(day)
    # A file that no service of this version has opened yet lacks the newest columns.
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    columns = ", ".join(
        stored if (stored := STORED.get(name, name)) in there else "NULL" for name in schema.names
    )
    query = f"SELECT {columns} FROM {table} WHERE {arrival} >= ? AND {arrival} < ? ORDER BY seq"
    rows = connection.execute(query, (start, start + DAY_US)).fetchall()
    values: list[tuple[object, ...]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table(
        [_column(list(column), field.type) for column, field in zip(values, schema, strict=True)],
        schema=schema,
    )


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    if kind == TIMESTAMP:
        return pa.array(values, pa.int64()).cast(kind)
    if kind == pa.bool_():
        return pa.array([None if v is None else bool(v) for v in values], kind)
    return pa.array(values, kind)
