"""Columns of the lake as arrays that can be aggregated exactly.

Numbers of a declared scale and whole numbers are int64. Other floats are integers of one binary unit for the
whole column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.errors import FeatureError

LARGEST = 2**62  # The greatest scaled value. The sum of two of them fits an int64.


class BadEvent(FeatureError):
    """A value that no event may carry. `field` names the column, `value` is the value."""

    def __init__(self, field: str, value: object) -> None:
        self.field, self.value = field, value
        super().__init__(f"{field}: {value!r} cannot be aggregated")


@dataclass(frozen=True)
class ExactColumn:
    """A column of exact integers. The lake holds `values / unit`.

    `values` are int64, or Python's integers where int64 is too small. They are 0 where `valid` is false.
    `ordered` has the order of the values. `whole` says that the sums of the column are whole numbers.
    `binary` says that the column holds floats without a declared scale.
    """

    values: NDArray[Any]
    ordered: NDArray[Any]
    valid: NDArray[np.bool_] | None
    unit: int
    whole: bool
    binary: bool = False

    def __getitem__(self, part: slice) -> ExactColumn:
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
        """The value that loses against every other value in `min` or `max`."""
        if self.binary:
            return np.inf if function == "min" else -np.inf
        return np.iinfo(np.int64).max if function == "min" else np.iinfo(np.int64).min


def number_column(name: str, array: pa.Array, scale: int | None) -> ExactColumn:
    """A numeric, boolean or timestamp column as exact integers.

    `scale` is the number of decimals that the integers hold; None where no scale is declared. NaN counts as
    null. Infinite values, values beyond 2^62 and columns of other types raise `BadEvent`.
    """
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
    return ExactColumn(values, values, None if valid.all() else valid, unit, unit == 1)


def microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Timestamps as int64 microseconds since the epoch; without a zone they are UTC."""
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return np.asarray(column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64()).to_numpy())


def code_column(name: str, array: pa.Array, scale: int | None) -> ExactColumn:
    """Any column as small integers. Equal values have equal integers."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        codes = pc.fill_null(array.dictionary_encode().indices.cast(pa.int64()), 0).to_numpy(
            zero_copy_only=False
        )
    else:
        column = number_column(name, array, scale)
        valid = column.present > 0
        codes = np.unique(column.values, return_inverse=True)[1].astype(np.int64)
    return ExactColumn(codes, codes, None if valid.all() else valid, 1, True)


def scaled_value(name: str, value: Any, scale: int) -> int | None:
    """One value as the integer that `number_column` holds; None for None.

    `BadEvent` for NaN, infinity, a value beyond 2^62, and a value that is no number.
    """
    if value is None:
        return None
    try:
        number = int(value) * 10**scale if isinstance(value, (bool, int)) else round(float(value) * 10**scale)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadEvent(name, value) from error
    if isinstance(value, str) or abs(number) >= LARGEST:
        raise BadEvent(name, value)
    return number


def _scaled(name: str, floats: NDArray[np.float64], valid: NDArray[np.bool_], scale: int) -> ExactColumn:
    with np.errstate(over="ignore"):
        numbers = np.rint(floats * 10**scale)
    if (np.abs(numbers) >= LARGEST).any():
        raise BadEvent(name, float(floats[np.abs(numbers) >= LARGEST][0]))
    values = numbers.astype(np.int64)
    return ExactColumn(values, values, None if valid.all() else valid, 10**scale, scale == 0)


def _binary(floats: NDArray[np.float64], valid: NDArray[np.bool_]) -> ExactColumn:
    """Floats as integers times one power of two. Every float64 is such a product.

    Sums of the integers lose nothing, because the power is the same for the whole column.
    """
    mantissas, exponents = np.frexp(floats)
    integers = np.ldexp(mantissas, 53).astype(np.int64).astype(object)
    exponents = exponents.astype(np.int64) - 53
    lowest = min(0, int(exponents[floats != 0].min(initial=0)))
    shifts = np.where(floats != 0, exponents - lowest, 0)
    return ExactColumn(
        integers * np.left_shift(np.ones(len(floats), dtype=object), shifts.astype(object)),
        floats,
        None if valid.all() else valid,
        2**-lowest,
        False,
        True,
    )
