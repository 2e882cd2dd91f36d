"""A number that is an id becomes its decimal text, by one rule for files, entity frames, pushes and
questions.

Ids are text everywhere in the platform. People hold ids as numbers: as an int64 column, or as a float column
because pandas makes floats of integers once one of them is missing. A number with a fraction is no id. A
float so large that it skips integers is no id either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import FeatureError

EXACT = {
    16: 2**11,
    32: 2**24,
    64: 2**53,
}  # The bits of a float, and the first number from which it skips integers.


class NotAnId(FeatureError, ValueError):
    """A value that cannot be an id. The message names its column and row (from 0), where these are known."""

    def __init__(self, value: object, column: str = "", row: int | None = None) -> None:
        self.value = value
        place = f"{column}, row {row}: " if row is not None else ""
        super().__init__(f"{place}{value!r} is {why_no_id(value)}")


def id_text(value: object) -> str:
    """One value as the text of an id.

    Text stays unchanged. An integer or a whole number becomes its decimal text. Any other value raises
    `NotAnId`.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        raise NotAnId(value)
    if isinstance(value, Integral):
        return str(int(value))
    if (
        isinstance(value, (float, np.floating))
        and math.isfinite(value)
        and value == int(value)
        and abs(int(value)) < _exact(value)
    ):
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and value == int(value):
        return str(int(value))
    raise NotAnId(value)


def id_texts(column: str, values: Iterable[Any]) -> list[str]:
    """`id_text` of each value of a column. `NotAnId` names the first value that is no id."""
    texts = []
    for row, value in enumerate(values):
        try:
            texts.append(id_text(value))
        except NotAnId as error:
            raise NotAnId(value, column, row) from error
    return texts


def ids_of_numbers(array: pa.Array) -> pa.Array | None:
    """`id_text` of a column of integers, floats or decimals; null where a value is no id.

    None where the column is of another type.
    """
    kind = array.type
    if pa.types.is_integer(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind):
        array = array.cast(pa.float32()) if kind.bit_width == 16 else array  # Arrow cannot round a float16
        whole = pc.and_(
            pc.equal(pc.floor(array), array), pc.less(pc.abs(array), float(EXACT[kind.bit_width]))
        )
        return pc.if_else(whole, array, pa.scalar(None, array.type)).cast(pa.int64()).cast(pa.string())
    if pa.types.is_decimal(kind):
        text = pc.replace_substring_regex(
            array.cast(pa.decimal256(76, max(kind.scale, 0))).cast(pa.string()), r"\.0+$", ""
        )
        return pc.if_else(pc.match_substring(text, "."), pa.scalar(None, pa.string()), text)
    return None


def why_no_id(value: object) -> str:
    """Why a value is no id, with the remedy."""
    if value is None or value != value:
        return "not an identifier; it is missing"
    if isinstance(value, (float, np.floating, Decimal)) and math.isfinite(value):
        if value != int(value):
            return "not an identifier; it has a fraction"
        return (
            "not an identifier; a float of this size skips integers, so that the id has lost digits: hold the"
            " ids as integers or as text"
        )
    return f"not an identifier; {type(value).__name__} is neither text nor a whole number"


def _exact(value: Any) -> int:
    return EXACT[value.itemsize * 8 if isinstance(value, np.floating) and value.itemsize <= 8 else 64]
