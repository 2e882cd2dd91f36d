"""A transaction is all or nothing, and what went wrong is what the caller sees."""

import sqlite3
from pathlib import Path

import pytest
from stores import connect

from feature_repo.online.sqlite.transactions import snapshot, transaction


@pytest.fixture
def database(tmp_path: Path) -> Path:
    connect(tmp_path / "s.db").execute("CREATE TABLE t (n INTEGER CHECK (n < 10))")
    return tmp_path / "s.db"


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


def test_what_the_body_wrote_is_there_after_it_and_not_before(database: Path) -> None:
    writer, reader = connect(database), connect(database)
    with transaction(writer):
        writer.execute("INSERT INTO t VALUES (1)")
        assert numbers(reader) == []
    assert numbers(reader) == [1]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_undoes_the_transaction_and_goes_on(database: Path, error: BaseException) -> None:
    connection = connect(database)

    def fails() -> None:
        with transaction(connection):
            connection.execute("INSERT INTO t VALUES (1)")
            raise error

    with pytest.raises(type(error)):
        fails()
    assert numbers(connection) == []
    assert not connection.in_transaction


def test_a_transaction_that_sqlite_undid_itself_does_not_hide_the_error(database: Path) -> None:
    connection = connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"), transaction(connection):
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (99)")
    assert not connection.in_transaction


def test_a_commit_that_fails_leaves_nothing_open(database: Path) -> None:
    connection = connect(database)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE parent (n INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE child (n REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), transaction(connection):
        connection.execute("INSERT INTO child VALUES (1)")
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_a_lock_that_another_holds_is_told_and_nothing_is_open(database: Path) -> None:
    holder, other = connect(database), connect(database)
    other.execute("PRAGMA busy_timeout = 0")
    with transaction(holder), pytest.raises(sqlite3.OperationalError, match="locked"), transaction(other):
        pass
    assert not other.in_transaction


def test_a_snapshot_does_not_see_what_is_committed_meanwhile(database: Path) -> None:
    writer, reader = connect(database), connect(database)
    with snapshot(reader):
        assert numbers(reader) == []
        with transaction(writer):
            writer.execute("INSERT INTO t VALUES (1)")
        assert numbers(reader) == []
    assert numbers(reader) == [1]
