"""Every store of online state that the suite for any store runs on."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

from oracle import Event, oracle

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.plan import FeaturePlan, PlanError
from feature_repo.online.base import Keys, Loaded, OnlineState, Refused, Value, Versions
from feature_repo.online.lake_events import columns_of
from feature_repo.online.sqlite.queries import StreamTable
from feature_repo.online.sqlite.state import SqliteOnlineState


class ListStore:
    """A store that can be read: events in dicts, answers by the definition."""

    def __init__(self, plan: FeaturePlan) -> None:
        self.plan = plan
        self.events: dict[str, dict[str, Event]] = {v.stream: {} for v in plan.views}
        self.refused: dict[tuple[str, str], Refused] = {}
        self.changes: Counter[tuple[str, object]] = Counter()

    def push(
        self, stream: str, event_id: str, event: Mapping[str, object], event_us: int, created_us: int
    ) -> Versions | None:
        if event_id in self._of(stream):
            return None
        self.load(stream, [(event_id, event, event_us, created_us)])
        return self._changed(self.events[stream][event_id], stream)

    def load(self, stream: str, events: Iterable[Loaded]) -> None:
        kept = StreamTable.of(stream, self.plan)
        for event_id, event, event_us, created_us in events:
            list(kept.values(event))  # raises for what no event may carry
            columns = {c: event[c] for c in kept.stored if event.get(c) is not None}
            times = {"event_id": event_id, "event_us": event_us, "created_us": created_us}
            before = self._of(stream).get(event_id, dict.fromkeys(kept.stored))
            self.events[stream][event_id] = {**before, **columns, **times}

    def remove(self, stream: str, event_id: str) -> Versions | None:
        event = self._of(stream).pop(event_id, None)
        return None if event is None else self._changed(event, stream)

    def aggregates(self, keys: Keys, at_us: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for view in self.plan.views:
            if not isinstance(keys.get(view.asked_by, 0), str | None):
                raise BadEvent(view.asked_by, keys.get(view.asked_by))
            events = [{**e, "key": e[view.entity]} for e in self.events[view.stream].values()]
            result |= oracle(view, events, keys[view.asked_by], at_us)
        return result

    def vector(self, keys: Keys, at_us: int, request: Mapping[str, float | int]) -> dict[str, float | None]:
        known: dict[str, Any] = {**self.aggregates(keys, at_us), **request}
        for step in self.plan.on_demand:
            known |= step.load()({name: known[name] for name in step.inputs})
        return {name: known[name] for name in self.plan.features}

    def versions(self, keys: Keys) -> Versions:
        return {
            view.asked_history: 1 + self.changes[view.history, key]
            for view in self.plan.views
            if (key := keys[view.asked_by]) is not None
        }

    def settle(self) -> None:
        pass

    def find(self, stream: str, event_id: str) -> dict[str, object] | None:
        return self._of(stream).get(event_id)

    def find_of(self, stream: str, subject_id: str) -> list[dict[str, object]]:
        return [
            event
            for _, event in sorted(self._of(stream).items())
            if event["event_id"] == f"{subject_id}:{event['event_us']}"
        ]

    def newest_us(self, stream: str, at_us: int) -> int | None:
        return max((e["event_us"] for e in self._of(stream).values() if e["event_us"] < at_us), default=None)

    def last_event_us(self, stream: str) -> int | None:
        return max((e["event_us"] for e in self._of(stream).values()), default=None)

    def ids(self, stream: str, from_us: int, to_us: int) -> list[str]:
        return [i for i, e in self._of(stream).items() if from_us <= e["event_us"] < to_us]

    def count(self, stream: str) -> int:
        return len(self._of(stream))

    def columns(self, stream: str) -> frozenset[str]:
        return columns_of(self.plan, stream, StreamTable.of(stream, self.plan).stored)

    def prune(self, before_us: int, limit: int) -> int:
        old = [
            (s, i)
            for s, events in self.events.items()
            for i, e in events.items()
            if e["event_us"] < before_us
        ][:limit]
        for stream, event_id in old:
            del self.events[stream][event_id]
        return len(old)

    def refuse(self, stream: str, reason: str, at_us: int) -> None:
        number, last_us = self.refused.get((stream, reason), (0, at_us))
        self.refused[stream, reason] = Refused(number + 1, max(at_us, last_us))

    def quarantine(self, stream: str, event: Mapping[str, object], reason: str, at_us: int) -> None:
        self.refuse(stream, reason, at_us)

    def refusals(self) -> dict[tuple[str, str], Refused]:
        return self.refused

    def _changed(self, event: Event, stream: str) -> Versions:
        views = [view for view in self.plan.views if view.stream == stream and event[view.entity] is not None]
        names = {view.history: event[view.entity] for view in views}
        self.changes.update(names.items())
        return {name: 1 + self.changes[name, key] for name, key in names.items()}

    def _of(self, stream: str) -> dict[str, Event]:
        if stream not in self.events:
            raise PlanError(f"{self.plan.service}: no view reads the stream {stream!r}")
        return self.events[stream]


class Workers:
    """Two processes' worth of connections to one file: each call is a transaction of one of them.

    Mostly one of them makes several calls in a row, and then holds in memory what it has read.
    """

    def __init__(self, folder: Path, plan: FeaturePlan) -> None:
        self._states = [SqliteOnlineState(connect(folder / "state.db"), plan) for _ in range(2)]
        self._turns = cycle((0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1))

    def __getattr__(self, name: str) -> Any:
        state = self._states[next(self._turns)]

        def in_a_transaction(*arguments: Any) -> Any:
            with state.transaction():
                return getattr(state, name)(*arguments)

        return state.plan if name == "plan" else in_a_transaction


class Undoing:
    """Each call is made and undone, then made."""

    def __init__(self, folder: Path, plan: FeaturePlan) -> None:
        self._state = SqliteOnlineState(connect(folder / "state.db"), plan)

    def __getattr__(self, name: str) -> Any:
        state = self._state

        def at_last(*arguments: Any) -> Any:
            with suppress(_Undo), state.transaction():
                getattr(state, name)(*arguments)
                raise _Undo
            with state.transaction():
                return getattr(state, name)(*arguments)

        return state.plan if name == "plan" else at_last


class _Undo(Exception):
    pass


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


Factory = Callable[[Path, FeaturePlan], OnlineState]
STORES: dict[str, Factory] = {
    "list": lambda _, plan: ListStore(plan),
    "sqlite": lambda _, plan: SqliteOnlineState(sqlite3.connect(":memory:"), plan),
    "sqlite, two connections": lambda folder, plan: Workers(folder, plan),  # type: ignore[return-value]
    "sqlite, undone": lambda folder, plan: Undoing(folder, plan),  # type: ignore[return-value]
}
