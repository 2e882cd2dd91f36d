"""Features that need the scored parcel itself: one plain function of a row, used for training and for a
single request alike.
"""

from collections.abc import Mapping
from typing import Any

HOUR_US = 3_600_000_000


def parcel_context(row: Mapping[str, Any]) -> dict[str, float | int | None]:
    """An absent number or history gives null, and so does a division by zero. Hours are UTC."""
    distance, planned, at_us = (
        _number(row[name]) for name in ("distance_km", "planned_hours", "event_time_us")
    )
    level = row["service_level"]
    return {
        "parcel_distance_km": distance,
        "parcel_planned_hours": planned,
        "planned_speed_kmh": _ratio(distance, planned),
        "planned_hours_to_route_usual": _ratio(planned, _number(row["route_avg_planned_hours_28d"])),
        "is_express": None if level is None else int(level == "express"),
        "hour_of_day": None if at_us is None else int(at_us // HOUR_US % 24),
    }


def _number(value: Any) -> Any:
    """The value, and null for NaN, which differs from itself."""
    return None if value is None or value != value else value


def _ratio(a: Any, b: Any) -> float | None:
    return None if a is None or not b else a / b  # `not b` is null or zero
