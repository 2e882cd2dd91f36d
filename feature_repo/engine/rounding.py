"""From exact sums to features: the one place where integers become floats, for arrays of training rows and
for the single row being served alike.

Every quotient is the correctly rounded one, so that both ways agree to the last bit. A column holds integers:
the value times its `unit` (100 for money).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 2.0**53  # up to here a float64 holds every integer
Array = NDArray[Any]


def quotient(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator
    except OverflowError:  # beyond float64
        return math.inf if numerator > 0 else -math.inf


def mean(total: int, count: int, unit: int) -> float | None:
    return quotient(total, count * unit) if count else None


def spread(total: int, squares: int, count: int, unit: int) -> float | None:
    """The sample standard deviation; null for fewer than two values."""
    if count < 2:
        return None
    return math.sqrt(quotient(count * squares - total * total, count * (count - 1) * unit * unit))


def quotients(numerators: Array, denominators: Array) -> NDArray[np.float64]:
    """`quotient` of whole columns.

    Where both are small the processor's division is exact already; the rest is divided one by one.
    """
    result = np.empty(len(numerators), np.float64)
    if numerators.dtype == object or denominators.dtype == object:
        slow = np.ones(len(numerators), bool)
    else:
        slow = (numerators > EXACT) | (numerators < -EXACT) | (denominators > EXACT)
        np.divide(numerators, denominators, out=result, where=~slow)
    for i in np.flatnonzero(slow).tolist():
        result[i] = quotient(int(numerators[i]), int(denominators[i]))
    return result


def means(totals: Array, counts: Array, unit: int) -> NDArray[np.float64]:
    result = np.full(len(counts), np.nan)
    some = counts > 0
    result[some] = quotients(totals[some], _times(counts[some], unit))
    return result


def spreads(totals: Array, squares: Array, counts: Array, unit: int) -> NDArray[np.float64]:
    result = np.full(len(counts), np.nan)
    some = np.flatnonzero(counts > 1)
    n, total, square = counts[some], totals[some], squares[some]
    if square.dtype != object:
        # sum² ≤ n · squares, so this one bound keeps the whole numerator within int64.
        large = n.astype(np.float64) * square.astype(np.float64) >= EXACT
        numerators = n * square - total * total
        result[some] = np.sqrt(quotients(np.where(large, 0, numerators), _times(n * (n - 1), unit * unit)))
        some, n, total, square = (a[large] for a in (some, n, total, square))
    n, total, square = (a.astype(object) for a in (n, total, square))
    result[some] = np.sqrt(quotients(n * square - total * total, _times(n * (n - 1), unit * unit)))
    return result


def scaled(totals: Array, unit: int) -> NDArray[np.float64]:
    return quotients(totals, _times(np.ones(len(totals), np.int64), unit))


def of_values(function: str, values: Sequence[Any], unit: int | None) -> float | int | None:
    """A function of the values themselves, for the rare places that hold no sums.

    Without a unit the values are what they are: floats are exact fractions.
    """
    if function == "count_distinct":
        return len(set(values))
    if function in ("min", "max"):
        if not values:
            return None
        extreme = min(values) if function == "min" else max(values)
        return float(extreme) if unit is None else quotient(extreme, unit)
    total = sum((Fraction(v) for v in values), Fraction(0))
    count = len(values)
    if function == "sum":
        whole = unit == 1 or (unit is None and all(isinstance(v, int) for v in values))
        return int(total) if whole else _float(total / (unit or 1))
    if function == "avg":
        return _float(total / (count * (unit or 1))) if count else None
    if count < 2:
        return None
    squares = sum((Fraction(v) ** 2 for v in values), Fraction(0))
    return math.sqrt(_float((count * squares - total**2) / (count * (count - 1) * (unit or 1) ** 2)))


def _float(value: Fraction) -> float:
    return quotient(value.numerator, value.denominator)


def _times(values: Array, factor: int) -> Array:
    """The product, in Python's integers where int64 could not hold it."""
    if values.dtype != object and int(values.max(initial=1)) * factor < 2**62:
        return values * factor
    return values.astype(object) * factor
