"""Whether the events that are stored can serve another plan."""

from __future__ import annotations

import sqlite3

from feature_repo.engine.generations import standing, tables_of
from feature_repo.engine.online_sql import table_name
from feature_repo.engine.plan import FeaturePlan


def missing(connection: sqlite3.Connection, plan: FeaturePlan) -> list[str]:
    """Why the stored events cannot serve a plan: a column that was never stored with them, or a stream that has none while others do."""
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
        needed = dict.fromkeys(c for view in plan.views if view.stream == stream for c in (view.entity, *view.columns))
        reasons += [f"the column {column} of the stream {stream} is not stored" for column in needed if column not in stored]
    return reasons
