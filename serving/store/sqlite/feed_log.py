"""Events of a further feed that came to the service, for the lake and for a rebuild of the state."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import orjson

from serving.contract.subject import Feed
from serving.store.base import FeedEventRow
from serving.store.sqlite.log_tables import feed_table, typed


class FeedLog:
    """The table of one further feed, over a caller's connection and commits."""

    def __init__(self, connection: sqlite3.Connection, feed: Feed) -> None:
        self._connection, self._feed = connection, feed
        table, own = feed_table(feed.name), ", ".join(feed.names)
        self._find = f"SELECT event_us, {own} FROM {table} WHERE event_id = ?"
        columns = f"seq, event_id, event_us, created_us, made_versions, {own}"
        marks = ", ".join("?" * (5 + len(feed.names)))
        self._insert = f"INSERT INTO {table} ({columns}) VALUES ({marks})"

    def find(self, event_id: str) -> tuple[int, Mapping[str, object]] | None:
        """When the event under this id happened, and its keys and columns; None where the id is new."""
        row = self._connection.execute(self._find, (event_id,)).fetchone()
        return None if row is None else (row[0], typed(self._feed, self._feed.names, row[1:]))

    def add(self, row: FeedEventRow) -> None:
        """Record an event."""
        own, made = (row.values[name] for name in self._feed.names), orjson.dumps(row.made).decode()
        fixed = (row.seq, row.event_id, row.event_us, row.created_us, made)
        self._connection.execute(self._insert, (*fixed, *own))
