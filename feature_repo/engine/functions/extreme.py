"""The least or the greatest of the values that are not null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
from feature_repo.engine.functions.sum import counts_over
from feature_repo.engine.functions.window_bounds import WindowBounds
from feature_repo.engine.rounding import quotient, scaled

NEVER = (terms.LEAST, terms.MOST)


class Extreme(Function):
    """`min` or `max` of the values. Null where there are no values."""

    takes = frozenset[Kind]({"number", "flag", "time"})

    def __init__(self, name: str) -> None:
        self.name = name
        self._better = min if name == "min" else max

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The least or greatest value."""
        values = present(seen)
        if not values:
            return None
        extreme = self._better(values)
        return float(extreme) if unit is None else quotient(extreme, unit)

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The least or greatest value."""
        return (terms.least(column) if self.name == "min" else terms.greatest(column),)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The value in the column's own unit."""
        return None if state[0] in NEVER else quotient(state[0], unit)

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Takes the lesser or greater of the two values."""
        (place,) = places
        better = self._better

        def finish(of_pack: Sequence[int], of_tail: Sequence[int], _: int | None, __: int) -> Value:
            """Null where neither part has a value."""
            value = better(of_pack[place], of_tail[place])
            return None if value in NEVER else quotient(value, unit)

        return finish

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Computed by a sparse table, in which two overlapping ranges of a power of two cover every range.

        Only one level of the table is in memory at a time.
        """
        held, late = rows.numbers(column)
        counts = counts_over(column, rows, window)
        better = np.minimum if self.name == "min" else np.maximum
        worst = held.worst(self.name)
        table = held.ordered if held.valid is None else np.where(held.valid, held.ordered, worst)
        lengths = window.end - window.first
        levels = np.frexp(lengths.astype(np.float64))[1] - 1
        result = np.full(len(lengths), worst, table.dtype)
        for level in range(int(levels.max(initial=-1)) + 1):
            if level:
                half = 1 << (level - 1)
                table = better(table[:-half], table[half:])
            at = np.flatnonzero(levels == level)
            result[at] = better(table[window.first[at]], table[window.end[at] - (1 << level)])
        for moments, events in window.pairs():
            seen = late.present[events] > 0
            better.at(result, moments[seen], late.ordered[events[seen]])
        values = result if held.binary else scaled(np.where(counts > 0, result, 0), held.unit)
        return np.where(counts > 0, values, np.nan)
