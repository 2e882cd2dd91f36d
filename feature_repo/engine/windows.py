"""The values of a view at many keys and moments at once: sums of windows are differences of prefix sums, found by binary search.

Events known on time (created no later than they happened) are known to every later moment, so only their event time matters. The few that came late
are taken out, and added to exactly those windows which reach them after they became known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.engine import finish
from feature_repo.engine.columns import Column, code_column, number_column
from feature_repo.engine.plan import Aggregate, ViewPlan

Array = NDArray[Any]
Ints = NDArray[np.int64]

PAIRS_AT_ONCE = 4_000_000  # of late events and the moments that see them; bounds memory
LIMIT = 2**62


def view_values(view: ViewPlan, events: pa.Table, keys: pa.Array, at_us: Ints) -> dict[str, Array]:
    """Each aggregate at every (key, moment), in the order given: int64 for counts and whole sums, else float64 with NaN for null.

    `events` holds the entity column, event_timestamp, created_timestamp and the aggregated columns, in any order. An event counts once for every row
    that it has. A null key has no history.
    """
    frame = _frame(view, events, keys, at_us)
    result = {}
    for aggregate in view.aggregates:
        values = _value(aggregate, frame)
        result[aggregate.name] = np.empty_like(values)
        result[aggregate.name][frame.order] = values
    return result


def microseconds(column: pa.ChunkedArray) -> Ints:
    """Timestamps as int64 microseconds since the epoch; without a zone they are UTC."""
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    whole = column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())
    return np.asarray(
        whole.combine_chunks().to_numpy(zero_copy_only=False) if isinstance(whole, pa.ChunkedArray) else whole.to_numpy(zero_copy_only=False)
    )


# One frame a view: what is the same for all of its aggregates.


@dataclass(frozen=True)
class _Clock:
    """One sortable int64 for (key code, time): the time since `low`, or its rank among `times` where the keys times the span would not fit.

    Comparisons with `<` and `>=` hold against every time that was given to `over`.
    """

    low: int
    span: int
    times: Ints | None = None

    @classmethod
    def over(cls, keys: int, *times: Ints) -> _Clock:
        given = [t for t in times if len(t)]
        low = min((int(t.min()) for t in given), default=0)
        span = max((int(t.max()) for t in given), default=0) - low + 2
        if (keys + 1) * span < LIMIT:
            return cls(low, span)
        ranks = np.unique(np.concatenate(given))
        return cls(0, len(ranks) + 1, ranks)

    def place(self, codes: Ints, times: Ints) -> Ints:
        offsets = np.searchsorted(self.times, times) if self.times is not None else np.clip(times - self.low, 0, self.span - 1)
        return codes * self.span + offsets


@dataclass(frozen=True)
class _Window:
    """Bounds of one window for every moment: on-time events `first` to `end` (exclusive); and for each late event the moments that see it."""

    first: Ints
    end: Ints
    late_from: Ints
    late_to: Ints


@dataclass(frozen=True)
class _Frame:
    """On-time events sorted by key and time, moments likewise (`order` are their places in the question), and the late events."""

    view: ViewPlan
    events: pa.Table
    clock: _Clock
    order: Ints
    codes: Ints
    at_us: Ints
    moments: Ints
    rows: Ints
    event_us: Ints
    places: Ints
    end: Ints
    late_rows: Ints
    late_codes: Ints
    late_us: Ints
    late_from: Ints
    windows: dict[int, _Window] = field(default_factory=dict)
    columns: dict[tuple[str, bool], tuple[Column, Column]] = field(default_factory=dict)

    def window(self, window_us: int) -> _Window:
        if window_us not in self.windows:
            hop = self.view.hop_us
            lower = self.at_us - window_us
            first = np.searchsorted(self.places, self.clock.place(self.codes, lower // hop * hop if hop else lower))
            # The first moment that has lost sight of the event: the inverse of the lower bound above.
            lost = self.late_us // hop * hop + hop + window_us if hop else self.late_us + window_us + 1
            late_to = np.searchsorted(self.moments, self.clock.place(self.late_codes, lost))
            self.windows[window_us] = _Window(first, self.end, self.late_from, np.maximum(late_to, self.late_from))
        return self.windows[window_us]

    def column(self, name: str, distinct: bool = False) -> tuple[Column, Column]:
        """A column of the on-time events and of the late ones, on one scale; for `distinct` as codes."""
        if (name, distinct) not in self.columns:
            every = np.concatenate([self.rows, self.late_rows])
            array = self.events[name].combine_chunks().take(pa.array(every))
            column = (code_column if distinct else number_column)(name, array, self.view.scales.get(name))
            self.columns[name, distinct] = column[: len(self.rows)], column[len(self.rows) :]
        return self.columns[name, distinct]


def _frame(view: ViewPlan, events: pa.Table, keys: pa.Array, at_us: Ints) -> _Frame:
    keys = keys.cast(events.schema.field(view.entity).type)  # no rows come from pandas with no type
    wanted = pc.unique(keys).drop_null()
    codes = _codes(keys, wanted, missing=len(wanted))
    event_codes = _codes(events[view.entity], wanted, missing=-1)
    kept = np.flatnonzero(event_codes >= 0)
    event_codes = event_codes[kept]
    event_us, created_us = microseconds(events["event_timestamp"])[kept], microseconds(events["created_timestamp"])[kept]
    clock = _Clock.over(len(wanted), at_us, event_us)

    moments = clock.place(codes, at_us)
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    places = clock.place(event_codes, event_us)
    late = created_us > event_us
    on_time = np.flatnonzero(~late)
    on_time = on_time[np.argsort(places[on_time], kind="stable")]
    late_codes, late_us = event_codes[late], event_us[late]
    # A late event is seen from the moment that it became known, and never at its own instant.
    late_from = np.searchsorted(moments, clock.place(late_codes, np.maximum(created_us[late], late_us + 1)))
    return _Frame(
        view=view,
        events=events,
        clock=clock,
        order=order,
        codes=codes[order],
        at_us=at_us[order],
        moments=moments,
        rows=kept[on_time],
        event_us=event_us[on_time],
        places=places[on_time],
        end=np.searchsorted(places[on_time], moments),
        late_rows=kept[late],
        late_codes=late_codes,
        late_us=late_us,
        late_from=late_from,
    )


def _codes(keys: Any, wanted: pa.Array, missing: int) -> Ints:
    codes = pc.fill_null(pc.index_in(keys, value_set=wanted).cast(pa.int64()), missing)
    return np.array(codes.to_numpy(zero_copy_only=False) if isinstance(codes, pa.Array) else codes.to_numpy())


# One function at a time.


def _value(aggregate: Aggregate, frame: _Frame) -> Array:
    window = frame.window(aggregate.window_us)
    if aggregate.function == "count":
        return _count(window)
    if aggregate.function == "seconds_since_last":
        return _seconds_since_last(window, None if aggregate.column == "event_timestamp" else frame.column(aggregate.column), frame)
    if aggregate.function == "count_distinct":
        return _distinct(window, frame, *frame.column(aggregate.column, distinct=True))
    column, late = frame.column(aggregate.column)
    counts = _count(window) if column.valid is None else _sum(window, column.present, late.present)
    if aggregate.function in ("min", "max"):
        return _extreme(aggregate.function, window, column, late, counts)

    largest, most = max(column.largest, late.largest), int(counts.max(initial=0))
    totals = _sum(window, *_wide(largest * most, column.values, late.values))
    if aggregate.function == "sum":
        return totals if column.whole and totals.dtype != object else finish.scaled(totals, column.unit)
    if aggregate.function == "avg":
        return finish.means(totals, counts, column.unit)
    values, late_values = _wide(largest * largest * most, column.values, late.values)
    return finish.spreads(totals, _sum(window, values * values, late_values * late_values), counts, column.unit)


def _wide(bound: int, *columns: Array) -> list[Array]:
    """The columns as they are where no window's sum can reach 2^62, else as Python's integers. (Prefix sums themselves may wrap: differences are
    right modulo 2^64.)"""
    return list(columns) if bound < LIMIT else [c.astype(object) for c in columns]


def _count(window: _Window) -> Ints:
    return _add_late(window, window.end - window.first, np.ones(len(window.late_from), np.int64))


def _sum(window: _Window, values: Array, late: Array) -> Array:
    prefix = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=prefix[1:])
    return _add_late(window, prefix[window.end] - prefix[window.first], late)


def _add_late(window: _Window, totals: Array, late: Array) -> Array:
    """Each late value joins a run of moments: its start adds, its end takes away, and the running sum is what each moment has to add."""
    if not len(late):
        return totals
    steps = np.zeros(len(totals) + 1, totals.dtype)
    np.add.at(steps, window.late_from, late)
    np.subtract.at(steps, window.late_to, late)
    return totals + np.cumsum(steps)[:-1]


def _extreme(function: str, window: _Window, column: Column, late: Column, counts: Ints) -> NDArray[np.float64]:
    """Least or greatest by a sparse table: every range is covered by two overlapping ones of a power of two, and only one level is kept at a time."""
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
    for moments, events in _pairs(window):
        seen = late.present[events] > 0
        better.at(result, moments[seen], late.ordered[events[seen]])
    values = result if column.binary else finish.scaled(np.where(counts > 0, result, 0), column.unit)
    return np.where(counts > 0, values, np.nan)


def _seconds_since_last(window: _Window, pair: tuple[Column, Column] | None, frame: _Frame) -> NDArray[np.float64]:
    never = np.iinfo(np.int64).min
    here = np.arange(len(frame.rows))
    if pair is not None:
        here = np.where((pair[0].present > 0) & (pair[0].values != 0), here, -1)
    latest = np.append(np.maximum.accumulate(here), -1)[window.end - 1]
    found = latest >= window.first
    last_us = np.full(len(found), never)
    last_us[found] = frame.event_us[latest[found]]
    for moments, events in _pairs(window):
        seen = slice(None) if pair is None else (pair[1].present[events] > 0) & (pair[1].values[events] != 0)
        np.maximum.at(last_us, moments[seen], frame.late_us[events[seen]])
    found = last_us != never
    result = np.full(len(found), np.nan)
    result[found] = (frame.at_us[found] - last_us[found]) / finish.SECOND_US
    return result


def _distinct(window: _Window, frame: _Frame, column: Column, late: Column) -> Ints:
    """Events of the window less those whose value comes again within it. Both bounds only grow along the moments of a key, so the moments that hold a
    value and its next occurrence are one run: the same steps as for late values."""
    values = np.where(column.present > 0, column.values, -1)
    codes = frame.places // frame.clock.span
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
    for moments, events in _pairs(window):
        for moment, value, seen in zip(moments.tolist(), late.values[events].tolist(), late.present[events].tolist(), strict=True):
            if seen:
                touched.setdefault(moment, set()).add(value)
    for moment, new in touched.items():
        known = values[window.first[moment] : window.end[moment]]
        result[moment] += len(new.difference(known.tolist()))
    return result


def _pairs(window: _Window) -> Iterator[tuple[Ints, Ints]]:
    """Every (moment, late event that it sees), some millions at a time."""
    lengths = window.late_to - window.late_from
    ends = np.cumsum(lengths)
    done, total = 0, int(ends[-1]) if len(ends) else 0
    first = 0
    while done < total:
        last = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")), first + 1)
        count = lengths[first:last]
        events = np.repeat(np.arange(first, last), count)
        within = np.arange(len(events)) - np.repeat(np.cumsum(count) - count, count)
        yield window.late_from[events] + within, events
        first, done = last, int(ends[last - 1])
