"""Events of a further feed that came to the service, so that the lake and a rebuild of the state get them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from serving.contract.subject import Feed
from serving.store.sqlite.log_tables import feed_table


class FeedLog:
    """The table of one further feed, over a caller's connection and transactions."""

    def __init__(self, connection: sqlite3.Connection, feed: Feed) -> None:
        self._connection, self.feed = connection, feed
        table, own = feed_table(feed.name), ", ".join(feed.names)
        self._find = f"SELECT event_us, {own} FROM {table} WHERE event_id = ?"
        columns = f"seq, event_id, event_us, created_us, {own}"
        marks = ", ".join("?" * (4 + len(feed.names)))
        self._insert = f"INSERT INTO {table} ({columns}) VALUES ({marks})"

    def id_of(self, event_us: int, values: Mapping[str, object]) -> str:
        """The id of an event: the columns that identify it, joined by colons, its time in microseconds."""
        return ":".join(str(event_us if name == "event_timestamp" else values[name]) for name in self.feed.id)

    def holds(self, event_id: str, event_us: int, values: Mapping[str, object]) -> bool | None:
        """Whether the event under this id is the same one; None where the id is new."""
        found = self._connection.execute(self._find, (event_id,)).fetchone()
        return None if found is None else found == (event_us, *(values[name] for name in self.feed.names))

    def add(
        self, seq: int, event_id: str, event_us: int, created_us: int, values: Mapping[str, object]
    ) -> None:
        """Record an event as number `seq`."""
        row = (seq, event_id, event_us, created_us, *(values[name] for name in self.feed.names))
        self._connection.execute(self._insert, row)
