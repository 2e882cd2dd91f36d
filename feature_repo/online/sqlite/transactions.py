"""One transaction of SQLite: all of it or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the body writes. Whatever the body or the commit raises, undo the transaction and raise
    that.

    The connection begins no transactions of its own (`isolation_level=None`), and none is open. The write
    lock is taken at once; `sqlite3.OperationalError` where it is not free within the busy timeout.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read one state of the database, whatever others commit meanwhile. Nothing is written."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the open transaction, if there is one: after a full disk SQLite has undone it already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
