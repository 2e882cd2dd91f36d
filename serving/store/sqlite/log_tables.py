"""The tables of the service's log, and the migrations from earlier versions of the file.

The columns of decisions and labels follow from the use case, whose subject stands in the file. Earlier files
have no subject, and belong to `BEFORE`. The log shares `serving.db` with the online state, so that a
decision, its event and its id commit in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from feature_repo.online.sqlite.transactions import transaction
from serving.contract.before_subjects import BEFORE
from serving.contract.subject import Feed, Flag, Number, Subject
from serving.contract.subject.event import Event
from serving.store.base import BadStore, Position

SCHEMA_VERSION = 6
FIRST_WITH_SUBJECT = 5  # Earlier files belong to `BEFORE`.

SHARED = """
CREATE TABLE IF NOT EXISTS sequence (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL,
  clock_us INTEGER NOT NULL, newest_us INTEGER NOT NULL);
INSERT OR IGNORE INTO sequence VALUES (1, 0, 0, 0);
CREATE TABLE IF NOT EXISTS measured (minute_us INTEGER NOT NULL, model_version TEXT NOT NULL,
  what TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (minute_us, model_version, what)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS use_case (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL,
  subject TEXT NOT NULL);
"""
POSITION = "SELECT last, clock_us, newest_us FROM sequence"
# What each version altered in the one before it. New tables come with `SHARED` and `_tables`, columns of
# version 6 and of later declarations with `_hold`.
MIGRATIONS = {
    1: """
ALTER TABLE decisions ADD COLUMN freshness TEXT NOT NULL DEFAULT '{}';
ALTER TABLE labels ADD COLUMN given_us INTEGER;
DROP INDEX labels_once;
""",
    2: "",
    3: "",
    4: "",
    5: "",
}
# Columns that a file of version 5 lacks.
READ, MADE = "read_versions TEXT", "made_versions TEXT"


def create_tables(connection: sqlite3.Connection, subject: Subject | None = None) -> Subject | None:
    """Make the tables that are missing; returns the subject of the file, None where none is known yet.

    A file of an earlier version is brought up to this one. With `subject` the tables of its decisions and
    labels are made too. `BadStore` for a file of a newer version or of another use case.
    """
    if version_of(connection) == SCHEMA_VERSION and (known := _stored(connection)) == subject:
        return known  # Most openings write nothing, and wait for no lock.
    with transaction(connection):  # Two workers that start at once migrate one after the other.
        version = version_of(connection)
        for old in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
            _run(connection, MIGRATIONS[old])
        _run(connection, SHARED)
        stored = _stored(connection) or (BEFORE if 0 < version < FIRST_WITH_SUBJECT else None)
        wanted = subject or stored
        if wanted is not None:
            _hold(connection, wanted, stored)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return wanted


def subject_of_log(connection: sqlite3.Connection) -> Subject | None:
    """The subject whose decisions the file holds; None where no release was ever served from it."""
    version = version_of(connection)
    return _stored(connection) or (BEFORE if 0 < version < FIRST_WITH_SUBJECT else None)


def check_subject(subject: Subject, stored: Subject | None) -> None:
    """`BadStore` where the file holds decisions of another use case."""
    if stored is not None and stored.name != subject.name:
        raise BadStore(
            f"serving.db holds decisions of the use case {stored.name!r}, not of {subject.name!r}:"
            " a home belongs to one use case; give the other one a home of its own (MLOPS_HOME)"
        )


def position_of(connection: sqlite3.Connection) -> Position:
    """Where the log stands."""
    return Position(*connection.execute(POSITION).fetchone())


def _hold(connection: sqlite3.Connection, subject: Subject, stored: Subject | None) -> None:
    """Make the tables of a subject, and the columns that a later version or declaration added."""
    check_subject(subject, stored)
    _run(connection, _tables(subject))
    _add_columns(connection, "decisions", [*_columns(subject.event), READ, MADE])
    _add_columns(connection, "labels", [MADE])
    for feed in subject.feeds:
        _run(connection, _feed_table(feed))
        _add_columns(connection, feed_table(feed.name), [*_columns(feed), MADE])
    row = (subject.name, json.dumps(subject.to_dict()))
    connection.execute("INSERT OR REPLACE INTO use_case VALUES (1, ?, ?)", row)


def feed_table(name: str) -> str:
    """The table of a further feed."""
    return f"feed_{name}"


def typed(stream: Event | Feed, names: Sequence[str], row: Iterable[object]) -> dict[str, object]:
    """The values of a row by their names. SQLite has no truth values: a Flag comes back as 0 or 1."""
    values = dict(zip(names, row, strict=True))
    for column in stream.columns:
        if isinstance(column, Flag) and values[column.name] is not None:
            values[column.name] = bool(values[column.name])
    return values


def _add_columns(connection: sqlite3.Connection, table: str, columns: Iterable[str]) -> None:
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    for column in columns:
        if column.split()[0] not in there:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _columns(stream: Event | Feed) -> list[str]:
    """A stream's own columns; those of the event are null for a ready-made vector."""
    kinds = {column.name: column for column in stream.columns}
    keys = [f"{key.name} TEXT" for key in stream.keys]
    return keys + [
        f"{name} {'REAL' if isinstance(one, Number) else 'INTEGER' if isinstance(one, Flag) else 'TEXT'}"
        for name, one in kinds.items()
    ]


def _tables(subject: Subject) -> str:
    event, label = subject.event, subject.labels.name
    return f"""
CREATE TABLE IF NOT EXISTS decisions (
  seq INTEGER PRIMARY KEY,
  prediction_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('{event.noun}', 'features')),
  event_us INTEGER NOT NULL,
  created_us INTEGER NOT NULL,
  {", ".join(_columns(event))},
  features TEXT NOT NULL,
  read_seq INTEGER NOT NULL,
  {READ}, {MADE},
  {subject.score} REAL NOT NULL, decision TEXT NOT NULL, review_threshold REAL NOT NULL,
  block_threshold REAL NOT NULL,
  model_version TEXT NOT NULL, reasons TEXT NOT NULL, degraded INTEGER NOT NULL,
  maturity_us INTEGER NOT NULL,
  payload_digest BLOB NOT NULL,
  freshness TEXT NOT NULL DEFAULT '{{}}'
);
CREATE INDEX IF NOT EXISTS decisions_by_arrival ON decisions (created_us);
CREATE TABLE IF NOT EXISTS labels (
  seq INTEGER PRIMARY KEY,
  {event.id} TEXT NOT NULL,
  {label} INTEGER NOT NULL,
  label_us INTEGER NOT NULL,
  known INTEGER NOT NULL,
  given_us INTEGER,
  {MADE}
);
CREATE INDEX IF NOT EXISTS labels_by_arrival ON labels (label_us);
CREATE UNIQUE INDEX IF NOT EXISTS labels_once ON labels ({event.id}, coalesce(given_us, label_us), {label});
CREATE TABLE IF NOT EXISTS waiting_labels ({event.id} TEXT NOT NULL, label_us INTEGER NOT NULL,
  {label} INTEGER NOT NULL, PRIMARY KEY ({event.id}, label_us, {label})) WITHOUT ROWID;
"""


def _feed_table(feed: Feed) -> str:
    table = feed_table(feed.name)
    return f"""
CREATE TABLE IF NOT EXISTS {table} (seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE,
  event_us INTEGER NOT NULL, created_us INTEGER NOT NULL, {MADE}, {", ".join(_columns(feed))});
CREATE INDEX IF NOT EXISTS {table}_by_arrival ON {table} (created_us);
"""


def _stored(connection: sqlite3.Connection) -> Subject | None:
    try:
        row = connection.execute("SELECT subject FROM use_case").fetchone()
    except sqlite3.OperationalError:  # The table is not there yet.
        return None
    try:
        return Subject.from_dict(json.loads(row[0])) if row else None
    except (KeyError, TypeError, ValueError) as error:
        raise BadStore(f"serving.db: its use case on record cannot be read ({error!r})") from error


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the file's tables; 0 for an empty file, `BadStore` for a newer version."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version <= SCHEMA_VERSION:
        raise BadStore(f"serving.db has schema version {version}, this platform knows {SCHEMA_VERSION}")
    return version


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run each statement alone, because `executescript` would commit first."""
    for statement in script.split(";"):
        connection.execute(statement)
