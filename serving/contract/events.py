"""What a decision and a label mean for the online state.

One rule holds for the service that takes them and for a rebuild that replays its log. The tables of the log
(`serving.store.sqlite.decision_log`) and the state share a file. Callers own the connection and
what commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from feature_repo.online.base import OnlineState
from serving.contract.subject import Feed, Flag, Number, Subject
from serving.contract.verdicts import verdict_events

VERDICTS = "verdicts"
ROWS_A_STEP = 100  # About 10 ms of replay under the lock of the file. A request waits up to 250 for the lock.

Labels = Sequence[tuple[int, bool]]  # When it became known, and whether it is positive.


@dataclass(frozen=True)
class EventRecord:
    """One event as it was decided on, or as the lake has it.

    `event` holds the event's id, keys and columns by name. `withheld` says that no label comes by itself, so
    that silence says nothing. Times are microseconds since the epoch.
    """

    event: Mapping[str, object]
    event_us: int
    created_us: int
    withheld: bool
    maturity_us: int

    def verdicts(self, labels: Labels) -> list[tuple[int, bool]]:
        """The verdicts that these labels make, as (when it became known, is positive), in that order."""
        return verdict_events(self.event_us, labels, self.withheld, self.maturity_us, self.created_us)


class EventRules:
    """What decisions and labels of one use case mean for the online state."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        event, label = subject.event, subject.labels.name
        self._label = label
        self._flags = frozenset(column.name for column in event.columns if isinstance(column, Flag))
        # What a verdict repeats of its event.
        numbers = (column.name for column in event.columns if isinstance(column, Number))
        self._kept = (event.id, *(key.name for key in event.keys), *numbers)
        stored = ", ".join(event.names[1:])
        columns = f"prediction_id, {stored}, event_us, created_us, decision, maturity_us"
        of_events = f"kind = '{event.noun}'"
        self._decision = f"SELECT {columns} FROM decisions WHERE prediction_id = ? AND {of_events}"
        self._decisions = (
            f"SELECT seq, {columns} FROM decisions WHERE {of_events} AND created_us >= ? AND seq > ?"
            " ORDER BY seq LIMIT ?"
        )
        self._labels_of = (
            f"SELECT label_us, {label} FROM labels WHERE {event.id} = :id"
            f" UNION SELECT label_us, {label} FROM waiting_labels WHERE {event.id} = :id"
            f" ORDER BY label_us, {label} DESC"
        )
        self._labels = (
            f"SELECT seq, {event.id} FROM labels WHERE label_us >= ? AND seq > ? ORDER BY seq LIMIT ?"
        )

    def withheld(self, decision: str | None) -> bool:
        """Whether silence says nothing of an event after this decision (None: nothing was decided)."""
        labels = self.subject.labels
        return labels.silence == "unknown" or decision in labels.withheld_by

    def add_event(self, state: OnlineState, record: EventRecord, labels: Labels) -> None:
        """Put the event into the state, and its verdicts.

        Silence to come counts as a verdict, unless a label says otherwise.
        """
        _push(state, self.subject.event.dataset, record.event, record.event_us, record.created_us)
        for known_us, positive in record.verdicts(labels):
            _push(state, VERDICTS, self._verdict(record.event, positive), known_us, known_us)

    def add_feed_event(
        self, state: OnlineState, feed: Feed, values: Mapping[str, object], event_us: int, created_us: int
    ) -> None:
        """Put an event of a further feed into the state, where a view reads the feed."""
        if any(view.stream == feed.name for view in state.plan.views):
            _push(state, feed.name, values, event_us, created_us)

    def add_labels(self, state: OnlineState, record: EventRecord, before: Labels, new: Labels) -> None:
        """Make the event's verdicts what the one rule says, now that `new` labels came to those `before`."""
        stored = state.find_of(VERDICTS, str(record.event[self.subject.event.id]))
        present = {(_int(e["event_us"]), bool(e[self._label])) for e in stored}
        # Verdicts that came with the lake stand for labels that this log never held.
        of_the_log = {*record.verdicts([]), *record.verdicts(before), *record.verdicts([*before, *new])}
        wanted = set(record.verdicts([*before, *(present - of_the_log), *new]))
        for known_us, positive in present - wanted:
            verdict = self._verdict(record.event, positive)
            state.remove(VERDICTS, state.plan.event_id(VERDICTS, verdict, known_us))
        for known_us, positive in wanted - present:
            _push(state, VERDICTS, self._verdict(record.event, positive), known_us, known_us)

    def labels_of(self, connection: sqlite3.Connection, event_id: str) -> list[tuple[int, bool]]:
        """Every label of an event that the log holds, or that waits for it in the lake.

        In the order in which they became known.
        """
        rows = connection.execute(self._labels_of, {"id": event_id})
        return [(label_us, bool(positive)) for label_us, positive in rows]

    def keep_waiting(self, connection: sqlite3.Connection, labels: Iterable[tuple[str, int, bool]]) -> None:
        """Replace the labels that wait in the lake for their events: (id, when it became known, positive).

        They are no part of the log: the days on which they came are not days on which the service took
        labels.
        """
        connection.execute("DELETE FROM waiting_labels")
        columns = f"{self.subject.event.id}, label_us, {self._label}"
        insert = f"INSERT OR IGNORE INTO waiting_labels ({columns}) VALUES (?, ?, ?)"
        connection.executemany(insert, labels)

    def record_of(
        self, connection: sqlite3.Connection, state: OnlineState, event_id: str, maturity_us: int
    ) -> EventRecord | None:
        """The event from the log, or from the history that came with the lake; None where it is in neither.

        `maturity_us` applies to the history.
        """
        if row := connection.execute(self._decision, (event_id,)).fetchone():
            return self._record(row)
        event = self.subject.event
        if (found := state.find(event.dataset, event_id)) is None:
            return None
        known = {**found, event.id: event_id}
        event_us, created_us = _int(found["event_us"]), _int(found["created_us"])
        return EventRecord(known, event_us, created_us, self.withheld(None), maturity_us)

    def replay(
        self, connection: sqlite3.Connection, state: OnlineState, since_us: int, maturity_us: int
    ) -> Iterator[int]:
        """Bring into a state what the log took at or after a moment.

        Yields the number of rows after each few, so that a caller can commit. Doing it again changes nothing,
        and neither does a service that writes the same events meanwhile.
        """
        id_, after = self.subject.event.id, -1
        while rows := connection.execute(self._decisions, (since_us, after, ROWS_A_STEP)).fetchall():
            for _, *row in rows:
                record = self._record(row)
                labels = self.labels_of(connection, str(record.event[id_]))
                self.add_event(state, record, labels)
                if labels:  # The event may have been taken before one of them was known to wait for it.
                    self.add_labels(state, record, [], labels)
            after = rows[-1][0]
            yield len(rows)
        after = -1
        while rows := connection.execute(self._labels, (since_us, after, ROWS_A_STEP)).fetchall():
            for _, event_id in rows:
                if about := self.record_of(connection, state, event_id, maturity_us):
                    self.add_labels(state, about, [], self.labels_of(connection, event_id))
            after = rows[-1][0]
            yield len(rows)
        for feed in self.subject.feeds:
            yield from self._replay_feed(connection, state, feed, since_us)

    def _replay_feed(
        self, connection: sqlite3.Connection, state: OnlineState, feed: Feed, since_us: int
    ) -> Iterator[int]:
        flags, after = {column.name for column in feed.columns if isinstance(column, Flag)}, -1
        query = (
            f"SELECT seq, event_us, created_us, {', '.join(feed.names)} FROM feed_{feed.name}"
            " WHERE created_us >= ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        while rows := connection.execute(query, (since_us, after, ROWS_A_STEP)).fetchall():
            for _, event_us, created_us, *row in rows:
                values = dict(zip(feed.names, row, strict=True))
                values |= {name: None if values[name] is None else bool(values[name]) for name in flags}
                self.add_feed_event(state, feed, values, event_us, created_us)
            after = rows[-1][0]
            yield len(rows)

    def _record(self, row: Sequence[object]) -> EventRecord:
        *values, event_us, created_us, decision, maturity_us = row
        event = dict(zip(self.subject.event.names, values, strict=True))
        for name in self._flags:
            event[name] = None if event[name] is None else bool(event[name])
        withheld = self.withheld(str(decision))
        return EventRecord(event, _int(event_us), _int(created_us), withheld, _int(maturity_us))

    def _verdict(self, event: Mapping[str, object], positive: bool) -> dict[str, object]:
        return {**{name: event.get(name) for name in self._kept}, self._label: positive}


def _push(
    state: OnlineState, stream: str, event: Mapping[str, object], event_us: int, created_us: int
) -> None:
    state.push(stream, state.plan.event_id(stream, event, event_us), event, event_us, created_us)


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {value!r}")
    return value
