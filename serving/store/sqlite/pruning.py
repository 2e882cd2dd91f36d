"""Forgets events that no window can reach any more, a few at a time.

A whole day of them in one commit would keep requests waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import DAY_US
from serving.store.sqlite.state_compatibility import agreed_us

# 7 ms under the lock of serving.db, for which a request waits up to 250; a thousand take 100 (measured,
# 200,000 events)
ROWS_A_COMMIT = 200
# Events that have to be as new: a handful with a wrong date must not cost the history
BEFORE_FORGETTING = 100


def prune(
    connection: sqlite3.Connection,
    plan: FeaturePlan,
    stream: str,
    lateness_us: int,
    pause: Callable[[], bool] = lambda: False,
    agree: int = BEFORE_FORGETTING,
) -> int:
    """Delete what lies out of reach of the moment that `agree` events of `stream` have reached.

    Late events are kept for as long as they may come. Deletes in commits of its own; returns how many events.

    Between two commits it asks `pause`, which may wait and let others write; True ends the work, and the rest
    is found again.
    """
    (newest_us,) = connection.execute("SELECT newest_us FROM sequence").fetchone()
    newest_us = min(newest_us, agreed_us(connection, stream, agree))
    if not newest_us:
        return 0
    reach = max((view.reach_us for view in plan.views), default=0)
    # At midnight, so that between two midnights there is nothing to write.
    before_us = (newest_us - reach - lateness_us - DAY_US) // DAY_US * DAY_US
    state, forgotten = SqliteOnlineState(connection, plan), 0
    while some := state.prune(before_us, ROWS_A_COMMIT):
        forgotten += some
        if pause():
            break
        state.follow()
    return forgotten
