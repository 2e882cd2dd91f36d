"""The age of the newest or oldest event, in seconds.

Where the column is a flag, only events whose flag is set count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_repo.engine.functions import terms
from feature_repo.engine.functions.base import (
    EVENT,
    KNOWN,
    Array,
    Finisher,
    Function,
    KeyRows,
    Kind,
    SeenEvent,
    Value,
)
from feature_repo.engine.functions.window_bounds import WindowBounds
from feature_repo.times import SECOND_US


class Age(Function):
    """`seconds_since_last` or `seconds_since_first`. Null where no event counts."""

    takes = frozenset[Kind]({"event", "flag"})
    counts = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._last = name == "seconds_since_last"
        self._never = terms.LEAST if self._last else terms.MOST

    def reads(self, column: str) -> bool:
        """True for a flag. The age of an event needs no column."""
        return column != EVENT

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The seconds from the newest or oldest time to the moment."""
        moments = [event.event_us for event in seen if column == EVENT or event.value]
        return (at_us - (max if self._last else min)(moments)) / SECOND_US if moments else None

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """The newest or oldest time."""
        if column == EVENT:
            return (terms.NEWEST if self._last else terms.OLDEST,)
        return (terms.newest_set(column) if self._last else terms.oldest_set(column),)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The seconds from that time to the moment."""
        return None if state[0] == self._never else (at_us - state[0]) / SECOND_US

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """Takes the newer or older of the two times, or the newest time, which every pack knows."""
        (place,) = places
        if place == KNOWN:
            return lambda _, __, newest_us, at_us: (
                None if newest_us is None else (at_us - newest_us) / SECOND_US
            )
        better, never = (max if self._last else min), self._never

        def finish(of_pack: Sequence[int], of_tail: Sequence[int], _: int | None, at_us: int) -> Value:
            """Null where neither part has such an event."""
            moment = better(of_pack[place], of_tail[place])
            return None if moment == never else (at_us - moment) / SECOND_US

        return finish

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Computed by running extremes over the positions of the events."""
        events = len(rows.event_us)
        held, late = rows.numbers(column) if self.reads(column) else (None, None)
        counts = np.ones(events, bool) if held is None else (held.present > 0) & (held.values != 0)
        better: np.ufunc = np.maximum if self._last else np.minimum
        if self._last:
            up_to_here = np.maximum.accumulate(np.where(counts, np.arange(events), -1))
            places = np.append(up_to_here, -1)[window.end - 1]
            found = places >= window.first
        else:
            from_here = np.minimum.accumulate(np.where(counts, np.arange(events), events)[::-1])[::-1]
            places = np.append(from_here, events)[window.first]
            found = places < window.end
        moment_us = np.full(len(found), self._never)
        moment_us[found] = rows.event_us[places[found]]
        for moments, which in window.pairs():
            seen = slice(None) if late is None else (late.present[which] > 0) & (late.values[which] != 0)
            better.at(moment_us, moments[seen], rows.late_us[which[seen]])
        found = moment_us != self._never
        result = np.full(len(found), np.nan)
        result[found] = (rows.at_us[found] - moment_us[found]) / SECOND_US
        return result
