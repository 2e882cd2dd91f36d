"""The scored event's own numbers as features: for use cases outside of this repository, which bring no
transform of their own.
"""

from collections.abc import Mapping
from typing import Any

from feature_repo.times import DAY_US, HOUR_US

TIME = "event_time_us"


def as_given(row: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Each number or flag `x` of the event as `event_x`; null where it is absent.

    `event_time_us` gives `event_hour` (0 to 23) and `event_weekday` (0 is Monday), both UTC.
    """
    given = {f"event_{name}": _number(value) for name, value in row.items() if name != TIME}
    if TIME in row:
        at_us = row[TIME]
        given["event_hour"] = None if at_us is None else int(at_us // HOUR_US % 24)
        given["event_weekday"] = None if at_us is None else int((at_us // DAY_US + 3) % 7)  # day 0: Thursday
    return given


def _number(value: Any) -> float | int | None:
    """Null for NaN, which differs from itself; a flag as 0 or 1."""
    if value is None or value != value:
        return None
    return int(value) if isinstance(value, bool) else value
