"""Whether the stored events can serve a plan, and which moments they reach from and to."""

from __future__ import annotations

import sqlite3

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.generations import standing, tables_of
from feature_repo.online.sqlite.queries import table_name
from serving.store.base import AGREE


def lacks(connection: sqlite3.Connection, plan: FeaturePlan) -> list[str]:
    """Why the stored events cannot serve a plan, a line each.

    A column was never stored, or a stream has no event while others have.
    """
    current = standing(connection).current
    shared = {table_name(name, current) for name in ("packs", "removed")}
    tables = set(tables_of(connection, current)) - shared
    filled = {name for name in tables if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()}
    reasons = []
    for stream in dict.fromkeys(view.stream for view in plan.views):
        table = table_name(stream, current)
        if table not in tables:
            if filled:
                reasons.append(f"no event of the stream {stream} is stored")
            continue
        if table not in filled:
            continue
        stored = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        needed = dict.fromkeys(
            c for view in plan.views if view.stream == stream for c in (view.entity, *view.columns)
        )
        reasons += [
            f"the column {column} of the stream {stream} is not stored"
            for column in needed
            if column not in stored
        ]
    return reasons


def oldest_us(connection: sqlite3.Connection, plan: FeaturePlan) -> int | None:
    """The moment of the oldest event of a plan's streams, in the state that serves; None without events."""
    generation = standing(connection).current
    streams = dict.fromkeys(view.stream for view in plan.views)
    found = [
        connection.execute(f"SELECT min(event_us) FROM {table_name(name, generation)}").fetchone()[0]
        for name in streams
    ]
    return min((at_us for at_us in found if at_us is not None), default=None)


def agreed_us(connection: sqlite3.Connection, stream: str, events: int = AGREE) -> int:
    """The moment that so many events of a stream have reached; 0 where there are fewer."""
    try:
        generation = standing(connection).current
        if (table := table_name(stream, generation)) not in tables_of(connection, generation):
            return 0
    except sqlite3.OperationalError:  # A log without a state.
        return 0
    row = connection.execute(
        f"SELECT event_us FROM {table} ORDER BY event_us DESC LIMIT 1 OFFSET ?", (events - 1,)
    ).fetchone()
    return int(row[0]) if row else 0
