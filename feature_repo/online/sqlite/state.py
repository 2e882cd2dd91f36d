"""The online state in SQLite: the recent events, and the same windows over them as offline, at any moment.

One table a stream holds its events once. A covering index for each key serves the newest events, and packs
serve the older events. The caller owns the connection and its transactions. No method commits.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.plan import FeaturePlan, PlanError
from feature_repo.online.base import Keys, Loaded, OnlineState, Refused, Value, Versions
from feature_repo.online.lake_events import columns_of
from feature_repo.online.sqlite import generations
from feature_repo.online.sqlite.generations import Generation, Standing
from feature_repo.online.sqlite.memory import Memory
from feature_repo.online.sqlite.queries import StreamTable
from feature_repo.online.sqlite.transactions import transaction
from feature_repo.online.sqlite.versions import HistoryVersions

QUARANTINED = 5_000  # Rows that are kept. The oldest rows are deleted.
SETTLE_S = 0.001  # How long one call packs, for which a request may wait.


class SqliteOnlineState(OnlineState):
    """The `OnlineState` of one connection.

    It reads and writes the generation that served when the state was opened or last called `follow`.
    """

    def __init__(self, connection: sqlite3.Connection, plan: FeaturePlan) -> None:
        """Make the tables, columns and indexes that the plan needs and the file lacks.

        Raises `PlanError` for a stream or a column whose name no table can have, and for a file of a newer
        format.
        """
        self.connection, self.plan = connection, plan
        self._on_demand = [step.load() for step in plan.on_demand]
        generations.create_tables(connection)
        self._memory = Memory(connection)
        self._open = False  # Whether the body of `transaction` runs. Versions are written at its end.
        self._bind(generations.standing(connection))

    @staticmethod
    def create_tables(connection: sqlite3.Connection) -> None:
        """Make the tables that every plan shares. Opening a state makes the tables of its plan's streams."""
        generations.create_tables(connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body writes, to the generation that serves. An exception undoes all of it.

        Within the body, questions are answered from memory where possible. No part of the body may be undone
        alone. The connection begins no transactions (`isolation_level=None`), and none is open.
        `sqlite3.OperationalError` where the write lock is not free within the busy timeout.
        """
        try:
            with transaction(self.connection):
                if not self._memory.begin():
                    self.follow()
                self._open = True
                yield
                self._versions.write()
        except BaseException:
            self._memory.undo()
            self._versions.undo()
            raise
        finally:
            self._open = False
            self._memory.end()

    def follow(self) -> None:
        """Change to the generation that serves now.

        `transaction` does it where somebody else has written. A reader may call it.
        """
        standing = generations.standing(self.connection)
        if standing != self._standing:
            self._bind(standing)

    def push(
        self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int
    ) -> Versions | None:
        """During a rebuild the event goes to both generations."""
        row = (event_id, event_us, created_us, *self._stream(stream).values(event))
        self._write()
        added = self._current.put(stream, row)
        if (
            self._building is not None
            and (stored := row if added else self._current.row(stream, event_id)) is not None
        ):
            self._building.unbury(stream, [event_id])
            self._building.put(stream, stored)
        return self._versions.raised(stream, row, self._open) if added else None

    def load(self, stream: str, events: Iterable[Loaded]) -> None:
        """During a rebuild the events go to both generations."""
        known = self._stream(stream)
        rows: Iterable[Sequence[object]] = (
            (i, at, created, *known.values(event)) for i, event, at, created in events
        )
        self._write()
        if self._building is not None:
            rows = list(rows)
            self._building.unbury(stream, (str(row[0]) for row in rows))
            self._building.load(stream, rows)
        self._current.load(stream, rows)

    def remove(self, stream: str, event_id: str) -> Versions | None:
        """During a rebuild the event leaves both generations, and the lake does not bring it back."""
        self._stream(stream)
        self._write()
        if self._building is not None:
            self._building.bury(stream, event_id)
            self._building.take(stream, event_id)
        row = self._current.row(stream, event_id)
        if row is None:
            return None
        self._current.take(stream, event_id)
        return self._versions.raised(stream, row, self._open)

    def aggregates(self, keys: Keys, at_us: int) -> dict[str, Value]:
        """Each view answers from its packs where possible, else from its events."""
        result: dict[str, Value] = {}
        for view in self._current.views:
            key = keys.get(view.entity)
            if not isinstance(key, str) and (key is not None or view.entity not in keys):
                raise BadEvent(view.entity, key)
            view.answer(self.connection, key, at_us, result)
        return result

    def vector(self, keys: Keys, at_us: int, request: Mapping[str, float | int]) -> dict[str, float | None]:
        """The aggregates, the request fields, and the outputs of the on-demand functions."""
        known: dict[str, Any] = self.aggregates(keys, at_us)
        known |= request
        for function in self._on_demand:
            known |= function(known)
        return {name: None if (value := known[name]) is None else float(value) for name in self.plan.features}

    def versions(self, keys: Keys) -> Versions:
        """The counters, or the beginning of the epoch for a history that has not changed since."""
        return self._versions.read(keys)

    @property
    def due(self) -> bool:
        """Whether `settle` has something to do."""
        return any(packed.noted for packed in self._current.packed.values())

    def settle(self) -> None:
        """Pack keys whose tail was too long in a question, for about `SETTLE_S`, and at least one key."""
        until_s = time.perf_counter() + SETTLE_S
        for packed in self._current.packed.values():
            while packed.noted:
                key, at_us = packed.noted.popitem()
                packed.refresh(self.connection, key, at_us)
                if time.perf_counter() >= until_s:
                    return

    def find(self, stream: str, event_id: str) -> dict[str, object] | None:
        """One event by its id."""
        return next(self._select(stream, "event_id = ?", (event_id,)), None)

    def find_of(self, stream: str, subject_id: str) -> list[dict[str, object]]:
        """The events whose ids begin with the subject's id."""
        # ";" follows ":", so the range holds the ids that begin with the subject's id. An id may hold
        # a colon.
        found = self._select(
            stream,
            "event_id >= ? AND event_id < ? ORDER BY event_id",
            (f"{subject_id}:", f"{subject_id};"),
        )
        return [event for event in found if event["event_id"] == f"{subject_id}:{event['event_us']}"]

    def newest_us(self, stream: str, at_us: int) -> int | None:
        """Read from the index of the event times, or from memory."""
        self._stream(stream)
        return self._current.newest_us(stream, at_us)

    def last_event_us(self, stream: str) -> int | None:
        """Read from the index of the event times."""
        return self._one(f"SELECT max(event_us) FROM {self._stream(stream).table}")

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        """The ids in the generation that serves."""
        self._stream(stream)
        return self._current.ids(stream, from_us, to_us)

    def count(self, stream: str) -> int:
        """The number in the generation that serves."""
        return self._one(f"SELECT count(*) FROM {self._stream(stream).table}") or 0

    def columns(self, stream: str) -> frozenset[str]:
        """The columns of the stream's table, and the columns of its event id."""
        return columns_of(self.plan, stream, self._stream(stream).stored)

    def prune(self, before_us: int, limit: int) -> int:
        """Events of the generation that serves, and the packs that end with the forgotten events."""
        return self._current.prune(before_us, limit)

    def refuse(self, stream: str, reason: str, at_us: int) -> None:
        """The counts survive a rebuild."""
        more = (
            "ON CONFLICT (stream, reason) DO UPDATE SET count = count + 1, last_us = max(last_us,"
            " excluded.last_us)"
        )
        self.connection.execute(
            f"INSERT INTO online_refusals VALUES (?, ?, 1, ?) {more}", (stream, reason, at_us)
        )

    def quarantine(self, stream: str, event: Mapping[str, object], reason: str, at_us: int) -> None:
        """The newest `QUARANTINED` events are kept, as JSON."""
        self.refuse(stream, reason, at_us)
        row = (
            stream,
            reason,
            json.dumps({str(name): _as_text(value) for name, value in event.items()}),
            at_us,
        )
        added = (
            self.connection.execute(
                "INSERT INTO online_quarantine (stream, reason, event, at_us) VALUES (?, ?, ?, ?)", row
            ).lastrowid
            or 0
        )
        self.connection.execute("DELETE FROM online_quarantine WHERE id <= ?", (added - QUARANTINED,))

    def refusals(self) -> dict[tuple[str, str], Refused]:
        """The counts since the file was made."""
        rows = self.connection.execute(
            "SELECT stream, reason, count, last_us FROM online_refusals ORDER BY stream, reason"
        )
        return {(stream, reason): Refused(count, last_us) for stream, reason, count, last_us in rows}

    def _write(self) -> None:
        """Before a change outside of a transaction: find out which generations it has to go to."""
        if not self.connection.in_transaction:
            # Python's own transaction would begin only after the generations were read.
            if self.connection.isolation_level is not None:
                self.connection.execute("BEGIN IMMEDIATE")
            self.follow()

    def _bind(self, standing: Standing) -> None:
        self._standing, self._versions = standing, HistoryVersions(self.connection, self.plan, self._memory)
        self._memory.forget()
        self._current = Generation(self.connection, self.plan, standing.current, self._memory)
        self._building = (
            None if standing.building is None else Generation(self.connection, self.plan, standing.building)
        )

    def _stream(self, name: str) -> StreamTable:
        if name not in self._current.streams:
            raise PlanError(f"{self.plan.service}: no view reads the stream {name!r}")
        return self._current.streams[name]

    def _select(self, stream: str, where: str, parameters: tuple[str, ...]) -> Iterator[dict[str, object]]:
        known = self._stream(stream)
        for row in self.connection.execute(f"{known.select} WHERE {where}", parameters):
            yield {
                name: _unscaled(value, known.scales.get(name, 0))
                for name, value in zip(known.columns, row, strict=True)
            }

    def _one(self, query: str, *parameters: object) -> int | None:
        found: int | None = self.connection.execute(query, parameters).fetchone()[0]
        return found


def _unscaled(value: object, scale: int) -> object:
    return value / 10**scale if scale and isinstance(value, int) else value


def _as_text(value: object) -> object:
    """A value for JSON, or its text where JSON has no exact form for the value."""
    finite = isinstance(value, float) and abs(value) < float("inf")
    return value if value is None or finite or isinstance(value, (bool, int, str)) else str(value)
