"""What the service measured of each version, minute by minute: how much it scored, how much of that did not
pass, what failed, what was slow.

The minutes are the machine's, also where the service runs on event time: an error or a delay happens to a
process, and not to an event, and the history of promotions has the machine's times too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feature_repo.online.sqlite.transactions import transaction
from feature_repo.times import DAY_US
from serving.store.sqlite.log_tables import open_read_only

MINUTE_US = 60_000_000
KEPT_DAYS = 30
SLOW_MS = (
    1,
    2,
    5,
    10,
    25,
    50,
    100,
    250,
    1_000,
)  # milliseconds; a score takes a part of the first, and nobody waits for the last
SCORED, ALARMS, ERRORS = "scored", "alarms", "errors"
ADD = """INSERT INTO measured (minute_us, model_version, what, n) VALUES (?, ?, ?, ?)
ON CONFLICT (minute_us, model_version, what) DO UPDATE SET n = n + excluded.n"""
# An hour at most: after a long stop there may be days of them.
FORGET = "DELETE FROM measured WHERE minute_us < min(?, (SELECT min(minute_us) FROM measured) + 3600000000)"


@dataclass(frozen=True)
class Measured:
    """Of one version: new decisions, those of them that do not pass, and requests that failed while it
    scored.

    `slower` counts, for each of `SLOW_MS`, the decisions that took longer from the stored history to the
    score, in time of the processor: to wait for a busy machine is not the version's doing.
    """

    scored: int = 0
    alarms: int = 0
    errors: int = 0
    slower: Mapping[int, int] = field(default_factory=dict)

    def slower_than(self, milliseconds: float) -> int:
        """Those that certainly took longer: a limit between two of `SLOW_MS` counts as the upper one."""
        return self.slower.get(min(ms for ms in SLOW_MS if ms >= milliseconds), 0)


def slow(milliseconds: int) -> str:
    """The name of the count of what took longer than that, and not longer than the next of `SLOW_MS`."""
    return f"over_{milliseconds}_ms"


def add_measured(connection: sqlite3.Connection, now_us: int, counts: Mapping[tuple[str, str], int]) -> None:
    """Add counts by version and name to the minute, in one commit; what is older than `KEPT_DAYS` is
    forgotten.
    """
    minute_us = now_us // MINUTE_US * MINUTE_US
    with transaction(connection):
        connection.executemany(ADD, [(minute_us, version, what, n) for (version, what), n in counts.items()])
        connection.execute(FORGET, (minute_us - KEPT_DAYS * DAY_US,))


def read_measured(db: Path, version: str, since_us: int) -> Measured:
    """What was measured of a version since the minute of a moment; nothing where the service never ran."""
    query = "SELECT what, sum(n) FROM measured WHERE minute_us >= ? AND model_version = ? GROUP BY what"
    with open_read_only(db, "measured") as connection:
        counts = (
            {}
            if connection is None
            else dict(connection.execute(query, (since_us // MINUTE_US * MINUTE_US, version)).fetchall())
        )
    slower, beyond = {}, 0
    for milliseconds in reversed(SLOW_MS):
        beyond += counts.get(slow(milliseconds), 0)
        slower[milliseconds] = beyond
    return Measured(counts.get(SCORED, 0), counts.get(ALARMS, 0), counts.get(ERRORS, 0), slower)
