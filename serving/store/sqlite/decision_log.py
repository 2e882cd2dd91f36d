"""The service's log, as tables and readers: every decision with all that its replay needs, and every label,
in commit order.

It shares `serving.db` with the online state, so that a decision, its event and its id commit in one
transaction. Nothing here needs a web framework: the `prediction_log` asset and replay read through this
module.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import pyarrow as pa

from feature_repo.online.sqlite.transactions import transaction

SCHEMA_VERSION = 4
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_US = 1 << 62  # after every moment that can be told

TABLES = """
CREATE TABLE IF NOT EXISTS sequence (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL, clock_us INTEGER NOT NULL,
  newest_us INTEGER NOT NULL);
INSERT OR IGNORE INTO sequence VALUES (1, 0, 0, 0);
CREATE TABLE IF NOT EXISTS decisions (
  seq INTEGER PRIMARY KEY,
  prediction_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('transaction', 'features')),
  event_us INTEGER NOT NULL,
  created_us INTEGER NOT NULL,
  customer_id TEXT, merchant_id TEXT, amount REAL, is_declined INTEGER,
  features TEXT NOT NULL,
  read_seq INTEGER NOT NULL,
  fraud_score REAL NOT NULL, decision TEXT NOT NULL, review_threshold REAL NOT NULL, block_threshold REAL NOT NULL,
  model_version TEXT NOT NULL, reasons TEXT NOT NULL, degraded INTEGER NOT NULL,
  maturity_us INTEGER NOT NULL,
  payload_digest BLOB NOT NULL,
  freshness TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS decisions_by_arrival ON decisions (created_us);
CREATE TABLE IF NOT EXISTS labels (
  seq INTEGER PRIMARY KEY,
  transaction_id TEXT NOT NULL,
  is_fraud INTEGER NOT NULL,
  label_us INTEGER NOT NULL,
  known INTEGER NOT NULL,
  given_us INTEGER
);
CREATE INDEX IF NOT EXISTS labels_by_arrival ON labels (label_us);
CREATE UNIQUE INDEX IF NOT EXISTS labels_once ON labels (transaction_id, coalesce(given_us, label_us), is_fraud);
CREATE TABLE IF NOT EXISTS waiting_labels (transaction_id TEXT NOT NULL, label_us INTEGER NOT NULL, is_fraud INTEGER NOT NULL,
  PRIMARY KEY (transaction_id, label_us, is_fraud)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measured (minute_us INTEGER NOT NULL, model_version TEXT NOT NULL, what TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (minute_us, model_version, what)) WITHOUT ROWID;
"""
# What each version altered in the one before it; new tables come with `TABLES`.
MIGRATIONS = {
    1: (
        """
ALTER TABLE decisions ADD COLUMN freshness TEXT NOT NULL DEFAULT '{}';
ALTER TABLE labels ADD COLUMN given_us INTEGER;
DROP INDEX labels_once;
"""
    ),
    2: "",
    3: "",
}

TIMESTAMP = pa.timestamp("us", tz="UTC")
DECISIONS = pa.schema(
    [
        ("seq", pa.int64()),
        ("prediction_id", pa.string()),
        ("kind", pa.string()),
        ("event_timestamp", TIMESTAMP),
        ("created_timestamp", TIMESTAMP),
        ("customer_id", pa.string()),
        ("merchant_id", pa.string()),
        ("amount", pa.float64()),
        ("is_declined", pa.bool_()),
        ("features", pa.string()),
        ("read_seq", pa.int64()),
        ("fraud_score", pa.float64()),
        ("decision", pa.string()),
        ("review_threshold", pa.float64()),
        ("block_threshold", pa.float64()),
        ("model_version", pa.string()),
        ("degraded", pa.bool_()),
        ("freshness", pa.string()),
    ]
)
LABELS = pa.schema(
    [
        ("seq", pa.int64()),
        ("transaction_id", pa.string()),
        ("is_fraud", pa.bool_()),
        ("label_timestamp", TIMESTAMP),
        ("known", pa.bool_()),
    ]
)
# Column names in the file where they differ from the names outside.
STORED = {"event_timestamp": "event_us", "created_timestamp": "created_us", "label_timestamp": "label_us"}


class LogError(Exception):
    """The log's file cannot be used: written by another version of the platform, or not a log."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Idempotent; an older file is brought up to this version. One of a newer version is `LogError`."""
    if _version(connection) == SCHEMA_VERSION:
        return  # most openings: nothing to write, so no lock to wait for
    with transaction(connection):  # Two workers that start at once migrate one after the other.
        version = _version(connection)
        for old in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
            _run(connection, MIGRATIONS[old])
        _run(connection, TABLES)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def read_decisions(db: Path, day: str) -> pa.Table:
    """The decisions that arrived on a day (of `created_timestamp`), in commit order; empty where nothing was
    served.
    """
    return _read(db, "decisions", DECISIONS, "created_us", day)


def read_labels(db: Path, day: str) -> pa.Table:
    """The labels of a day (of `label_timestamp`), in commit order.

    `known` is false where the service had not seen the transaction.
    """
    return _read(db, "labels", LABELS, "label_us", day)


def served_days(
    db: Path, what: Literal["transactions", "labels"] = "transactions", days: Collection[str] | None = None
) -> set[str]:
    """The arrival days, of `days` or of all, on which the service took at least one transaction (or one
    label): for those the log is the source, not the feed's file.

    Ready-made vectors do not count, as they bring no transaction.
    """
    table, arrival, only = {
        "transactions": ("decisions", "created_us", "kind = 'transaction' AND"),
        "labels": ("labels", "label_us", ""),
    }[what]
    # One step in the index of arrivals a day, however many rows the day has.
    query = (
        f"SELECT {arrival} FROM {table} WHERE {only} {arrival} >= ? AND {arrival} < ? ORDER BY {arrival}"
        " LIMIT 1"
    )
    with open_read_only(db) as connection:
        if connection is None:
            return set()
        if days is not None:
            return {
                day
                for day in days
                if connection.execute(query, (_midnight_us(day), _midnight_us(day) + DAY_US)).fetchone()
            }
        found, since = set(), -END_US
        while row := connection.execute(query, (since, END_US)).fetchone():
            found.add(from_us(row[0]).date().isoformat())
            since = (row[0] // DAY_US + 1) * DAY_US
        return found


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch, exactly, of a datetime that has a zone."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(moment_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=moment_us)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version <= SCHEMA_VERSION:
        raise LogError(f"serving.db has schema version {version}, this platform knows {SCHEMA_VERSION}")
    return version


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: `executescript` would commit first."""
    for statement in script.split(";"):
        connection.execute(statement)


def _read(db: Path, table: str, schema: pa.Schema, arrival: str, day: str) -> pa.Table:
    start = _midnight_us(day)
    with open_read_only(db) as connection:
        # A file that no service of this version has opened yet lacks the newest columns.
        there = (
            set()
            if connection is None
            else {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        )
        columns = ", ".join(
            stored if (stored := STORED.get(name, name)) in there else "NULL" for name in schema.names
        )
        query = f"SELECT {columns} FROM {table} WHERE {arrival} >= ? AND {arrival} < ? ORDER BY seq"
        rows = [] if connection is None else connection.execute(query, (start, start + DAY_US)).fetchall()
    values: list[tuple[object, ...]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table(
        [_column(list(column), field.type) for column, field in zip(values, schema, strict=True)],
        schema=schema,
    )


def _midnight_us(day: str) -> int:
    return (date.fromisoformat(day) - EPOCH.date()).days * DAY_US


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    if kind == TIMESTAMP:
        return pa.array(values, pa.int64()).cast(kind)
    if kind == pa.bool_():
        return pa.array([None if v is None else bool(v) for v in values], kind)
    return pa.array(values, kind)


@contextlib.contextmanager
def open_read_only(db: Path, table: str = "decisions") -> Iterator[sqlite3.Connection | None]:
    """A connection that cannot write, or None where no service ever made the table."""
    if not db.exists():
        yield None
        return
    connection = sqlite3.connect(f"{db.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        _version(connection)
        exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        yield connection if exists else None
    except sqlite3.DatabaseError as error:
        raise LogError(f"{db.name} cannot be read ({error})") from error
    finally:
        connection.close()
