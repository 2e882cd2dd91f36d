"""Events of one small stream, and a view of every function over them."""

from typing import Any

import pyarrow as pa
from oracle import Event

from feature_repo.engine.functions import FUNCTIONS
from feature_repo.engine.functions.base import Kind
from feature_repo.engine.plan import Aggregate, ViewPlan
from feature_repo.times import HOUR_US, MINUTE_US

MINUTE, HOUR = MINUTE_US, HOUR_US
START = 1_522_540_800_000_000
COLUMNS = {
    "money": pa.float64(),
    "items": pa.int64(),
    "declined": pa.bool_(),
    "ratio": pa.float64(),
    "who": pa.string(),
}
KINDS: dict[str, Kind] = {
    "money": "number",
    "items": "number",
    "declined": "flag",
    "ratio": "number",
    "who": "text",
    "event_timestamp": "event",
}


def every_function(*columns: str) -> list[tuple[str, str]]:
    """Each function of the registry with the columns that it takes; with one, where it reads no column."""
    return [
        (function.name, column)
        for function in FUNCTIONS.values()
        for column in (columns if any(map(function.reads, columns)) else columns[:1])
        if KINDS[column] in function.takes
    ]


def plan_of(hop_us: int = 0, windows: tuple[int, ...] = (HOUR, 5 * HOUR)) -> ViewPlan:
    wanted = every_function("who", "money", "items", "declined", "ratio", "event_timestamp")
    aggregates = tuple(Aggregate(f"{f}_{c}_{w // MINUTE}", c, f, w) for w in windows for f, c in wanted)
    return ViewPlan("v", "key", "s", hop_us, aggregates, {"money": 2, "declined": 0})


def table_of(events: list[Event]) -> pa.Table:
    times = {
        name: pa.array([e[us] for e in events], pa.timestamp("us", tz="UTC"))
        for name, us in (("event_timestamp", "event_us"), ("created_timestamp", "created_us"))
    }
    columns = {"key": pa.string(), **COLUMNS}
    return pa.table({**{c: pa.array([e[c] for e in events], kind) for c, kind in columns.items()}, **times})


def event(minute: int, late: int = 0, **values: Any) -> Event:
    at = START + minute * MINUTE
    return {
        "key": "a",
        "event_us": at,
        "created_us": at + late * MINUTE,
        **dict.fromkeys(COLUMNS, None),
        "items": 1,
        "declined": False,
        **values,
    }
