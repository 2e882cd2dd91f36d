"""From exact sums to features, for arrays of training rows and for the single row of a request.

Only this module turns integers into floats. Every quotient is correctly rounded, so both ways agree to the
last bit. A column holds integers: the value times its `unit`, which is 100 for two decimals.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 2.0**53  # A float64 holds every integer up to this one.
Array = NDArray[Any]


def quotient(numerator: int, denominator: int) -> float:
    """The float nearest to a quotient of integers. Infinite where the quotient exceeds float64."""
    try:
        return numerator / denominator
    except OverflowError:  # Beyond float64
        return math.inf if numerator > 0 else -math.inf


def mean(total: int, count: int, unit: int) -> float | None:
    """The mean of `count` values whose sum is `total`. None for no values."""
    return quotient(total, count * unit) if count else None


def spread(total: int, squares: int, count: int, unit: int) -> float | None:
    """The sample standard deviation. None for fewer than two values."""
    if count < 2:
        return None
    return math.sqrt(quotient(count * squares - total * total, count * (count - 1) * unit * unit))


def quotients(numerators: Array, denominators: Array) -> NDArray[np.float64]:
    """`quotient` of whole columns.

    The processor's division is exact where both integers are small. All others are divided one by one.
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
    """`mean` of whole columns, NaN for null."""
    result = np.full(len(counts), np.nan)
    some = counts > 0
    result[some] = quotients(totals[some], _times(counts[some], unit))
    return result


def spreads(totals: Array, squares: Array, counts: Array, unit: int) -> NDArray[np.float64]:
    """`spread` of whole columns, NaN for null."""
    result = np.full(len(counts), np.nan)
    some = np.flatnonzero(counts > 1)
    n, total, square = counts[some], totals[some], squares[some]
    if square.dtype != object:
        # As sum² ≤ n · squares, this bound keeps the whole numerator within int64.
        large = n.astype(np.float64) * square.astype(np.float64) >= EXACT
        numerators = n * square - total * total
        result[some] = np.sqrt(quotients(np.where(large, 0, numerators), _times(n * (n - 1), unit * unit)))
        some, n, total, square = (a[large] for a in (some, n, total, square))
    n, total, square = (a.astype(object) for a in (n, total, square))
    result[some] = np.sqrt(quotients(n * square - total * total, _times(n * (n - 1), unit * unit)))
    return result


def scaled(totals: Array, unit: int) -> NDArray[np.float64]:
    """Each total in the unit of the column."""
    return quotients(totals, _times(np.ones(len(totals), np.int64), unit))


def float_of(value: Fraction) -> float:
    """The float nearest to a fraction. Infinite where the fraction exceeds float64."""
    return quotient(value.numerator, value.denominator)


def _times(values: Array, factor: int) -> Array:
    """The product. It is in Python's integers where int64 cannot hold it."""
    if values.dtype != object and int(values.max(initial=1)) * factor < 2**62:
        return values * factor
    return values.astype(object) * factor
