"""The sum of the values that are not null."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from feature_repo.engine.functions import terms
from feature_repo.engine.functions.base import (
    Array,
    Finisher,
    Function,
    Ints,
    KeyRows,
    Kind,
    SeenEvent,
    Value,
    present,
)
from feature_repo.engine.functions.window_bounds import WindowBounds, wide
from feature_repo.engine.rounding import float_of, quotient, scaled


class Sum(Function):
    """The sum of the values: 0 for no values. An integer where the column holds whole numbers."""

    name = "sum"
    takes = frozenset[Kind]({"number", "flag", "time"})

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The exact sum, rounded once to float64."""
        values = present(seen)
        total = sum((Fraction(v) for v in values), Fraction(0))
        whole = unit == 1 or (unit is None and all(isinstance(v, int) for v in values))
        return int(total) if whole else float_of(total / (unit or 1))

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The sum of the values."""
        return (terms.total(column),)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The sum in the column's own unit."""
        return state[0] if unit == 1 else quotient(state[0], unit)

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Adds up the two sums."""
        (place,) = places
        if unit == 1:
            return lambda of_pack, of_tail, _, __: of_pack[place] + of_tail[place]
        return lambda of_pack, of_tail, _, __: quotient(of_pack[place] + of_tail[place], unit)

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Computed by differences of prefix sums."""
        held, _ = rows.numbers(column)
        _, totals = counts_and_totals(column, rows, window)
        return totals if held.whole and totals.dtype != object else scaled(totals, held.unit)


def counts_and_totals(column: str, rows: KeyRows, window: WindowBounds) -> tuple[Ints, Array]:
    """How many values each moment sees, and their sum in units of the column."""
    held, late = rows.numbers(column)
    counts = counts_over(column, rows, window)
    bound = max(held.largest, late.largest) * int(counts.max(initial=0))
    return counts, window.sums(*wide(bound, held.values, late.values))


def counts_over(column: str, rows: KeyRows, window: WindowBounds) -> Ints:
    """How many values each moment sees."""
    held, late = rows.numbers(column)
    return window.counts if held.valid is None else window.sums(held.present, late.present)
