"""The exact number of different values.

The function looks at each value of a window, so windows have to be small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_repo.engine.functions.base import Array, Function, KeyRows, Kind, SeenEvent, Value, present
from feature_repo.engine.functions.terms import Term
from feature_repo.engine.functions.window_bounds import WindowBounds


class CountDistinct(Function):
    """The number of different values: 0 for no values. Null is no value."""

    name = "count_distinct"
    synonyms = ("approx_count_distinct",)
    takes = frozenset[Kind]({"number", "flag", "time", "text"})
    counts = True
    compares = True

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The size of the set of values."""
        return len(set(present(seen)))

    def terms(self, column: str) -> tuple[Term, ...]:
        # The numbers of two sets do not give the number of both, so no kind of merging fits.
        """The number itself, which SQL can count."""
        return (Term("distinct", "value", column, f"count(DISTINCT {column}) FILTER (WHERE {{bound}})"),)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The number itself."""
        return state[0]

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """The events of the window less the events whose value occurs again later in the window.

        Both bounds of a window only grow along the moments of a key. The moments that see a value and its
        next occurrence are therefore one run, and the runs are counted as late values are.
        """
        held, late = rows.codes(column)
        values = np.where(held.present > 0, held.values, -1)
        keys = rows.event_codes
        by_value = np.lexsort((values, keys))
        same = (values[by_value][1:] == values[by_value][:-1]) & (keys[by_value][1:] == keys[by_value][:-1])
        same &= values[by_value][1:] >= 0
        earlier, later = by_value[:-1][same], by_value[1:][same]
        start = np.searchsorted(window.end, later, side="right")
        stop = np.searchsorted(window.first, earlier, side="right")
        repeats = np.zeros(len(window.end) + 1, np.int64)
        both = start < stop
        np.add.at(repeats, start[both], 1)
        np.subtract.at(repeats, stop[both], 1)
        there = np.append(0, np.cumsum(held.present))
        result: Array = there[window.end] - there[window.first] - np.cumsum(repeats)[:-1]

        touched: dict[int, set[int]] = {}
        for moments, events in window.pairs():
            for moment, value, seen in zip(
                moments.tolist(), late.values[events].tolist(), late.present[events].tolist(), strict=True
            ):
                if seen:
                    touched.setdefault(moment, set()).add(value)
        for moment, new in touched.items():
            known = values[window.first[moment] : window.end[moment]]
            result[moment] += len(new.difference(known.tolist()))
        return result
