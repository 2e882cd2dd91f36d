"""Moments and events of a view, sorted once by key and time and cut into pieces of some keys each; and what
each moment sees of its piece.

A piece stays in the processor's cache, and several are computed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.engine.columns import Column, code_column, number_column
from feature_repo.engine.plan import ViewPlan

Array = NDArray[Any]
Ints = NDArray[np.int64]

PIECE_ROWS = 1 << 15  # moments and events; a dozen arrays of them fit into a cache of some megabytes
PAIRS_AT_ONCE = 4_000_000  # of late events and the moments that see them; bounds memory
LIMIT = 2**62


def pieces_of(
    view: ViewPlan, events: pa.Table, keys: pa.Array | pa.ChunkedArray, at_us: Ints
) -> tuple[Ints, Iterator[Piece]]:
    """The places of the moments by key and time, and what is to be computed for them in that order."""
    keys = keys.cast(events.schema.field(view.entity).type)  # no rows come from pandas with no type
    wanted = pc.unique(keys).drop_null()
    codes = _codes(keys, wanted, missing=len(wanted))
    event_codes = _codes(events[view.entity], wanted, missing=-1)
    event_us = microseconds(events["event_timestamp"])
    order = _by_key_and_time(codes, at_us)
    if np.array_equal(codes, event_codes) and np.array_equal(at_us, event_us):
        rows = order  # the moments are those of the events
    else:
        rows = np.flatnonzero(event_codes >= 0)
        rows = rows[_by_key_and_time(event_codes[rows], event_us[rows])]
    created_us = microseconds(events["created_timestamp"])
    late = (created_us > event_us)[rows]
    late_rows, rows = rows[late], rows[~late]
    codes, at_us, late_codes, event_codes = (
        codes[order],
        at_us[order],
        event_codes[late_rows],
        event_codes[rows],
    )
    late_us, event_us, created_us = event_us[late_rows], event_us[rows], created_us[late_rows]
    columns = _columns(view, events, rows, late_rows)

    sizes = sum(np.bincount(part, minlength=len(wanted) + 1) for part in (codes, event_codes, late_codes))
    first_keys = np.append(
        np.flatnonzero(np.diff(np.cumsum(sizes) // PIECE_ROWS, prepend=-1)), len(wanted) + 1
    )
    bounds = [np.searchsorted(part, first_keys) for part in (codes, event_codes, late_codes)]

    def pieces() -> Iterator[Piece]:
        for n, first in enumerate(first_keys[:-1].tolist()):
            asked, here, late_here = (slice(b[n], b[n + 1]) for b in bounds)
            parts = {name: (on_time[here], late[late_here]) for name, (on_time, late) in columns.items()}
            events_of = (event_codes[here] - first, event_us[here])
            late_of = (late_codes[late_here] - first, late_us[late_here], created_us[late_here])
            yield Piece(view, codes[asked] - first, at_us[asked], *events_of, *late_of, parts)

    return order, pieces()


@dataclass(frozen=True)
class Piece:
    """The moments, on-time events and late events of some keys, each sorted by key and time."""

    view: ViewPlan
    codes: Ints
    at_us: Ints
    event_codes: Ints
    event_us: Ints
    late_codes: Ints
    late_us: Ints
    late_created_us: Ints
    columns: dict[tuple[str, bool], tuple[Column, Column]]
    windows: dict[int, Window] = field(default_factory=dict)

    @cached_property
    def clock(self) -> Clock:
        keys = int(max(self.codes.max(initial=0), self.event_codes.max(initial=0))) + 1
        return Clock.over(keys, self.at_us, self.event_us)

    @cached_property
    def moments(self) -> Ints:
        return self.clock.place(self.codes, self.at_us)

    @cached_property
    def places(self) -> Ints:
        return self.clock.place(self.event_codes, self.event_us)

    @cached_property
    def end(self) -> Ints:
        return np.searchsorted(self.places, self.moments)

    @cached_property
    def late_from(self) -> Ints:
        """A late event is seen from the moment that it became known, and never at its own instant."""
        return np.searchsorted(
            self.moments,
            self.clock.place(self.late_codes, np.maximum(self.late_created_us, self.late_us + 1)),
        )

    def window(self, window_us: int) -> Window:
        if window_us not in self.windows:
            hop = self.view.hop_us
            lower = self.at_us - window_us
            first = np.searchsorted(
                self.places, self.clock.place(self.codes, lower // hop * hop if hop else lower)
            )
            # The first moment that has lost sight of the event: the inverse of the lower bound above.
            lost = self.late_us // hop * hop + hop + window_us if hop else self.late_us + window_us + 1
            late_to = np.searchsorted(self.moments, self.clock.place(self.late_codes, lost))
            self.windows[window_us] = Window(
                first, self.end, self.late_from, np.maximum(late_to, self.late_from)
            )
        return self.windows[window_us]


@dataclass(frozen=True)
class Window:
    """Bounds of one window for every moment: on-time events `first` to `end` (exclusive); and for each late
    event the moments that see it.
    """

    first: Ints
    end: Ints
    late_from: Ints
    late_to: Ints

    @cached_property
    def counts(self) -> Ints:
        return self.add_late(self.end - self.first, np.ones(len(self.late_from), np.int64))

    def add_late(self, totals: Array, late: Array) -> Array:
        """Each late value joins a run of moments: its start adds, its end takes away, and the running sum is
        what each moment has to add.
        """
        if not len(late):
            return totals
        steps = np.zeros(len(totals) + 1, totals.dtype)
        np.add.at(steps, self.late_from, late)
        np.subtract.at(steps, self.late_to, late)
        return totals + np.cumsum(steps)[:-1]

    def pairs(self) -> Iterator[tuple[Ints, Ints]]:
        """Every (moment, late event that it sees), some millions at a time."""
        lengths = self.late_to - self.late_from
        ends = np.cumsum(lengths)
        done, total = 0, int(ends[-1]) if len(ends) else 0
        first = 0
        while done < total:
            last = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")), first + 1)
            count = lengths[first:last]
            events = np.repeat(np.arange(first, last), count)
            within = np.arange(len(events)) - np.repeat(np.cumsum(count) - count, count)
            yield self.late_from[events] + within, events
            first, done = last, int(ends[last - 1])


@dataclass(frozen=True)
class Clock:
    """One sortable int64 for (key code, time): the time since `low`, or its rank among `times` where the keys
    times the span would not fit.

    Comparisons with `<` and `>=` hold against every time that was given to `over`.
    """

    low: int
    span: int
    times: Ints | None = None

    @classmethod
    def over(cls, keys: int, *times: Ints) -> Clock:
        given = [t for t in times if len(t)]
        low = min((int(t.min()) for t in given), default=0)
        span = max((int(t.max()) for t in given), default=0) - low + 2
        if (keys + 1) * span < LIMIT:
            return cls(low, span)
        ranks = np.unique(np.concatenate(given))
        return cls(0, len(ranks) + 1, ranks)

    def place(self, codes: Ints, times: Ints) -> Ints:
        offsets = (
            np.searchsorted(self.times, times)
            if self.times is not None
            else np.clip(times - self.low, 0, self.span - 1)
        )
        return codes * self.span + offsets


def _codes(keys: pa.Array | pa.ChunkedArray, wanted: pa.Array, missing: int) -> Ints:
    return np.asarray(pc.fill_null(pc.index_in(keys, value_set=wanted), missing)).astype(np.int64)


def _by_key_and_time(codes: Ints, times: Ints) -> Ints:
    """Where each row stands in their order; rows of one key and time stay as they are.

    NumPy's stable sorts are linear here: of times that mostly come in order already, and of 16 bits of the
    key at a time.
    """
    order = np.argsort(times, kind="stable")
    for bits in range(0, int(codes.max(initial=0)).bit_length(), 16):
        digits = (codes >> bits).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _columns(
    view: ViewPlan, events: pa.Table, rows: Ints, late_rows: Ints
) -> dict[tuple[str, bool], tuple[Column, Column]]:
    """Each column that is aggregated, of on-time events and of late ones, on one scale; by its name and
    whether it is codes, for `count_distinct`.
    """
    columns = {}
    every = pa.array(np.concatenate([rows, late_rows]))
    valued = [a for a in view.aggregates if a.reads_values]
    for name, distinct in dict.fromkeys((a.column, a.function == "count_distinct") for a in valued):
        array = events[name].combine_chunks().take(every)
        column = (code_column if distinct else number_column)(name, array, view.scales.get(name))
        columns[name, distinct] = column[: len(rows)], column[len(rows) :]
    return columns


def microseconds(column: pa.ChunkedArray) -> Ints:
    """Timestamps as int64 microseconds since the epoch; without a zone they are UTC."""
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return np.asarray(column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64()).to_numpy())
