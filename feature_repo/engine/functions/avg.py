"""The mean of the values that are not null."""

from __future__ import annotations

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
from feature_repo.engine.functions.window_bounds import WindowBounds
from feature_repo.engine.rounding import float_of, mean, means


class Avg(Function):
    """The mean of the values. Null where there are no values."""

    name = "avg"
    synonyms = ("mean",)
    takes = frozenset[Kind]({"number", "flag", "time"})

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The exact mean, rounded once to float64."""
        values = present(seen)
        total = sum((Fraction(v) for v in values), Fraction(0))
        return float_of(total / (len(values) * (unit or 1))) if values else None

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The sum and the number of the values."""
        return (terms.total(column), terms.present(column))

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The sum divided by the number."""
        total, count = state
        return mean(total, count, unit)

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Adds up the two sums and the two numbers."""
        total, count = places
        return lambda of_pack, of_tail, _, __: mean(
            of_pack[total] + of_tail[total], of_pack[count] + of_tail[count], unit
        )

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Computed from the sum and the count of every window."""
        held, _ = rows.numbers(column)
        counts, totals = counts_and_totals(column, rows, window)
        return means(totals, counts, held.unit)
