"""Times from text, timestamps, dates, and numbers since 1970."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.data.values.arrow_text import is_number, kept_where
from mlops_assets.core.data.values.value_rules import TYPES, USUAL, Epoch, Rules

if TYPE_CHECKING:
    import pandas as pd

_MICROSECONDS: dict[Epoch, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
# 2200-01-01. A number that gives a later time counts another unit.
_EPOCH_UNTIL_US = 7_258_118_400 * 1_000_000
_CALENDAR_US = (-62_135_596_800 * 1_000_000, 253_402_300_800 * 1_000_000)  # the years 1 to 9999
# The years 1800 to 9998. Feeds write other years for "no time"; these values are not converted.
_ZONES_US = (-5_364_662_400 * 1_000_000, 253_370_764_800 * 1_000_000)
_COUNT = r"^[+-]?\d+(\.\d*)?$"
_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"(?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?)?"
_LOCAL = rf"^{_DAY}(?:[T ]{_CLOCK})?$"  # as Arrow reads it
_ZONED = rf"^{_DAY}[T ]{_CLOCK}(?:Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)$"


def read_times(array: pa.Array, rules: Rules) -> pa.Array | None:
    """Times in UTC with microseconds. A value that is no time is null.

    Returns None for a type that holds no times. Numbers are times only where the rules give an epoch.
    """
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return _times_of_timestamps(array, rules).cast(TYPES["time"])
    if is_number(array.type) and rules.epoch:
        return _epoch_times(array, rules.epoch).cast(TYPES["time"])
    if pa.types.is_string(array.type):
        return _times_of_text(array, rules).cast(TYPES["time"])
    return None


def time_remedy(value: Any, rules: Rules) -> str:
    """What to do about a value that is no time under the rules."""
    text = value.strip() if isinstance(value, str) else str(value)
    if re.match(_COUNT, text, re.ASCII):
        return (
            f'with epoch = "{rules.epoch}" it is before 1970 or after 2200: is another unit meant?'
            if rules.epoch
            else epoch_remedy(rules)
        )
    if rules.timezone != USUAL.timezone and re.match(_LOCAL, text) and _is_day(text[:10]):
        moment = _clock(np.array([text], "datetime64[us]"))
        twice = moment.tz_localize(rules.timezone, ambiguous=np.array([True]), nonexistent="NaT").notna()[0]
        return (
            f"the clock of {rules.timezone} shows it {'twice' if twice else 'never'}, at a change of daylight"
            " saving: export times with their offset"
        )
    return "write times as 2026-03-01 10:00:00, with an offset such as +01:00 or Z where they have one"


def epoch_remedy(rules: Rules) -> str:
    """What to set where a feed writes times as numbers."""
    return f'a bare number counts as a time only with epoch = "s", "ms" or "us" under {rules.section}'


def _times_of_timestamps(array: pa.Array, rules: Rules) -> pa.Array:
    """Microseconds since 1970 (UTC) of timestamps or dates."""
    is_date = pa.types.is_date(array.type)
    times = array.cast(pa.timestamp("s"), safe=False) if is_date else array
    if times.type.unit in _MICROSECONDS:  # Seconds, milliseconds and microseconds exceed the calendar.
        per_unit, counts = _MICROSECONDS[times.type.unit], times.cast(pa.int64())
        first, end = (bound // per_unit for bound in _CALENDAR_US)
        times = kept_where(pc.and_(pc.greater_equal(counts, first), pc.less(counts, end)), times)
    moments = times.cast(pa.timestamp("us", tz=times.type.tz), safe=False).cast(pa.int64())
    if times.type.tz:
        return moments
    return _from_zone(moments, rules.timezone, pc.is_valid(moments) if is_date else None)


def _times_of_text(text: pa.Array, rules: Rules) -> pa.Array:
    """Microseconds since 1970 (UTC) of times written as text."""
    given = text
    local, zoned = pc.match_substring_regex(text, _LOCAL), pc.match_substring_regex(text, _ZONED)
    if pc.all(pc.or_(local, zoned)).as_py() is False:
        text = _standard_form(text)
        local, zoned = pc.match_substring_regex(text, _LOCAL), pc.match_substring_regex(text, _ZONED)
    real = _real_days(text)
    here = kept_where(pc.and_(local, real), text)
    days = pc.equal(pc.binary_length(here), len("2026-03-01")) if rules.timezone != USUAL.timezone else None
    here = here.cast(pa.timestamp("us")).cast(pa.int64())
    there = kept_where(pc.and_(zoned, real), text).cast(TYPES["time"]).cast(pa.int64())
    moments = pc.coalesce(_from_zone(here, rules.timezone, days), there)
    if rules.epoch is None:
        return moments
    counts = kept_where(pc.match_substring_regex(given, _COUNT), given)
    return pc.coalesce(moments, _epoch_times(counts, rules.epoch))


def _standard_form(text: pa.Array) -> pa.Array:
    """The times with `Z` for UTC, no space before an offset, and at most six decimals of a second."""
    text = pc.replace_substring_regex(text, r"(\d) ?(?:UTC|GMT|Z)$", r"\1Z")
    text = pc.replace_substring_regex(text, r"(\d) ([+-]\d{2}(?::?\d{2})?)$", r"\1\2")
    return pc.replace_substring_regex(text, r"(\.\d{6})\d{1,3}(Z|[+-]|$)", r"\1\2")


def _real_days(text: pa.Array) -> pa.Array:
    """Whether each text begins with a day of the calendar. Each different day is looked up once."""
    day = pc.utf8_slice_codeunits(text, 0, 10)
    days = pc.unique(day).drop_null()
    real = pa.array([_is_day(value) for value in days.to_pylist()], pa.bool_())
    return pc.is_in(day, value_set=days.filter(real))


def _clock(times: Any) -> pd.DatetimeIndex:
    """What a clock shows, without its zone. Only zones need pandas, whose import takes long."""
    import pandas as pd

    return pd.DatetimeIndex(times)


def _from_zone(local_us: pa.Array, zone: str, days: pa.Array | None = None) -> pa.Array:
    """Local microseconds as microseconds in UTC. Null where the zone's clock shows the time twice or never.

    `days` marks the values that stand for a whole day. In some zones daylight saving changes at midnight.
    Such a day begins at its first moment.
    """
    if zone == USUAL.timezone:
        return local_us
    given = pc.fill_null(local_us, 0).to_numpy()
    unconverted = (given < _ZONES_US[0]) | (given >= _ZONES_US[1])
    local = _clock(np.where(unconverted, 0, given).view("datetime64[us]"))
    moments = local.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    missing = moments.isna()
    if days is not None:
        of_day = missing & pc.fill_null(days, False).to_numpy(zero_copy_only=False)
        if of_day.any():
            earlier = np.ones(of_day.sum(), bool)
            first = local[of_day].tz_localize(zone, ambiguous=earlier, nonexistent="shift_forward")
            moments = moments.where(~of_day, first[np.cumsum(of_day) - 1])
            missing = missing & ~of_day
    known = local_us.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(np.where(unconverted, given, moments.asi8), mask=~known | (missing & ~unconverted))


def _epoch_times(counts: pa.Array, unit: Epoch) -> pa.Array:
    """Microseconds since 1970 of text or numbers that count in `unit`."""
    if pa.types.is_decimal(counts.type):
        counts = counts.cast(pa.string())
    per_unit = _MICROSECONDS[unit]
    # The cast is unsafe on purpose: a count beyond int64 becomes negative, and the next line drops it.
    counted = counts.cast(pa.int64() if pa.types.is_integer(counts.type) else pa.float64(), safe=False)
    within = pc.and_(pc.greater_equal(counted, 0), pc.less_equal(counted, _EPOCH_UNTIL_US // per_unit))
    return pc.round(pc.multiply(kept_where(within, counted), per_unit)).cast(pa.int64())


def _is_day(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False
