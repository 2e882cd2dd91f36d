"""Looks single events up in the online state, and says whether that state can serve another plan.

The windows are the engine's business; these are the three questions that only the service asks of its tables (`online_<stream>`, one row an event,
columns of a declared scale as integers).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from feature_repo.engine.plan import FeaturePlan


def find(connection: sqlite3.Connection, plan: FeaturePlan, stream: str, event_id: str) -> dict[str, object] | None:
    """The stored event with its columns as they were pushed, `event_us` and `created_us`; None where it is not, or no longer, in the state."""
    events = _select(connection, plan, stream, "event_id = ?", (event_id,))
    return events[0] if events else None


def find_of(connection: sqlite3.Connection, plan: FeaturePlan, stream: str, transaction_id: str) -> list[dict[str, object]]:
    """The events of one transaction in a stream that may hold several of it."""
    first = f"{transaction_id}:"
    # The character after the colon ends the range of the ids that begin with it; what follows the colon is a number.
    found = _select(connection, plan, stream, "event_id >= ? AND event_id < ?", (first, f"{transaction_id};"))
    return [event for event in found if event["event_id"] == f"{first}{event['event_us']}"]  # an id may hold a colon itself


def missing(connection: sqlite3.Connection, plan: FeaturePlan) -> list[str]:
    """Why the stored events cannot serve a plan: a column that was never stored with them, or a stream that has none while others do."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'online\\_%' ESCAPE '\\'")}
    filled = {name for name in tables - {"online_format"} if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()}
    reasons = []
    for stream in dict.fromkeys(view.stream for view in plan.views):
        table = f"online_{stream}"
        if table not in tables:
            if filled:
                reasons.append(f"no event of the stream {stream} is stored")
            continue
        if table not in filled:
            continue
        stored = _columns(connection, table)
        needed = dict.fromkeys(c for view in plan.views if view.stream == stream for c in (view.entity, *view.columns))
        reasons += [f"the column {column} of the stream {stream} is not stored" for column in needed if column not in stored]
    return reasons


def _select(connection: sqlite3.Connection, plan: FeaturePlan, stream: str, where: str, parameters: tuple[str, ...]) -> list[dict[str, object]]:
    columns = _columns(connection, f"online_{stream}")
    if not columns:
        return []
    scales: dict[str, int] = {}
    for view in plan.views:
        if view.stream == stream:
            scales |= view.scales
    rows = connection.execute(f"SELECT {', '.join(columns)} FROM online_{stream} WHERE {where} ORDER BY event_id", parameters)
    return [{name: _unscaled(value, scales.get(name, 0)) for name, value in zip(columns, row, strict=True)} for row in rows]


def _unscaled(value: object, scale: int) -> object:
    return value / 10**scale if scale and isinstance(value, int) else value


def _columns(connection: sqlite3.Connection, table: str) -> Mapping[str, None]:
    return dict.fromkeys(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
