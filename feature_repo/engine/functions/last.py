"""The latest known value of a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_repo.engine.columns import ExactColumn
from feature_repo.engine.functions import terms
from feature_repo.engine.functions.base import Array, Function, Ints, KeyRows, Kind, SeenEvent, Value
from feature_repo.engine.functions.window_bounds import WindowBounds
from feature_repo.engine.rounding import quotient, scaled


class Last(Function):
    """The value of the newest event that has a value; null where no event has one.

    Of several events of one instant, the event that was created last counts, as a correction does. Of several
    events that were created together, the greatest value counts. The answer depends on the events and not on
    the order of their arrival.
    """

    name = "last"
    takes = frozenset[Kind]({"number", "flag", "time"})
    by_creation = True

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The value of the greatest (time, creation, value)."""
        known = [event for event in seen if event.value is not None]
        if not known:
            return None
        value = max(known).value
        return float(value) if unit is None else quotient(value, unit)

    def terms(self, column: str) -> tuple[terms.Term, ...]:
        """Time, creation and value of the newest event with a value."""
        return terms.latest(column)

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The value, in the column's own unit."""
        moment, _, value = state
        return None if moment == terms.LEAST else quotient(value, unit)

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """Compares the newest on-time event of every window with the newest late event."""
        held, late = rows.numbers(column)
        newest = _newest_on_time(held, rows, window)
        newest_late = _newest_late(late, rows, window)
        wins = _wins(held, late, rows, newest, newest_late)
        result = np.where(wins, _pick(late, newest_late), _pick(held, newest))
        found = (newest >= 0) | (newest_late >= 0)
        values = result if held.binary else scaled(np.where(found, result, 0), held.unit)
        return np.where(found, values, np.nan)


def _newest_on_time(held: ExactColumn, rows: KeyRows, window: WindowBounds) -> Ints:
    """The position of the on-time event whose value counts at every moment; -1 where the window has no value.

    A window never ends between events of one key and instant. The last position among them holds the best of
    them.
    """
    there = np.flatnonzero(held.present > 0)
    keys, us = rows.event_codes[there], rows.event_us[there]
    best = there
    if ((us[1:] == us[:-1]) & (keys[1:] == keys[:-1])).any():
        best = there[np.lexsort((held.ordered[there], rows.created_us()[there], us, keys))]
    place = np.full(len(rows.event_us), -1)
    place[there] = best
    last = np.maximum.accumulate(np.where(place >= 0, np.arange(len(place)), -1))
    at = np.append(last, -1)[window.end - 1]
    return np.where((at >= window.first) & (at >= 0), np.append(place, -1)[at], -1)


def _newest_late(late: ExactColumn, rows: KeyRows, window: WindowBounds) -> Ints:
    """The position of the late event that counts at every moment, among the late events; -1 for none."""
    order = np.lexsort((late.ordered, rows.late_created_us, rows.late_us))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    best = np.full(len(window.first), -1)
    for moments, events in window.pairs():
        seen = late.present[events] > 0
        np.maximum.at(best, moments[seen], rank[events[seen]])
    return np.where(best >= 0, np.append(order, -1)[best], -1)


def _wins(held: ExactColumn, late: ExactColumn, rows: KeyRows, newest: Ints, newest_late: Ints) -> Array:
    """Where the late event wins against the on-time event: by time, then creation, then value."""
    wins = newest_late >= 0
    both = np.flatnonzero(wins & (newest >= 0))
    ours, theirs = newest[both], newest_late[both]
    later = np.zeros(len(both), bool)
    equal = np.ones(len(both), bool)
    for one, other in (
        (rows.event_us, rows.late_us),
        (rows.created_us(), rows.late_created_us),
        (held.ordered, late.ordered),
    ):
        later |= equal & (other[theirs] > one[ours])
        equal &= other[theirs] == one[ours]
    wins[both] = later
    return wins


def _pick(column: ExactColumn, places: Ints) -> Array:
    return np.append(column.ordered, 0)[places]
