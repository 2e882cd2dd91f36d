"""Materialized views: finished feature rows in the lake, and the newest row that was known at each moment.

A row is visible from the moment at which it has happened and is known: max(event_timestamp,
created_timestamp). Among the visible rows of a key the newest row counts: by event_timestamp, then
created_timestamp, then its position in the lake. If that row is older than the view's ttl, there is no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID
from feast.types import from_feast_to_pyarrow_type
from numpy.typing import NDArray

from feature_repo.engine.columns import microseconds
from feature_repo.engine.ids import ids_of_numbers
from feature_repo.engine.local.from_lake import read_days
from feature_repo.engine.local.key_order import Clock, by_key_and_time
from feature_repo.engine.plan import LAKE, PlanError
from feature_repo.lake.datasets import Lake
from feature_repo.times import day_of, period_us

Ints = NDArray[np.int64]
FIRST, LAST = "0000-00-00", "9999-99-99"  # Before and after every day.


@dataclass(frozen=True)
class MaterializedView:
    """A view whose features are columns of a dataset.

    `sources` maps the name of a key or feature in the view to its column in the dataset.
    """

    name: str
    keys: tuple[str, ...]
    dataset: str
    event_time: str
    created_time: str | None
    types: Mapping[str, pa.DataType]
    sources: Mapping[str, str]
    ttl_us: int = 0

    @property
    def times(self) -> tuple[str, ...]:
        """The columns of the dataset that hold times."""
        return (self.event_time, self.created_time) if self.created_time else (self.event_time,)


def materialized_from_feast(view: Any, wanted: Sequence[str] | None = None) -> MaterializedView:
    """A view without aggregations as the engine reads it; `wanted` limits it to some features.

    Raises `PlanError` where the view has no source in the lake.
    """
    source = getattr(view, "batch_source", None)
    path = getattr(source, "path", "")
    if source is None or not path.startswith(LAKE):
        raise PlanError(f"{view.name}: its source is {path!r}, expected {LAKE}<dataset>")
    types = {f.name: from_feast_to_pyarrow_type(f.dtype) for f in view.features}
    keys = tuple(c.name for c in view.entity_columns if c.name != DUMMY_ENTITY_ID)
    columns = {feature: column for column, feature in (source.field_mapping or {}).items()}
    names = types if wanted is None else wanted
    return MaterializedView(
        name=view.name,
        keys=keys,
        dataset=path.removeprefix(LAKE),
        event_time=source.timestamp_field,
        created_time=source.created_timestamp_column or None,
        types={n: types[n] for n in names},
        sources={n: columns.get(n, n) for n in (*keys, *names)},
        ttl_us=period_us(view.ttl or timedelta(0)),
    )


def features_as_of(
    lake: Lake, view: MaterializedView, keys: Sequence[pa.ChunkedArray], at_us: Ints
) -> dict[str, pa.ChunkedArray]:
    """Each feature at every (key, moment), in the order of the questions and in the view's types.

    `keys` has one column for each key of the view. A null key has no rows. Only the days from one ttl before
    the first moment to the last moment are read. A row is created no sooner than it happens, and belongs to
    the day of its arrival.
    """
    if not len(at_us):
        return {name: pa.chunked_array([], kind) for name, kind in view.types.items()}
    first = day_of(int(at_us.min()) - view.ttl_us) if view.ttl_us else FIRST
    days = lake.between(view.dataset, first, day_of(int(at_us.max())), validated=True)
    if not days:
        return {name: pa.chunked_array([pa.nulls(len(at_us), kind)]) for name, kind in view.types.items()}
    rows = read_rows(lake, view, days)
    newest = newest_rows(view, rows, keys, at_us)
    indexes = pa.array(newest, mask=newest < 0)
    return {name: rows[name].combine_chunks().take(indexes) for name in view.types}


def read_rows(lake: Lake, view: MaterializedView, days: Sequence[str]) -> pa.Table:
    """The keys, times and features of some days, under the names and in the types of the view.

    Rows without a time are left out. Raises `PlanError` for a column that is absent or of another type.
    """
    wanted = list(dict.fromkeys((*view.sources.values(), *view.times)))
    table = read_days(lake, view.dataset, days, wanted)
    if missing := [c for c in wanted if c not in table.column_names]:
        raise PlanError(f"{view.name}: {view.dataset} has no column {', '.join(missing)}")
    columns = {time: table[time] for time in view.times} | {
        key: _ids(view, key, table[view.sources[key]]) for key in view.keys
    }
    for name, kind in view.types.items():
        try:
            columns[name] = table[view.sources[name]].cast(kind)
        # The second error is Arrow's for two types between which it has no cast.
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PlanError(
                f"{view.name}: {view.sources[name]} of {view.dataset} is no {kind} ({error})"
            ) from error
    rows = pa.table(columns)
    return rows.filter(pc.is_valid(rows[view.event_time])) if rows[view.event_time].null_count else rows


def _ids(view: MaterializedView, key: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    ids = ids_of_numbers(column.combine_chunks())
    if ids is None or ids.null_count > column.null_count:
        raise PlanError(
            f"{view.name}: ids are text or whole numbers, those of {view.sources[key]} in {view.dataset} are"
            f" {kind}"
        )
    return pa.chunked_array([ids])


def row_times(view: MaterializedView, rows: pa.Table) -> tuple[Ints, Ints]:
    """When each row happened, and when it was known. A row without a time of creation was known at once."""
    event_us = microseconds(rows[view.event_time])
    if view.created_time is None:
        return event_us, event_us
    created = rows[view.created_time]
    return event_us, microseconds(
        pc.coalesce(created, rows[view.event_time].cast(created.type)) if created.null_count else created
    )


def newest_rows(view: MaterializedView, rows: pa.Table, keys: Sequence[pa.ChunkedArray], at_us: Ints) -> Ints:
    """The number of the row that counts for every (key, moment); -1 where there is no row."""
    asked, held = _codes(keys, [rows[k] for k in view.keys], len(at_us), rows.num_rows)
    kept = np.flatnonzero(held >= 0)
    held = held[kept]
    event_us, created_us = (t[kept] for t in row_times(view, rows))
    seen_us = np.maximum(event_us, created_us)
    if not len(kept):
        return np.full(len(at_us), -1)

    clock = Clock.over(int(max(held.max(), asked.max())) + 1, event_us, seen_us, at_us)
    events = clock.place(held, event_us)
    order = by_key_and_time(held, event_us, created_us)
    places, answer = events[order], order
    if (seen_us > event_us).any():
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        seen = clock.place(held, seen_us)
        by_seen = by_key_and_time(held, seen_us)
        places = seen[by_seen]
        # Ranks grow with the key first, so the running maximum never carries a row over to the next key.
        answer = order[np.maximum.accumulate(rank[by_seen])]

    moments = clock.place(asked, at_us)
    # Sorted questions walk through memory in one direction.
    by_moment = by_key_and_time(asked + 1, at_us)
    found = np.empty(len(moments), np.int64)
    found[by_moment] = np.searchsorted(places, moments[by_moment], side="right") - 1
    newest = answer[found]
    known = (found >= 0) & (asked >= 0) & (held[newest] == asked)
    if view.ttl_us:
        known &= event_us[newest] >= at_us - view.ttl_us
    return np.where(known, kept[newest], -1)


def _codes(
    asked: Sequence[pa.ChunkedArray], held: Sequence[pa.ChunkedArray], moments: int, rows: int
) -> tuple[Ints, Ints]:
    """Keys as small integers, of the questions and of the rows.

    A null in a question is -1. A row whose key nobody asks for is -1.
    """
    ours, theirs = np.zeros(moments, np.int64), np.zeros(rows, np.int64)
    for one, other in zip(asked, held, strict=True):
        one = one.cast(other.type)  # A table of no rows has no type where it comes from pandas
        wanted = pc.unique(one).drop_null()
        mine, its = (
            pc.fill_null(pc.index_in(c, value_set=wanted).cast(pa.int64()), -1).to_numpy()
            for c in (one, other)
        )
        if len(asked) == 1:
            return mine, its
        pairs = np.where((ours < 0) | (mine < 0), -1, ours * len(wanted) + mine)
        known = np.unique(pairs[pairs >= 0])
        if not len(known):
            return np.full(moments, -1), np.full(rows, -1)
        ours = np.where(pairs < 0, -1, np.searchsorted(known, pairs))
        both = np.where((theirs < 0) | (its < 0), -1, theirs * len(wanted) + its)
        at = np.minimum(np.searchsorted(known, both), len(known) - 1)
        theirs = np.where((both >= 0) & (known[at] == both), at, -1)
    return ours, theirs
