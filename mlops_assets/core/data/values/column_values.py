"""What a value means: columns of text and Arrow values become typed columns.

Each value is read without regard to its neighbours. The rules stand in docs/data.md, "What a value means". A
column of a type that can hold no such value raises `UnreadableType`. A single value that cannot be read is
null in the typed column and is returned as `Unread`, so that its row goes to quarantine with its original
text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.ids import why_no_id
from mlops_assets.core.data.values.arrow_text import all_bytes, as_text, is_number, is_utf8, kept_where
from mlops_assets.core.data.values.number_values import number_remedy, read_ids, read_numbers, why_unread_id
from mlops_assets.core.data.values.time_values import epoch_remedy, read_times, time_remedy
from mlops_assets.core.data.values.value_rules import FALSE, TRUE, TYPES, USUAL, WORDS, Kind, Rules
from mlops_assets.errors import PlatformError


class UnreadableType(PlatformError):
    """No value of this Arrow type can be read as the kind that is declared for the column."""

    def __init__(self, column: str, found: pa.DataType, kind: Kind, remedy: str = "") -> None:
        self.column, self.found, self.kind = column, found, kind
        super().__init__(
            f"column {column!r} is of type {found}, which cannot be read as {WORDS[kind]}{remedy}"
        )


@dataclass(frozen=True)
class Unread:
    """A value that could not be read.

    `text` is the original text. `why` is the reason and, after "; ", the remedy.
    """

    text: str
    why: str


def read_column(
    values: pa.ChunkedArray | pa.Array, kind: Kind, column: str, rules: Rules = USUAL
) -> tuple[pa.Array, dict[int, Unread]]:
    """The values as `TYPES[kind]`, and by row number the values that cannot be read.

    A missing value and a value that cannot be read are both null. Raises `UnreadableType`.
    """
    given = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    array, broken = as_text(given)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), TYPES[kind]), {}
    if pa.types.is_string(array.type):
        array = _without_missing(array, rules)
    elif pa.types.is_floating(array.type):
        if pa.types.is_float16(array.type) and kind != "id":
            array = array.cast(pa.float32())  # Arrow cannot compare float16.
        array = kept_where(pc.invert(pc.is_nan(array)), array)
    typed = _READERS[kind](array, rules)
    if typed is None:
        countable = kind == "time" and rules.epoch is None and is_number(array.type)
        raise UnreadableType(column, array.type, kind, f"; {epoch_remedy(rules)}" if countable else "")
    bad = broken
    if typed.null_count > array.null_count:
        bad = sorted({*broken, *np.flatnonzero(pc.and_(pc.is_null(typed), pc.is_valid(array))).tolist()})
    why = cache(lambda value: _why(value, kind, rules))
    found = {row: _value(given[row]) for row in bad}
    return typed, {row: Unread(_text(value), why(value)) for row, value in found.items()}


def _without_missing(array: pa.Array, rules: Rules) -> pa.Array:
    """Trimmed text. Empty text and the words for a missing value become null.

    The bytes of the column decide which searches are needed: most columns hold digits only.
    """
    data = all_bytes(array)
    if np.any((data <= 32) | (data >= 127)):
        array = pc.utf8_trim_whitespace(array)
    words = ["", *(word.strip().lower() for word in rules.missing)]
    if not np.any((data < 48) | (data > 57)) and not any(word.isdigit() for word in words):
        words = [""]
    longest = max(len(word.encode()) for word in words)
    if (shortest := pc.min(pc.binary_length(array)).as_py()) is None or shortest > longest:
        return array
    missing = pc.is_in(pc.utf8_lower(array) if len(words) > 1 else array, pa.array(words))
    return pc.if_else(missing, pa.scalar(None, pa.string()), array) if pc.any(missing).as_py() else array


def _flags(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_boolean(array.type):
        return array
    if is_number(array.type):
        one = pc.equal(array, 1)
        return kept_where(pc.or_(one, pc.equal(array, 0)), one)
    if not pa.types.is_string(array.type):
        return None
    word = pc.utf8_lower(array)
    if np.any(all_bytes(array) == ord(".")):
        word = pc.replace_substring_regex(word, r"^([01])\.0*$", r"\1")
    yes, no = {w.lower() for w in rules.true}, {w.lower() for w in rules.false}
    true = pc.is_in(word, pa.array(sorted(({*TRUE, "1"} - no) | yes)))
    false = pc.is_in(word, pa.array(sorted(({*FALSE, "0"} - yes) | no)))
    return kept_where(pc.or_(true, false), true)


def _texts(array: pa.Array, rules: Rules) -> pa.Array | None:
    if pa.types.is_string(array.type):
        return array
    if is_number(array.type) or pa.types.is_boolean(array.type):
        return array.cast(pa.string())
    return None


_READERS: dict[Kind, Callable[[pa.Array, Rules], pa.Array | None]] = {
    "id": read_ids,
    "number": read_numbers,
    "time": read_times,
    "flag": _flags,
    "text": _texts,
}


def _why(value: Any, kind: Kind, rules: Rules) -> str:
    head = f"not {WORDS[kind]}"
    if isinstance(value, bytes):
        if not is_utf8(value):
            return f"{head}; its bytes are not UTF-8"
        value = value.decode()
    if kind == "flag":
        return f"{head}; use 0 or 1, or list it under {rules.section[:-1]}.flags]"
    if kind == "id":
        return why_unread_id(value.strip()) if isinstance(value, str) else why_no_id(value)
    if kind == "time":
        return f"{head}; {time_remedy(value, rules)}"
    remedy = number_remedy(value.strip(), rules) if isinstance(value, str) else "it is not finite"
    return f"{head}; {remedy}" if remedy else head


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):  # Python's datetime cannot hold the value.
        return f"{scalar.value:,} ({scalar.type})"


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
