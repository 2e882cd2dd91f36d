"""Days of the lake as events of the online state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import pyarrow as pa

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded, OnlineState


def load_day(state: OnlineState, lake: Lake, stream: str, day: str) -> None:
    """Load one arrival day of a stream into a state.

    Raises what `Lake.read` and `OnlineState.load` raise.
    """
    state.load(stream, events_of(state.plan, stream, state.columns(stream), lake.read(stream, [day])))


def reachable_days(plan: FeaturePlan, lake: Lake, until_day: str | None = None) -> dict[str, list[str]]:
    """The validated arrival days of each of the plan's streams that a window can still reach.

    The windows end on the last day of the lake, or on `until_day`. A stream that is not in the lake has no
    days.
    """
    days = {
        s: lake.between(s, "", until_day or "9999", validated=True)
        for s in dict.fromkeys(v.stream for v in plan.views)
    }
    # Streams may end on different days. A question may still ask for the earliest of these ends.
    last = min((d[-1] for d in days.values() if d), default="")
    result = {}
    for stream, written in days.items():
        reach = max(v.reach_us for v in plan.views if v.stream == stream)
        since = (
            (datetime.fromisoformat(last) - timedelta(microseconds=reach)).date().isoformat() if last else ""
        )
        result[stream] = [day for day in written if day >= since]
    return result


def columns_of(plan: FeaturePlan, stream: str, stored: Iterable[str]) -> frozenset[str]:
    """The columns of an event that are read: the stored columns, and those of its id."""
    return frozenset(stored).union(*(v.event_id for v in plan.views if v.stream == stream))


def events_of(plan: FeaturePlan, stream: str, wanted: frozenset[str], table: pa.Table) -> Iterator[Loaded]:
    """Rows of the lake as events with their ids, in the wanted columns. NaN becomes null, as offline.

    `table` has event_timestamp, created_timestamp, and the columns of the stream's event id.
    """
    from feature_repo.engine.columns import microseconds

    times = microseconds(table["event_timestamp"]).tolist(), microseconds(table["created_timestamp"]).tolist()
    names = [c for c in table.column_names if c in wanted]
    rows = zip(*(table[c].to_pylist() for c in names), strict=True)
    for event_us, created_us, row in zip(*times, rows, strict=True):
        event = {name: None if value != value else value for name, value in zip(names, row, strict=True)}
        yield plan.event_id(stream, event, event_us), event, event_us, created_us
