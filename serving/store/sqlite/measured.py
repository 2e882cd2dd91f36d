"""The table of what was measured of each version, minute by minute."""

from __future__ import annotations

import sqlite3

from feature_repo.times import DAY_US, MINUTE_US
from serving.store.version_counts import KEPT_DAYS, Counts

ADD = """INSERT INTO measured (minute_us, model_version, what, n) VALUES (?, ?, ?, ?)
ON CONFLICT (minute_us, model_version, what) DO UPDATE SET n = n + excluded.n"""
# An hour at most. After a long stop there may be days to forget.
FORGET = "DELETE FROM measured WHERE minute_us < min(?, (SELECT min(minute_us) FROM measured) + 3600000000)"
SUMS = "SELECT what, sum(n) FROM measured WHERE minute_us >= ? AND model_version = ? GROUP BY what"


def add_measured(connection: sqlite3.Connection, now_us: int, counts: Counts) -> None:
    """Add counts to the minute, and forget what is older than `KEPT_DAYS`. The caller commits."""
    minute_us = _minute(now_us)
    connection.executemany(ADD, [(minute_us, version, what, n) for (version, what), n in counts.items()])
    connection.execute(FORGET, (minute_us - KEPT_DAYS * DAY_US,))


def sums_since(connection: sqlite3.Connection, version: str, since_us: int) -> dict[str, int]:
    """The sums of a version's counts by name, from the minute of a moment on."""
    return dict(connection.execute(SUMS, (_minute(since_us), version)).fetchall())


def _minute(moment_us: int) -> int:
    return moment_us // MINUTE_US * MINUTE_US
