"""The number of events. The values of the column do not matter."""

from __future__ import annotations

from collections.abc import Sequence

from feature_repo.engine.functions import terms
from feature_repo.engine.functions.base import Array, Finisher, Function, KeyRows, Kind, SeenEvent, Value
from feature_repo.engine.functions.window_bounds import WindowBounds


class Count(Function):
    """The number of events: 0 for no events. An event with a null counts."""

    name = "count"
    takes = frozenset[Kind]({"event", "number", "flag", "time", "text"})
    counts = True

    def reads(self, column: str) -> bool:
        """False: the column is not read."""
        return False

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The number of events."""
        return len(seen)

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The number of events."""
        return (terms.events(),)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The number itself."""
        return state[0]

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Adds up the two numbers."""
        (place,) = places
        return lambda of_pack, of_tail, _, __: of_pack[place] + of_tail[place]

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """The number of events in every window."""
        return window.counts
