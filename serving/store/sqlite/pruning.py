"""Forgets events that no window reaches any more, a few at a time.

A whole day of events in one commit would keep requests waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import DAY_US
from serving.store.sqlite.state_compatibility import agreed_us

# 7 ms under the lock of serving.db, for which a request waits up to 250 ms. A thousand rows take 100 ms
# (measured with 200,000 events).
ROWS_A_COMMIT = 200
# A moment is believed once so many events have reached it. Otherwise a few events with a wrong date would
# delete the history.
BEFORE_FORGETTING = 100


def prune(
    connection: sqlite3.Connection,
    plan: FeaturePlan,
    stream: str,
    lateness_us: int,
    pause: Callable[[], bool] = lambda: False,
    agree: int = BEFORE_FORGETTING,
) -> int:
    """Delete the events that no window reaches from the moment that `agree` events of `stream` have reached.

    Returns how many events were deleted. Events are kept for `lateness_us` longer, because late events may
    come. `pause` is called between two commits, and may wait and let others write. Where `pause` returns
    True the work ends, and the next call finds the rest.
    """
    (newest_us,) = connection.execute("SELECT newest_us FROM sequence").fetchone()
    newest_us = min(newest_us, agreed_us(connection, stream, agree))
    if not newest_us:
        return 0
    reach = max((view.reach_us for view in plan.views), default=0)
    # A midnight, so that between two midnights there is nothing to write.
    before_us = (newest_us - reach - lateness_us - DAY_US) // DAY_US * DAY_US
    state, forgotten = SqliteOnlineState(connection, plan), 0
    while some := state.prune(before_us, ROWS_A_COMMIT):
        forgotten += some
        if pause():
            break
        state.follow()
    return forgotten
