"""Lake columns as arrays that can be aggregated exactly: money and whole numbers as int64, floats as integers
of a common binary unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.errors import FeatureError

LARGEST = 2**62  # of a scaled value; far from any money, and safely within an int64


class BadEvent(FeatureError):
    """A value that no event may carry. `field` names the column, `value` is what it held."""

    def __init__(self, field: str, value: object) -> None:
        self.field, self.value = field, value
        super().__init__(f"{field}: {value!r} cannot be aggregated")


@dataclass(frozen=True)
class Column:
    """`values / unit` is what the lake holds.

    `values` are int64, or Python's integers where these are too large, and 0 where `valid` is false.
    `ordered` compares like the values do. `whole` says that sums of it are whole numbers, `binary` that it
    holds floats of no declared scale.
    """

    values: NDArray[Any]
    ordered: NDArray[Any]
    valid: NDArray[np.bool_] | None
    unit: int
    whole: bool
    binary: bool = False

    def __getitem__(self, part: slice) -> Column:
        return replace(
            self,
            values=self.values[part],
            ordered=self.ordered[part],
            valid=None if self.valid is None else self.valid[part],
        )

    @property
    def present(self) -> NDArray[np.int64]:
        """1 where there is a value, 0 where it is null."""
        return np.ones(len(self.values), np.int64) if self.valid is None else self.valid.astype(np.int64)

    @property
    def largest(self) -> int:
        """The greatest size of a value."""
        return max(abs(int(self.values.max())), abs(int(self.values.min()))) if len(self.values) else 0

    def worst(self, function: str) -> Any:
        """What loses against every value in `min` or `max`."""
        if self.binary:
            return np.inf if function == "min" else -np.inf
        return np.iinfo(np.int64).max if function == "min" else np.iinfo(np.int64).min


def number_column(name: str, array: pa.Array, scale: int | None) -> Column:
    """A numeric, boolean or timestamp column. Infinite values raise `BadEvent`, NaN counts as null."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int64())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise BadEvent(name, str(kind))
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(array.type):
        floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
        valid &= ~np.isnan(floats)
        floats[~valid] = 0.0
        if np.isinf(floats).any():
            raise BadEvent(name, float(floats[np.isinf(floats)][0]))
        return _scaled(name, floats, valid, scale) if scale is not None else _binary(floats, valid)
    values = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    unit = 10 ** (scale or 0)
    if unit > 1:
        if len(values) and int(np.abs(values).max()) * unit >= LARGEST:
            raise BadEvent(name, int(np.abs(values).max()))
        values = values * unit
    return Column(values, values, None if valid.all() else valid, unit, unit == 1)


def code_column(name: str, array: pa.Array, scale: int | None) -> Column:
    """Any column as small integers that are equal where the values are; for counting the distinct ones."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        codes = pc.fill_null(array.dictionary_encode().indices.cast(pa.int64()), 0).to_numpy(
            zero_copy_only=False
        )
    else:
        column = number_column(name, array, scale)
        valid = column.present > 0
        codes = np.unique(column.values, return_inverse=True)[1].astype(np.int64)
    return Column(codes, codes, None if valid.all() else valid, 1, True)


def scaled_value(name: str, value: Any, scale: int) -> int | None:
    """One value as `number_column` holds it; NaN, infinity and what is no number raise `BadEvent`."""
    if value is None:
        return None
    try:
        number = int(value) * 10**scale if isinstance(value, (bool, int)) else round(float(value) * 10**scale)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadEvent(name, value) from error
    if isinstance(value, str) or abs(number) >= LARGEST:
        raise BadEvent(name, value)
    return number


def _scaled(name: str, floats: NDArray[np.float64], valid: NDArray[np.bool_], scale: int) -> Column:
    with np.errstate(over="ignore"):
        numbers = np.rint(floats * 10**scale)
    if (np.abs(numbers) >= LARGEST).any():
        raise BadEvent(name, float(floats[np.abs(numbers) >= LARGEST][0]))
    values = numbers.astype(np.int64)
    return Column(values, values, None if valid.all() else valid, 10**scale, scale == 0)


def _binary(floats: NDArray[np.float64], valid: NDArray[np.bool_]) -> Column:
    """Every float64 is an integer times a power of two: with one power for the column, sums of floats are
    sums of integers and lose nothing.
    """
    mantissas, exponents = np.frexp(floats)
    integers = np.ldexp(mantissas, 53).astype(np.int64).astype(object)
    exponents = exponents.astype(np.int64) - 53
    lowest = min(0, int(exponents[floats != 0].min(initial=0)))
    shifts = np.where(floats != 0, exponents - lowest, 0)
    return Column(
        integers * np.left_shift(np.ones(len(floats), dtype=object), shifts.astype(object)),
        floats,
        None if valid.all() else valid,
        2**-lowest,
        False,
        True,
    )
