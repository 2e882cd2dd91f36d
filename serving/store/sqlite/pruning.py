"""Forgets events that no window reaches any more, a few at a time.

A whole day of events in one commit would keep requests waiting.
"""

from __future__ import annotations

import sqlite3

from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import DAY_US
from serving.store.sqlite.state_compatibility import agreed_us, oldest_us

# Under 1 ms, for which a request waits.
ROWS_A_COMMIT = 10
# Where event time moves on faster than old events are deleted, the rows of a commit grow with each day that
# is behind. 5 ms.
MOST_ROWS_A_COMMIT = 100
# A moment is believed once so many events have reached it. Otherwise a few events with a wrong date would
# delete the history.
BEFORE_FORGETTING = 100


def prune(
    connection: sqlite3.Connection,
    state: SqliteOnlineState,
    stream: str,
    lateness_us: int,
    agree: int = BEFORE_FORGETTING,
) -> int:
    """Delete some events that no window reaches from the moment that `agree` events of `stream` have reached.

    Returns how many events were deleted, in one commit; 0 where none is left. Events are kept for
    `lateness_us` longer, because late events may come.
    """
    (newest_us,) = connection.execute("SELECT newest_us FROM sequence").fetchone()
    newest_us = min(newest_us, agreed_us(connection, stream, agree))
    if not newest_us:
        return 0
    reach = max((view.reach_us for view in state.plan.views), default=0)
    # A midnight, so that between two midnights there is nothing to write.
    before_us = (newest_us - reach - lateness_us - DAY_US) // DAY_US * DAY_US
    oldest = oldest_us(connection, state.plan)
    if oldest is None or oldest >= before_us:
        return 0
    rows = ROWS_A_COMMIT * (1 + (before_us - oldest) // DAY_US)
    with state.transaction():
        return state.prune(before_us, min(rows, MOST_ROWS_A_COMMIT))
