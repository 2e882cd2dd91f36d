"""Transactions of SQLite, of which all is written or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the body writes.

    An exception of the body or of the commit undoes the transaction and is raised. The connection begins no
    transactions (`isolation_level=None`), and none is open. The write lock is taken at once.
    `sqlite3.OperationalError` where the lock is not free within the busy timeout.
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
    """Read one state of the database, whatever other connections commit. Nothing is written."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the open transaction, if there is one. After a full disk SQLite has undone it already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
