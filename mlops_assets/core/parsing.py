"""Raw values become typed ones here, one by one: whether a value can be read never depends on its neighbours.

A column whose type could hold no such value at all is `UnreadableType`; a single value that cannot be read is null in the typed column and
true in the mask beside it, so that its row can be quarantined with its original text.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["id", "number", "time", "flag"]

TYPES: dict[Kind, pa.DataType] = {"id": pa.string(), "number": pa.float64(), "time": pa.timestamp("us", tz="UTC"), "flag": pa.bool_()}
WORDS: dict[Kind, str] = {"id": "an identifier", "number": "a number", "time": "a time", "flag": "true or false"}

_NUMBER = r"^-?\d{1,30}(\.\d{1,60})?([eE][+-]?\d{1,2})?$"
_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
_ZONE = r"^(?P<local>\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+)?)(?:(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{0,2}))?$"
_MILLION_YEARS_US = 31_556_952_000_000 * 1_000_000


class UnreadableType(Exception):
    """No value of this Arrow type can be read as the kind that the column should be."""

    def __init__(self, column: str, found: pa.DataType, kind: Kind) -> None:
        self.column, self.found, self.kind = column, found, kind
        super().__init__(f"column {column!r} is of type {found}, which cannot be read as {WORDS[kind]}")


def read_column(values: pa.ChunkedArray | pa.Array, kind: Kind, column: str) -> tuple[pa.Array, np.ndarray]:
    """The values as `TYPES[kind]`, and a mask of those that are there but cannot be read. Empty text is null. Times without a zone are UTC."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), TYPES[kind]), np.zeros(len(array), dtype=bool)
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    if pa.types.is_string(array.type):
        array = _without_empty(array)
    elif pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    typed = {"id": _ids, "number": _numbers, "time": _times, "flag": _flags}[kind](array)
    if typed is None:
        raise UnreadableType(column, array.type, kind)
    bad = pc.and_(pc.is_null(typed), pc.is_valid(array))
    return typed, bad.to_numpy(zero_copy_only=False)


def original_text(values: pa.ChunkedArray | pa.Array, rows: np.ndarray) -> list[str]:
    """What stood in those rows, as text, for people to read."""
    return [str(value) for value in values.take(pa.array(rows)).to_pylist()]


def _without_empty(array: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _ids(array: pa.Array) -> pa.Array | None:
    if pa.types.is_string(array.type):
        return array
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    if pa.types.is_floating(array.type):  # what pandas makes of integers once one of them is missing: 123.0 is "123"
        whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), 2.0**53))
        return pc.if_else(whole, array, pa.scalar(None, array.type)).cast(pa.int64()).cast(pa.string())
    if pa.types.is_decimal(array.type) and array.type.scale == 0:
        return array.cast(pa.string())
    return None


def _numbers(array: pa.Array) -> pa.Array | None:
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        return array.cast(pa.float64(), safe=False)
    if pa.types.is_string(array.type):
        return _where(pc.match_substring_regex(array, _NUMBER), array).cast(pa.float64())
    return None


def _times(array: pa.Array) -> pa.Array | None:
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        naive = array.cast(pa.timestamp("s")) if pa.types.is_date(array.type) else array
        if naive.type.unit in ("s", "ms"):  # such units reach further than microseconds do
            per_unit = {"s": 1_000_000, "ms": 1_000}[naive.type.unit]
            within = pc.less(pc.abs(naive.cast(pa.int64())), _MILLION_YEARS_US // 10 // per_unit)
            naive = pc.if_else(within, naive, pa.scalar(None, naive.type))
        return naive.cast(pa.timestamp("us", tz=naive.type.tz), safe=False).cast(pa.int64()).cast(TYPES["time"])
    if pa.types.is_string(array.type):
        return _times_of_text(_where(pc.match_substring_regex(array, _TIME), array))
    return None


def _times_of_text(text: pa.Array) -> pa.Array:
    """Zones come off before pandas reads the rest: given several in one column, it lets a time without a zone inherit its neighbour's (2.3)."""
    text = pc.utf8_rtrim(text, "Z")
    if not pc.any(pc.match_substring_regex(pc.utf8_slice_codeunits(text, 10), "[+-]")).as_py():
        return _local_times(text).cast(pa.int64()).cast(TYPES["time"])
    parts = pc.extract_regex(text, _ZONE)
    local = _local_times(pc.struct_field(parts, "local")).cast(pa.int64())
    sign = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), 1, -1)
    minutes = pc.add(pc.multiply(_whole(pc.struct_field(parts, "hours")), 60), _whole(pc.struct_field(parts, "minutes")))
    utc = pc.add(local, pc.multiply(pc.multiply(sign, minutes), 60_000_000))
    return utc.cast(TYPES["time"])


def _local_times(text: pa.Array) -> pa.Array:
    return pa.Array.from_pandas(pd.to_datetime(text.to_pandas(), errors="coerce", format="ISO8601"), type=pa.timestamp("us"), safe=False)


def _whole(digits: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64())


def _flags(array: pa.Array) -> pa.Array | None:
    if pa.types.is_boolean(array.type):
        return array
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        one = pc.equal(array, 1)
        return pc.if_else(pc.or_(one, pc.equal(array, 0)), one, pa.scalar(None, pa.bool_()))
    if pa.types.is_string(array.type):
        word = pc.utf8_lower(array)
        true = pc.is_in(word, pa.array(["true", "1"]))
        known = pc.or_(true, pc.is_in(word, pa.array(["false", "0"])))
        return pc.if_else(known, true, pa.scalar(None, pa.bool_()))
    return None


def _where(mask: pa.Array, array: pa.Array) -> pa.Array:
    return pc.if_else(mask, array, pa.scalar(None, array.type))
