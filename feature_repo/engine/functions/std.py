"""The sample standard deviation of the values that are not null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from feature_repo.engine.functions import terms
from feature_repo.engine.functions.base import (
    Array,
    Finisher,
    Function,
    KeyRows,
    Kind,
    SeenEvent,
    Value,
    present,
)
from feature_repo.engine.functions.sum import counts_and_totals
from feature_repo.engine.functions.window_bounds import WindowBounds, wide
from feature_repo.engine.rounding import float_of, spread, spreads


class Std(Function):
    """The sample standard deviation. Null for fewer than two values."""

    name = "std"
    synonyms = ("stddev",)
    takes = frozenset[Kind]({"number", "flag", "time"})

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The square root of the exact variance, which is rounded once before the root."""
        values = [Fraction(v) for v in present(seen)]
        count = len(values)
        if count < 2:
            return None
        total, squares = sum(values, Fraction(0)), sum((v**2 for v in values), Fraction(0))
        return math.sqrt(float_of((count * squares - total**2) / (count * (count - 1) * (unit or 1) ** 2)))

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The sum and the number of the values, and the sum of their squares."""
        return (terms.total(column), terms.present(column), terms.squares(column))

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """Computed from the three sums."""
        total, count, squares = state
        return spread(total, squares, count, unit)

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Adds up the three sums of both parts."""
        total, count, squares = places
        return lambda of_pack, of_tail, _, __: spread(
            of_pack[total] + of_tail[total],
            of_pack[squares] + of_tail[squares],
            of_pack[count] + of_tail[count],
            unit,
        )

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Computed from the sum, the count and the squares of every window."""
        held, late = rows.numbers(column)
        counts, totals = counts_and_totals(column, rows, window)
        largest, most = max(held.largest, late.largest), int(counts.max(initial=0))
        values, late_values = wide(largest * largest * most, held.values, late.values)
        squares = window.sums(values * values, late_values * late_values)
        return spreads(totals, squares, counts, held.unit)
