"""The values of a view at many keys and moments at once: sums of windows are differences of prefix sums,
found by binary search.

Events known on time (created no later than they happened) are known to every later moment, so only their
event time matters. The few that came late are taken out, and added to exactly those windows which reach them
after they became known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine import rounding
from feature_repo.engine.columns import Column
from feature_repo.engine.local.key_partitions import LIMIT, Piece, Window, microseconds, pieces_of
from feature_repo.engine.local.parallel import in_order
from feature_repo.engine.plan import AGES, Aggregate, ViewPlan
from feature_repo.times import SECOND_US

Array = NDArray[Any]
Ints = NDArray[np.int64]

__all__ = ["microseconds", "view_values"]


def view_values(
    view: ViewPlan, events: pa.Table, keys: pa.Array | pa.ChunkedArray, at_us: Ints
) -> dict[str, Array]:
    """Each aggregate at every (key, moment), in the order given: int64 for counts and whole sums, else
    float64 with NaN for null.

    Where the view has a time to live all are float64, NaN where the key had no event for so long.

    `events` holds the entity column, event_timestamp, created_timestamp and the aggregated columns, in any
    order. An event counts once for every row that it has. A null key has no history.
    """
    order, pieces = pieces_of(view, events, keys, at_us)
    parts = list(in_order(_values, pieces))
    result = {}
    for place, aggregate in enumerate(view.aggregates):
        values = np.concatenate([part[place] for part in parts])
        result[aggregate.name] = np.empty_like(values)
        result[aggregate.name][order] = values
    return result


def _values(piece: Piece) -> list[Array]:
    values = [_value(aggregate, piece) for aggregate in piece.view.aggregates]
    if not piece.view.ttl_us:
        return values
    alive = piece.window(piece.view.ttl_us).counts > 0
    return [np.where(alive, v, np.nan) for v in values]


def _value(aggregate: Aggregate, piece: Piece) -> Array:
    window = piece.window(aggregate.window_us)
    if aggregate.function == "count":
        return window.counts
    if aggregate.function in AGES:
        flags = None if aggregate.flag is None else piece.columns[aggregate.flag, False]
        return _age(aggregate.function, window, flags, piece)
    if aggregate.function == "count_distinct":
        return _distinct(window, piece, *piece.columns[aggregate.column, True])
    column, late = piece.columns[aggregate.column, False]
    counts = window.counts if column.valid is None else _sum(window, column.present, late.present)
    if aggregate.function in ("min", "max"):
        return _extreme(aggregate.function, window, column, late, counts)

    largest, most = max(column.largest, late.largest), int(counts.max(initial=0))
    totals = _sum(window, *_wide(largest * most, column.values, late.values))
    if aggregate.function == "sum":
        return totals if column.whole and totals.dtype != object else rounding.scaled(totals, column.unit)
    if aggregate.function == "avg":
        return rounding.means(totals, counts, column.unit)
    values, late_values = _wide(largest * largest * most, column.values, late.values)
    return rounding.spreads(
        totals, _sum(window, values * values, late_values * late_values), counts, column.unit
    )


def _wide(bound: int, *columns: Array) -> list[Array]:
    """The columns as they are where no window's sum can reach 2^62, else as Python's integers.

    (Prefix sums themselves may wrap: differences are right modulo 2^64.)
    """
    return list(columns) if bound < LIMIT else [c.astype(object) for c in columns]


def _sum(window: Window, values: Array, late: Array) -> Array:
    prefix = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=prefix[1:])
    return window.add_late(prefix[window.end] - prefix[window.first], late)


def _extreme(
    function: str, window: Window, column: Column, late: Column, counts: Ints
) -> NDArray[np.float64]:
    """Least or greatest by a sparse table: every range is covered by two overlapping ones of a power of two,
    and only one level is kept at a time.
    """
    better = np.minimum if function == "min" else np.maximum
    worst = column.worst(function)
    table = column.ordered if column.valid is None else np.where(column.valid, column.ordered, worst)
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
    values = result if column.binary else rounding.scaled(np.where(counts > 0, result, 0), column.unit)
    return np.where(counts > 0, values, np.nan)


def _age(
    function: str, window: Window, pair: tuple[Column, Column] | None, piece: Piece
) -> NDArray[np.float64]:
    """The age of the newest or of the oldest event of each window: of a flag, of those where it is set."""
    events = len(piece.event_us)
    counts = np.ones(events, bool) if pair is None else (pair[0].present > 0) & (pair[0].values != 0)
    last = function == "seconds_since_last"
    better: np.ufunc = np.maximum if last else np.minimum
    never = np.iinfo(np.int64).min if last else np.iinfo(np.int64).max
    if last:
        up_to_here = np.maximum.accumulate(np.where(counts, np.arange(events), -1))
        places = np.append(up_to_here, -1)[window.end - 1]
        found = places >= window.first
    else:
        from_here = np.minimum.accumulate(np.where(counts, np.arange(events), events)[::-1])[::-1]
        places = np.append(from_here, events)[window.first]
        found = places < window.end
    moment_us = np.full(len(found), never)
    moment_us[found] = piece.event_us[places[found]]
    for moments, late in window.pairs():
        seen = slice(None) if pair is None else (pair[1].present[late] > 0) & (pair[1].values[late] != 0)
        better.at(moment_us, moments[seen], piece.late_us[late[seen]])
    found = moment_us != never
    result = np.full(len(found), np.nan)
    result[found] = (piece.at_us[found] - moment_us[found]) / SECOND_US
    return result


def _distinct(window: Window, piece: Piece, column: Column, late: Column) -> Ints:
    """Events of the window less those whose value comes again within it.

    Both bounds only grow along the moments of a key, so the moments that hold a value and its next occurrence
    are one run: the same steps as for late values.
    """
    values = np.where(column.present > 0, column.values, -1)
    codes = piece.event_codes
    by_value = np.lexsort((values, codes))
    same = (values[by_value][1:] == values[by_value][:-1]) & (codes[by_value][1:] == codes[by_value][:-1])
    same &= values[by_value][1:] >= 0
    earlier, later = by_value[:-1][same], by_value[1:][same]
    start = np.searchsorted(window.end, later, side="right")
    stop = np.searchsorted(window.first, earlier, side="right")
    repeats = np.zeros(len(window.end) + 1, np.int64)
    held = start < stop
    np.add.at(repeats, start[held], 1)
    np.subtract.at(repeats, stop[held], 1)
    present = np.append(0, np.cumsum(column.present))
    result = present[window.end] - present[window.first] - np.cumsum(repeats)[:-1]

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
