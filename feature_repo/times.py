"""Moments as whole microseconds since the epoch, the unit of time of the platform."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """The moment in microseconds since the epoch, exact. A moment without a zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def from_us(moment_us: int) -> datetime:
    """The moment in UTC. `OverflowError` for one before the year 1 or after the year 9999."""
    return EPOCH + timedelta(microseconds=moment_us)


def midnight_us(day: str | date) -> int:
    """The first moment of a UTC day, in microseconds since the epoch.

    `ValueError` for text that is no ISO date.
    """
    found = date.fromisoformat(day) if isinstance(day, str) else day
    return (found.toordinal() - EPOCH.toordinal()) * DAY_US


def day_of(moment_us: int) -> str:
    """The UTC day of a moment, as an ISO date."""
    return from_us(moment_us).date().isoformat()


def period_us(period: timedelta) -> int:
    """A period in whole microseconds, exactly."""
    return period // MICROSECOND
