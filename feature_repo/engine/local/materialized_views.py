"""Plain views: finished feature rows in the lake, and the newest of them that was known at each moment.

A row is visible from the moment that it is both past and known, max(event_timestamp, created_timestamp). Of
the visible rows of a key the newest counts: by event_timestamp, then created_timestamp, then its place in the
lake. If that one is older than the view's ttl, there is no value.
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

from feature_repo.engine.ids import ids_of_numbers
from feature_repo.engine.local.from_lake import read_days
from feature_repo.engine.local.windows import microseconds
from feature_repo.engine.plan import LAKE, PlanError
from feature_repo.lake.datasets import Lake
from feature_repo.times import day_of, period_us

Ints = NDArray[np.int64]
LIMIT = 2**62
FIRST, LAST = "0000-00-00", "9999-99-99"  # before and after every day


@dataclass(frozen=True)
class PlainView:
    """A view whose features are columns of a dataset.

    `sources` are the dataset's columns behind keys and features, by their names in the view.
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
        return (self.event_time, self.created_time) if self.created_time else (self.event_time,)


def is_windowed(view: Any) -> bool:
    return bool(getattr(view, "aggregations", None))


def plain_from_feast(view: Any, wanted: Sequence[str] | None = None) -> PlainView:
    """What the engine needs of a view without aggregations; `wanted` limits it to some features."""
    source = getattr(view, "batch_source", None)
    path = getattr(source, "path", "")
    if source is None or not path.startswith(LAKE):
        raise PlanError(f"{view.name}: its source is {path!r}, expected {LAKE}<dataset>")
    types = {f.name: from_feast_to_pyarrow_type(f.dtype) for f in view.features}
    keys = tuple(c.name for c in view.entity_columns if c.name != DUMMY_ENTITY_ID)
    columns = {feature: column for column, feature in (source.field_mapping or {}).items()}
    names = types if wanted is None else wanted
    return PlainView(
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
    lake: Lake, view: PlainView, keys: Sequence[pa.ChunkedArray], at_us: Ints
) -> dict[str, pa.ChunkedArray]:
    """Each feature at every (key, moment), in the order given.

    A null key has no rows. Only the days from a ttl before the first moment to the last moment are read: a
    row is created no sooner than it happens, and is in the day of its arrival.
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


def read_rows(lake: Lake, view: PlainView, days: Sequence[str]) -> pa.Table:
    """Keys, times and features of some days, under the view's names and in its types.

    Rows without a time are left out.
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
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PlanError(
                f"{view.name}: {view.sources[name]} of {view.dataset} is no {kind} ({error})"
            ) from error
    rows = pa.table(columns)
    return rows.filter(pc.is_valid(rows[view.event_time])) if rows[view.event_time].null_count else rows


def _ids(view: PlainView, key: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
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


def row_times(view: PlainView, rows: pa.Table) -> tuple[Ints, Ints]:
    """When each row happened, and when it was known: at once, where nothing else is said."""
    event_us = microseconds(rows[view.event_time])
    if view.created_time is None:
        return event_us, event_us
    created = rows[view.created_time]
    return event_us, microseconds(
        pc.coalesce(created, rows[view.event_time].cast(created.type)) if created.null_count else created
    )


def newest_rows(view: PlainView, rows: pa.Table, keys: Sequence[pa.ChunkedArray], at_us: Ints) -> Ints:
    """For every (key, moment) the number of the row that holds its values, or -1."""
    asked, held = _codes(keys, [rows[k] for k in view.keys], len(at_us), rows.num_rows)
    kept = np.flatnonzero(held >= 0)
    held = held[kept]
    event_us, created_us = (t[kept] for t in row_times(view, rows))
    seen_us = np.maximum(event_us, created_us)
    if not len(kept):
        return np.full(len(at_us), -1)

    span, low, ranks = _clock(int(max(held.max(), asked.max())) + 1, event_us, seen_us, at_us)

    def place(codes: Ints, times: Ints) -> Ints:
        return codes * span + (np.searchsorted(ranks, times) if ranks is not None else times - low)

    events = place(held, event_us)
    order = _order(held, event_us, created_us)
    places, answer = events[order], order
    if (seen_us > event_us).any():
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        seen = place(held, seen_us)
        by_seen = _order(held, seen_us)
        places = seen[by_seen]
        # Ranks grow with the key first, so the running maximum never carries a row over to the next key.
        answer = order[np.maximum.accumulate(rank[by_seen])]

    moments = place(asked, at_us)
    by_moment = _order(asked + 1, at_us)  # so that the searches walk through memory in one direction
    found = np.empty(len(moments), np.int64)
    found[by_moment] = np.searchsorted(places, moments[by_moment], side="right") - 1
    newest = answer[found]
    known = (found >= 0) & (asked >= 0) & (held[newest] == asked)
    if view.ttl_us:
        known &= event_us[newest] >= at_us - view.ttl_us
    return np.where(known, kept[newest], -1)


def _order(codes: Ints, *times: Ints) -> Ints:
    """Rows by key, then by the times, then as they are.

    NumPy's stable sorts are linear here: of times that mostly come in order, and of 16 bits of the key at a
    time.
    """
    order = np.arange(len(codes))
    for time in reversed(times):
        if (time[order][1:] < time[order][:-1]).any():
            order = order[np.argsort(time[order], kind="stable")]
    for bits in range(0, int(codes.max(initial=0)).bit_length(), 16):
        digits = (codes >> bits).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _codes(
    asked: Sequence[pa.ChunkedArray], held: Sequence[pa.ChunkedArray], moments: int, rows: int
) -> tuple[Ints, Ints]:
    """Keys as small integers: of the question (null is -1), and of the rows (-1 where nobody asks)."""
    ours, theirs = np.zeros(moments, np.int64), np.zeros(rows, np.int64)
    for one, other in zip(asked, held, strict=True):
        one = one.cast(other.type)  # no rows come from pandas with no type
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


def _clock(keys: int, *times: Ints) -> tuple[int, int, Ints | None]:
    """Numbers of moments a key, the first moment, and their ranks where keys and times together would not fit
    an int64.
    """
    low = min(int(t.min()) for t in times)
    span = max(int(t.max()) for t in times) - low + 1
    if (keys + 1) * span < LIMIT:
        return span, low, None
    ranks = np.unique(np.concatenate(times))
    return len(ranks), 0, ranks
