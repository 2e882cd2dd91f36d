"""Moments and events of a view, sorted once by key and time, and cut into partitions of some keys each.

A partition fits into the processor's cache. Several partitions are computed at once.
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

from feature_repo.engine.columns import ExactColumn, code_column, microseconds, number_column
from feature_repo.engine.functions.window_bounds import WindowBounds
from feature_repo.engine.local.key_order import Clock, by_key_and_time
from feature_repo.engine.plan import PlanError, ViewPlan

Array = NDArray[Any]
Ints = NDArray[np.int64]

# Moments and events of a partition. A dozen arrays of them fit into a cache of some megabytes.
PARTITION_ROWS = 1 << 15


def partitions_of(
    view: ViewPlan, events: pa.Table, keys: pa.Array | pa.ChunkedArray, at_us: Ints
) -> tuple[Ints, Iterator[KeyPartition]]:
    """The positions of the moments by key and time, and the partitions to compute in that order."""
    keys = keys.cast(events.schema.field(view.entity).type)  # Keys from an empty pandas column have no type
    wanted = pc.unique(keys).drop_null()
    codes = _codes(keys, wanted, missing=len(wanted))
    event_codes = _codes(events[view.entity], wanted, missing=-1)
    event_us = microseconds(events["event_timestamp"])
    order = by_key_and_time(codes, at_us)
    if np.array_equal(codes, event_codes) and np.array_equal(at_us, event_us):
        rows = order  # The moments are those of the events
    else:
        rows = np.flatnonzero(event_codes >= 0)
        rows = rows[by_key_and_time(event_codes[rows], event_us[rows])]
    created_us = microseconds(events["created_timestamp"])
    late = (created_us > event_us)[rows]
    late_rows, rows = rows[late], rows[~late]
    codes, at_us, late_codes, event_codes = (
        codes[order],
        at_us[order],
        event_codes[late_rows],
        event_codes[rows],
    )
    by_creation = any(a.computed_by.by_creation for a in view.aggregates)
    on_time_created_us = created_us[rows] if by_creation else None
    late_us, event_us, created_us = event_us[late_rows], event_us[rows], created_us[late_rows]
    columns = _columns(view, events, rows, late_rows)

    sizes = sum(np.bincount(part, minlength=len(wanted) + 1) for part in (codes, event_codes, late_codes))
    first_keys = np.append(
        np.flatnonzero(np.diff(np.cumsum(sizes) // PARTITION_ROWS, prepend=-1)), len(wanted) + 1
    )
    bounds = [np.searchsorted(part, first_keys) for part in (codes, event_codes, late_codes)]

    def partitions() -> Iterator[KeyPartition]:
        """The partitions, made as they are asked for."""
        for n, first in enumerate(first_keys[:-1].tolist()):
            asked, here, late_here = (slice(b[n], b[n + 1]) for b in bounds)
            parts = {name: (on_time[here], late[late_here]) for name, (on_time, late) in columns.items()}
            events_of = (event_codes[here] - first, event_us[here])
            late_of = (late_codes[late_here] - first, late_us[late_here], created_us[late_here])
            known_us = None if on_time_created_us is None else on_time_created_us[here]
            yield KeyPartition(
                view, codes[asked] - first, at_us[asked], *events_of, *late_of, parts, known_us
            )

    return order, partitions()


@dataclass(frozen=True)
class KeyPartition:
    """The moments, on-time events and late events of some keys, each sorted by key and time."""

    view: ViewPlan
    moment_codes: Ints
    at_us: Ints
    event_codes: Ints
    event_us: Ints
    late_codes: Ints
    late_us: Ints
    late_created_us: Ints
    columns: dict[tuple[str, bool], tuple[ExactColumn, ExactColumn]]
    on_time_created_us: Ints | None  # None where no function needs it
    windows: dict[int, WindowBounds] = field(default_factory=dict)

    def numbers(self, column: str) -> tuple[ExactColumn, ExactColumn]:
        """The column of on-time events and of late events, on one scale."""
        return self.columns[column, False]

    def codes(self, column: str) -> tuple[ExactColumn, ExactColumn]:
        """The same as integers. Equal values have equal integers."""
        return self.columns[column, True]

    def created_us(self) -> Ints:
        """When each on-time event was created."""
        if self.on_time_created_us is None:
            raise PlanError(f"{self.view.name}: no function of the view declares by_creation")
        return self.on_time_created_us

    @cached_property
    def clock(self) -> Clock:
        """The one clock of moments and events."""
        keys = int(max(self.moment_codes.max(initial=0), self.event_codes.max(initial=0))) + 1
        return Clock.over(keys, self.at_us, self.event_us)

    @cached_property
    def moments(self) -> Ints:
        """The moments on the clock, ascending."""
        return self.clock.place(self.moment_codes, self.at_us)

    @cached_property
    def places(self) -> Ints:
        """The on-time events on the clock, ascending."""
        return self.clock.place(self.event_codes, self.event_us)

    @cached_property
    def end(self) -> Ints:
        """How many on-time events lie before each moment, without those of its own instant."""
        return np.searchsorted(self.places, self.moments)

    @cached_property
    def late_from(self) -> Ints:
        """The first moment that sees each late event: after its creation, never at its own instant."""
        return np.searchsorted(
            self.moments,
            self.clock.place(self.late_codes, np.maximum(self.late_created_us, self.late_us + 1)),
        )

    def window(self, window_us: int) -> WindowBounds:
        """The bounds of a window of this length, made once."""
        if window_us not in self.windows:
            hop = self.view.hop_us
            lower = self.at_us - window_us
            first = np.searchsorted(
                self.places, self.clock.place(self.moment_codes, lower // hop * hop if hop else lower)
            )
            # The first moment that no longer sees the event: the inverse of the lower bound above.
            lost = self.late_us // hop * hop + hop + window_us if hop else self.late_us + window_us + 1
            late_to = np.searchsorted(self.moments, self.clock.place(self.late_codes, lost))
            self.windows[window_us] = WindowBounds(
                first, self.end, self.late_from, np.maximum(late_to, self.late_from)
            )
        return self.windows[window_us]


def _codes(keys: pa.Array | pa.ChunkedArray, wanted: pa.Array, missing: int) -> Ints:
    return np.asarray(pc.fill_null(pc.index_in(keys, value_set=wanted), missing)).astype(np.int64)


def _columns(
    view: ViewPlan, events: pa.Table, rows: Ints, late_rows: Ints
) -> dict[tuple[str, bool], tuple[ExactColumn, ExactColumn]]:
    """Each aggregated column of on-time events and of late events, on one scale.

    The key of the result is the name of the column, and whether the values are codes for functions that only
    compare.
    """
    columns = {}
    every = pa.array(np.concatenate([rows, late_rows]))
    valued = [a for a in view.aggregates if a.reads_values]
    for name, distinct in dict.fromkeys((a.column, a.computed_by.compares) for a in valued):
        array = events[name].combine_chunks().take(every)
        column = (code_column if distinct else number_column)(name, array, view.scales.get(name))
        columns[name, distinct] = column[: len(rows)], column[len(rows) :]
    return columns
