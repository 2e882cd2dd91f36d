"""The log as the rules of events read it: one event, its labels, and what arrived since a moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from serving.contract.events import EventLog, FeedRow, LoggedEvent
from serving.contract.subject import Feed, Subject
from serving.store.sqlite.log_tables import feed_table, typed

# About 10 ms of replay under the lock of the file, for which a request waits up to 250 ms.
ROWS_A_STEP = 100


class SqliteEventLog(EventLog):
    """The `EventLog` of one use case, over a caller's connection and commits."""

    def __init__(self, connection: sqlite3.Connection, subject: Subject) -> None:
        self._connection, self._event = connection, subject.event
        event, label = subject.event, subject.labels.name
        stored = ", ".join(event.names[1:])
        columns = f"prediction_id, {stored}, event_us, created_us, decision, maturity_us"
        of_events = f"kind = '{event.noun}'"
        self._one = f"SELECT {columns} FROM decisions WHERE prediction_id = ? AND {of_events}"
        self._since = (
            f"SELECT seq, {columns} FROM decisions WHERE {of_events} AND created_us >= ? AND seq > ?"
            " ORDER BY seq LIMIT ?"
        )
        self._labels_of = (
            f"SELECT label_us, {label} FROM labels WHERE {event.id} = ?1"
            f" UNION ALL SELECT label_us, {label} FROM waiting_labels WHERE {event.id} = ?1"
        )
        self._labelled = (
            f"SELECT seq, {event.id} FROM labels WHERE label_us >= ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        self._wait = f"INSERT OR IGNORE INTO waiting_labels ({event.id}, label_us, {label}) VALUES (?, ?, ?)"

    def find_event(self, event_id: str) -> LoggedEvent | None:
        """From the index of the ids."""
        row = self._connection.execute(self._one, (event_id,)).fetchone()
        return None if row is None else self._logged(row)

    def labels_of(self, event_id: str) -> list[tuple[int, bool]]:
        """From the labels of the log and those that wait."""
        # Nearly every event has none, and SQLite would set up a sort for it.
        rows = self._connection.execute(self._labels_of, (event_id,)).fetchall()
        found = {(label_us, bool(positive)) for label_us, positive in rows}
        return sorted(found, key=lambda label: (label[0], not label[1])) if found else []

    def keep_waiting(self, labels: Iterable[tuple[str, int, bool]]) -> None:
        """Replace the labels that wait in the lake for their events."""
        self._connection.execute("DELETE FROM waiting_labels")
        self._connection.executemany(self._wait, labels)

    def events_since(self, since_us: int) -> Iterator[Sequence[LoggedEvent]]:
        """`ROWS_A_STEP` events at a time."""
        for rows in self._steps(self._since, since_us):
            yield [self._logged(row) for _, *row in rows]

    def labelled_since(self, since_us: int) -> Iterator[Sequence[str]]:
        """`ROWS_A_STEP` labels at a time."""
        for rows in self._steps(self._labelled, since_us):
            yield [event_id for _, event_id in rows]

    def feed_events_since(self, feed: Feed, since_us: int) -> Iterator[Sequence[FeedRow]]:
        """`ROWS_A_STEP` events at a time."""
        query = (
            f"SELECT seq, event_us, created_us, {', '.join(feed.names)} FROM {feed_table(feed.name)}"
            " WHERE created_us >= ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        for rows in self._steps(query, since_us):
            yield [
                FeedRow(typed(feed, feed.names, own), event_us, created_us)
                for _, event_us, created_us, *own in rows
            ]

    def _steps(self, query: str, since_us: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query whose first column is the number of the row, a few at a time."""
        after = -1
        while rows := self._connection.execute(query, (since_us, after, ROWS_A_STEP)).fetchall():
            yield rows
            after = rows[-1][0]

    def _logged(self, row: Sequence[Any]) -> LoggedEvent:
        *own, event_us, created_us, decision, maturity_us = row
        return LoggedEvent(
            typed(self._event, self._event.names, own), event_us, created_us, decision, maturity_us
        )
