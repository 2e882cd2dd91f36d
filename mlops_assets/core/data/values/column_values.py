"""What a value means: text and Arrow values become typed ones here, one by one.

Whether a value can be read never depends on its neighbours. The table of the rules is in docs/data.md, "What
a value means". A column whose type could hold no such value at all is `UnreadableType`. A single value that
cannot be read is null in the typed column and `Unread` beside it, so that its row can be quarantined with its
original text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.ids import EXACT, ids_of_numbers, why_no_id
from mlops_assets.errors import PlatformError

Kind = Literal["id", "number", "time", "flag", "text"]
Epoch = Literal["s", "ms", "us"]

TYPES: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "number": pa.float64(),
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "text": pa.string(),
}
WORDS: dict[Kind, str] = {
    "id": "an identifier",
    "number": "a number",
    "time": "a time",
    "flag": "true or false",
    "text": "a text",
}
MISSING_WORDS = (
    "NULL",
    "\\N",
    "nan",
    "NaT",
    "<NA>",
    "#N/A",
    "N/A",
    "None",
    "-",
)  # as databases, pandas and spreadsheets write "nothing"
TRUE, FALSE = ("true", "t", "yes", "y"), ("false", "f", "no", "n")
THOUSANDS = ("", ",", ".", "'", " ", "_")
SPACES = " \u00a0\u202f"  # the plain one, the one that does not break, and its narrow form

_MICROSECONDS: dict[Epoch, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
_EPOCH_UNTIL_US = 7_258_118_400 * 1_000_000  # 2200-01-01: a later moment is one in another unit
_CALENDAR_US = (-62_135_596_800 * 1_000_000, 253_402_300_800 * 1_000_000)  # the years 1 to 9999
_ZONES_US = (
    -5_364_662_400 * 1_000_000,
    253_370_764_800 * 1_000_000,
)  # 1800 to 9998: other years stand for no time, and have no zone
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_COUNT = r"^[+-]?\d+(\.\d*)?$"
_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"(?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?)?"
_LOCAL = rf"^{_DAY}(?:[T ]{_CLOCK})?$"  # as Arrow reads it
_ZONED = rf"^{_DAY}[T ]{_CLOCK}(?:Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)$"
# What a float column writes: no leading zeros, and nothing after the point. The sign of the exponent keeps
# hexadecimal ids such as 12E45 out.
_FLOAT_ID = r"^-?(0|[1-9]\d*)\.0+$"
_RUINED_ID = r"^-?\d([.,]\d*)?[eE]\+\d{1,3}$"


class UnreadableType(PlatformError):
    """No value of this Arrow type can be read as the kind that the column should be."""

    def __init__(self, column: str, found: pa.DataType, kind: Kind, remedy: str = "") -> None:
        self.column, self.found, self.kind = column, found, kind
        super().__init__(
            f"column {column!r} is of type {found}, which cannot be read as {WORDS[kind]}{remedy}"
        )


@dataclass(frozen=True)
class Rules:
    """What a feed may write otherwise than is usual.

    `section` is where a person configures it. `ValueError` names what is wrong.
    """

    missing: tuple[str, ...] = MISSING_WORDS  # in any case; empty text is always missing
    decimal: str = "."
    thousands: str = ""
    timezone: str = "UTC"  # of times that name no zone
    epoch: Epoch | None = None  # what a bare number counts since 1970, where a time is expected
    true: tuple[str, ...] = ()  # beside `TRUE`, in any case
    false: tuple[str, ...] = ()
    section: str = "[source]"

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise ValueError(f'decimal = "{self.decimal}": the decimal mark is "." or ","')
        if self.thousands not in THOUSANDS:
            raise ValueError(
                f'thousands = "{self.thousands}": between thousands stands one of'
                f" {', '.join(map(repr, THOUSANDS[1:]))}"
            )
        if self.thousands == self.decimal:
            raise ValueError(
                f'thousands = "{self.thousands}": the decimal mark is the same; set decimal ='
                f' "{_other(self.decimal)}"'
            )
        if both := sorted({w.lower() for w in self.true} & {w.lower() for w in self.false}):
            raise ValueError(f'flags: "{both[0]}" is listed as true and as false')
        try:
            pd.DatetimeIndex([0]).tz_localize(self.timezone)
        except Exception as error:  # each library of zones has its own
            raise ValueError(
                f'timezone = "{self.timezone}": no such zone; write it like "Europe/Berlin"'
            ) from error


PLAIN = Rules()


@dataclass(frozen=True)
class Unread:
    """A value that could not be read: `text` is what stood there, `why` the reason and, after "; ", the
    remedy.
    """

    text: str
    why: str


def read_column(
    values: pa.ChunkedArray | pa.Array, kind: Kind, column: str, rules: Rules = PLAIN
) -> tuple[pa.Array, dict[int, Unread]]:
    """The values as `TYPES[kind]`, null where there is none, and by row those that are there but cannot be
    read.
    """
    given = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    array, broken = _text_of_bytes(given)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), TYPES[kind]), {}
    if pa.types.is_string(array.type):
        array = _without_missing(array, rules)
    elif pa.types.is_floating(array.type):
        if pa.types.is_float16(array.type) and kind != "id":
            array = array.cast(pa.float32())  # Arrow compares no halves
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    typed = _READERS[kind](array, rules)
    if typed is None:
        countable = kind == "time" and rules.epoch is None and _is_number(array.type)
        raise UnreadableType(column, array.type, kind, f"; {_epoch_remedy(rules)}" if countable else "")
    bad = broken
    if typed.null_count > array.null_count:
        bad = sorted({*broken, *np.flatnonzero(pc.and_(pc.is_null(typed), pc.is_valid(array))).tolist()})
    why = cache(lambda value: _why(value, kind, rules))
    found = {row: _value(given[row]) for row in bad}
    return typed, {row: Unread(_text(value), why(value)) for row, value in found.items()}


def _text_of_bytes(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Text of every kind as `string`, and the rows whose bytes are no text.

    Old writers of Parquet do not say that their bytes are text.
    """
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string()), []
    if not (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return array, []
    try:
        return array.cast(pa.binary()).cast(pa.string()), []
    except pa.ArrowInvalid:
        values = array.to_pylist()
        broken = [i for i, value in enumerate(values) if value is not None and not _is_utf8(value)]
        return (
            pa.array(
                [None if value is None or not _is_utf8(value) else value.decode() for value in values],
                pa.string(),
            ),
            broken,
        )


def _without_missing(array: pa.Array, rules: Rules) -> pa.Array:
    """Trimmed text, null where it is empty or a word for nothing.

    What the bytes rule out is not looked for: most columns hold digits only.
    """
    data = _bytes(array)
    if np.any((data <= 32) | (data >= 127)):
        array = pc.utf8_trim_whitespace(array)
    words = ["", *(word.strip().lower() for word in rules.missing)]
    if not np.any((data < 48) | (data > 57)) and not any(word.isdigit() for word in words):
        words = [""]
    if (shortest := pc.min(pc.binary_length(array)).as_py()) is None or shortest > max(
        len(word.encode()) for word in words
    ):
        return array
    missing = pc.is_in(pc.utf8_lower(array) if len(words) > 1 else array, pa.array(words))
    return pc.if_else(missing, pa.scalar(None, pa.string()), array) if pc.any(missing).as_py() else array


def _ids(array: pa.Array, rules: Rules) -> pa.Array | None:
    if not pa.types.is_string(array.type):
        return ids_of_numbers(array)
    data = _bytes(array)
    if np.any(
        data == ord(".")
    ):  # what a float column wrote is the id that it stands for, if the float was exact
        float_text = pc.match_substring_regex(array, _FLOAT_ID)
        number = _where(float_text, array).cast(pa.float64())
        exact = pc.fill_null(pc.less(pc.abs(number), float(EXACT[64])), True)
        whole = pc.replace_substring_regex(array, r"\.0+$", "")
        array = _where(exact, pc.if_else(float_text, pc.if_else(pc.equal(whole, "-0"), "0", whole), array))
    if np.any(data == ord("+")):
        array = _where(pc.invert(pc.match_substring_regex(array, _RUINED_ID)), array)
    return array


def _numbers(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_decimal(array.type):
        return array.cast(pa.string()).cast(
            pa.float64()
        )  # Arrow's own way multiplies, and is off in the last bit
    if _is_number(array.type):
        return array.cast(pa.float64(), safe=False)
    if not pa.types.is_string(array.type):
        return None
    if (rules.decimal, rules.thousands) != (PLAIN.decimal, PLAIN.thousands):
        array = _with_point(array, rules)
    numbers = _where(pc.match_substring_regex(array, _NUMBER), array).cast(pa.float64())
    return (
        numbers
        if pc.all(pc.is_finite(numbers)).as_py() is not False
        else _where(pc.is_finite(numbers), numbers)
    )


def _with_point(array: pa.Array, rules: Rules) -> pa.Array:
    """The numbers in their plain form, null where a mark is out of place."""
    point = re.escape(rules.decimal)
    between = {"": "", " ": f"[{SPACES}]", "'": "['\u2019]"}.get(rules.thousands, re.escape(rules.thousands))
    grouped = rf"\d{{1,3}}(?:{between}\d{{2,3}})*{between}\d{{3}}|" if between else ""
    array = _where(
        pc.match_substring_regex(array, rf"^[+-]?(?:{grouped}\d*)(?:{point}\d*)?(?:[eE][+-]?\d+)?$"), array
    )
    if between:
        array = pc.replace_substring_regex(array, between, "")
    return pc.replace_substring(array, rules.decimal, ".")


def _times(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        naive = array.cast(pa.timestamp("s"), safe=False) if pa.types.is_date(array.type) else array
        if naive.type.unit in _MICROSECONDS:  # such units reach further than the calendar does
            per_unit, counts = _MICROSECONDS[naive.type.unit], naive.cast(pa.int64())
            first, end = (bound // per_unit for bound in _CALENDAR_US)
            naive = _where(pc.and_(pc.greater_equal(counts, first), pc.less(counts, end)), naive)
        moments = naive.cast(pa.timestamp("us", tz=naive.type.tz), safe=False).cast(pa.int64())
        days = pc.is_valid(moments) if pa.types.is_date(array.type) else None
        return (moments if naive.type.tz else _from_zone(moments, rules.timezone, days)).cast(TYPES["time"])
    if _is_number(array.type) and rules.epoch:
        return _epoch_times(array, rules.epoch).cast(TYPES["time"])
    if pa.types.is_string(array.type):
        return _times_of_text(array, rules).cast(TYPES["time"])
    return None


def _times_of_text(text: pa.Array, rules: Rules) -> pa.Array:
    """Microseconds since the epoch."""
    given = text
    local, zoned = pc.match_substring_regex(text, _LOCAL), pc.match_substring_regex(text, _ZONED)
    if pc.all(pc.or_(local, zoned)).as_py() is False:  # other ways to write the same
        text = pc.replace_substring_regex(text, r"(\d) ?(?:UTC|GMT|Z)$", r"\1Z")
        text = pc.replace_substring_regex(text, r"(\d) ([+-]\d{2}(?::?\d{2})?)$", r"\1\2")
        text = pc.replace_substring_regex(text, r"(\.\d{6})\d{1,3}(Z|[+-]|$)", r"\1\2")
        local, zoned = pc.match_substring_regex(text, _LOCAL), pc.match_substring_regex(text, _ZONED)
    real = _real_days(text)
    here = _where(pc.and_(local, real), text)
    days = pc.equal(pc.binary_length(here), len("2026-03-01")) if rules.timezone != PLAIN.timezone else None
    here = here.cast(pa.timestamp("us")).cast(pa.int64())
    there = _where(pc.and_(zoned, real), text).cast(TYPES["time"]).cast(pa.int64())
    moments = pc.coalesce(_from_zone(here, rules.timezone, days), there)
    if rules.epoch is None:
        return moments
    return pc.coalesce(
        moments, _epoch_times(_where(pc.match_substring_regex(given, _COUNT), given), rules.epoch)
    )


def _real_days(text: pa.Array) -> pa.Array:
    """Which of them begin with a day that the calendar has. There are few days, and many times."""
    day = pc.utf8_slice_codeunits(text, 0, 10)
    days = pc.unique(day).drop_null()
    return pc.is_in(
        day, value_set=days.filter(pa.array([_is_day(value) for value in days.to_pylist()], pa.bool_()))
    )


def _from_zone(local_us: pa.Array, zone: str, days: pa.Array | None = None) -> pa.Array:
    """Local microseconds as those of UTC; null where the clock of the zone shows the time twice, or never.

    `days` says which of them stand for a day: in some zones daylight saving begins or ends at midnight, and
    the day has a first moment all the same.
    """
    if zone == PLAIN.timezone:
        return local_us
    given = pc.fill_null(local_us, 0).to_numpy()
    as_it_is = (given < _ZONES_US[0]) | (given >= _ZONES_US[1])
    local = pd.DatetimeIndex(np.where(as_it_is, 0, given).view("datetime64[us]"))
    moments = local.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    missing = moments.isna()
    if (
        days is not None
        and (of_day := missing & pc.fill_null(days, False).to_numpy(zero_copy_only=False)).any()
    ):
        first = local[of_day].tz_localize(
            zone, ambiguous=np.ones(of_day.sum(), bool), nonexistent="shift_forward"
        )
        moments, missing = moments.where(~of_day, first[np.cumsum(of_day) - 1]), missing & ~of_day
    known = local_us.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(np.where(as_it_is, given, moments.asi8), mask=~known | (missing & ~as_it_is))


def _epoch_times(counts: pa.Array, unit: Epoch) -> pa.Array:
    """Microseconds since 1970 of text or numbers that count them in `unit`."""
    if pa.types.is_decimal(counts.type):
        counts = counts.cast(pa.string())
    per_unit = _MICROSECONDS[unit]
    # Safe is not asked for: what is beyond an int64 becomes negative.
    counted = counts.cast(pa.int64() if pa.types.is_integer(counts.type) else pa.float64(), safe=False)
    within = pc.and_(pc.greater_equal(counted, 0), pc.less_equal(counted, _EPOCH_UNTIL_US // per_unit))
    return pc.round(pc.multiply(_where(within, counted), per_unit)).cast(pa.int64())


def _flags(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_boolean(array.type):
        return array
    if _is_number(array.type):
        one = pc.equal(array, 1)
        return _where(pc.or_(one, pc.equal(array, 0)), one)
    if not pa.types.is_string(array.type):
        return None
    word = pc.utf8_lower(array)
    if np.any(_bytes(array) == ord(".")):
        word = pc.replace_substring_regex(word, r"^([01])\.0*$", r"\1")
    yes, no = {w.lower() for w in rules.true}, {w.lower() for w in rules.false}
    true = pc.is_in(word, pa.array(sorted(({*TRUE, "1"} - no) | yes)))
    return _where(pc.or_(true, pc.is_in(word, pa.array(sorted(({*FALSE, "0"} - yes) | no)))), true)


def _texts(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_string(array.type):
        return array
    if _is_number(array.type) or pa.types.is_boolean(array.type):
        return array.cast(pa.string())
    return None


_READERS: dict[Kind, Callable[[pa.Array, Rules], pa.Array | None]] = {
    "id": _ids,
    "number": _numbers,
    "time": _times,
    "flag": _flags,
    "text": _texts,
}


def _why(value: Any, kind: Kind, rules: Rules) -> str:
    head = f"not {WORDS[kind]}"
    if isinstance(value, bytes):
        if not _is_utf8(value):
            return f"{head}; its bytes are not UTF-8"
        value = value.decode()
    if kind == "flag":
        return f"{head}; use 0 or 1, or list it under {rules.section[:-1]}.flags]"
    if kind == "id":
        return _why_no_id(value.strip()) if isinstance(value, str) else why_no_id(value)
    if kind == "time":
        return f"{head}; {_time_remedy(value, rules)}"
    remedy = _number_remedy(value.strip(), rules) if isinstance(value, str) else "it is not finite"
    return f"{head}; {remedy}" if remedy else head


def _why_no_id(text: str) -> str:
    if re.match(_FLOAT_ID, text):
        return why_no_id(float(text))
    return (
        "not an identifier; a spreadsheet took it for a number, and its last digits are lost: export the"
        " column as text"
    )


def _number_remedy(text: str, rules: Rules) -> str:
    if re.match(rf"{_NUMBER}|^[+-]?(inf|infinity)$", text, re.IGNORECASE | re.ASCII) and rules.decimal == ".":
        return "it is not finite"
    comma = 'with a decimal comma set decimal = ","'
    ways = {
        (",", ""): comma,
        (".", ""): 'with a decimal point set decimal = "."',
        (".", ","): 'with commas between thousands set decimal = "." and thousands = ","',
        (",", "."): f'{comma} and thousands = "."',
        (rules.decimal, "'"): 'with apostrophes between thousands set thousands = "\'"',
        (rules.decimal, " "): 'with spaces between thousands set thousands = " "',
    }
    fitting = [
        say
        for (decimal, thousands), say in ways.items()
        if _fits(text, Rules(decimal=decimal, thousands=thousands))
    ]
    either = 2 if re.match(r"^[+-]?\d{1,3}[.,]\d{3}$", text) else 1  # 1,234 may be meant both ways
    return f"{' or '.join(fitting[:either])} under {rules.section}" if fitting else ""


def _fits(text: str, rules: Rules) -> bool:
    numbers = _numbers(pa.array([text]), rules)
    return numbers is not None and numbers.null_count == 0


def _time_remedy(value: Any, rules: Rules) -> str:
    """What a person does about one value that is no time."""
    text = value.strip() if isinstance(value, str) else str(value)
    if re.match(_COUNT, text, re.ASCII):
        return (
            f'with epoch = "{rules.epoch}" it is before 1970 or after 2200: is another unit meant?'
            if rules.epoch
            else _epoch_remedy(rules)
        )
    if rules.timezone != PLAIN.timezone and re.match(_LOCAL, text) and _is_day(text[:10]):
        moment = pd.DatetimeIndex(np.array([text], "datetime64[us]"))
        twice = moment.tz_localize(rules.timezone, ambiguous=np.array([True]), nonexistent="NaT").notna()[0]
        return (
            f"the clock of {rules.timezone} shows it {'twice' if twice else 'never'}, at a change of daylight"
            " saving: export times with their offset"
        )
    return "write times as 2026-03-01 10:00:00, with an offset such as +01:00 or Z where they have one"


def _epoch_remedy(rules: Rules) -> str:
    return f'a bare number counts as a time only with epoch = "s", "ms" or "us" under {rules.section}'


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):  # a moment that Python has no date for
        return f"{scalar.value:,} ({scalar.type})"


def _is_day(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_utf8(value: bytes) -> bool:
    return value.decode(errors="replace").encode() == value


def _bytes(array: pa.Array) -> np.ndarray:
    """All bytes of a text column, one after the other."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[[array.offset, array.offset + len(array)]]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[1]]


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _where(mask: pa.Array, array: pa.Array) -> pa.Array:
    """Null where the mask is false."""
    return pc.if_else(mask, array, pa.scalar(None, array.type))


def _other(mark: str) -> str:
    return "," if mark == "." else "."
