"""The definition of a feature, word for word and slow: what the fast ways are compared with.

The functions of WRITTEN_OUT are defined here a second time. Any other function is its own definition.
"""

import math
from fractions import Fraction
from typing import Any

from feature_repo.engine.functions.base import SeenEvent
from feature_repo.engine.plan import ViewPlan

WRITTEN_OUT = (
    "count",
    "sum",
    "avg",
    "std",
    "min",
    "max",
    "count_distinct",
    "seconds_since_last",
    "seconds_since_first",
)
Event = dict[str, Any]  # key, event_us, created_us, and the columns


def oracle(view: ViewPlan, events: list[Event], key: str | None, at_us: int) -> dict[str, float | int | None]:
    def within(window_us: int) -> list[Event]:
        lower = at_us - window_us
        if view.hop_us:
            lower -= lower % view.hop_us
        return [
            e
            for e in events
            if key is not None
            and e["key"] == key
            and lower <= e["event_us"] < at_us
            and e["created_us"] <= at_us
        ]

    if view.ttl_us and not within(view.ttl_us):
        return {a.name: None for a in view.aggregates}
    result: dict[str, float | int | None] = {}
    for a in view.aggregates:
        seen = within(a.window_us)
        values = [_exact(e.get(a.column), view.scales.get(a.column)) for e in seen]
        if a.function in WRITTEN_OUT:
            given = [v for v in values if v is not None]
            result[a.name] = _apply(a.function, a.column, seen, given, at_us)
        else:
            given = [SeenEvent(e["event_us"], e["created_us"], v) for e, v in zip(seen, values, strict=True)]
            result[a.name] = a.computed_by.define(a.column, given, at_us, None)
    return result


def _exact(value: Any, scale: int | None) -> Any:
    if value is None or isinstance(value, str):
        return value
    return Fraction(value) if scale is None else Fraction(round(value * 10**scale), 10**scale)


def _apply(
    function: str, column: str, seen: list[Event], values: list[Any], at_us: int
) -> float | int | None:
    if function == "count":
        return len(seen)
    if function == "count_distinct":
        return len(set(values))
    if function in ("seconds_since_last", "seconds_since_first"):
        times = [e["event_us"] for e in seen if column == "event_timestamp" or e[column]]
        return (
            (at_us - (max if function == "seconds_since_last" else min)(times)) / 1_000_000 if times else None
        )
    if function == "sum":
        return float(sum(values))
    if not values:
        return None
    if function in ("min", "max"):
        return float(min(values) if function == "min" else max(values))
    mean = sum(values) / len(values)
    if function == "avg":
        return float(mean)
    if len(values) < 2:
        return None
    return math.sqrt(float(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))
