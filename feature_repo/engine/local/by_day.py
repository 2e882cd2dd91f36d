"""A view for all the rows of many days, a day at a time and in bounded memory: what the assets write into the
lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.local import from_lake
from feature_repo.engine.local.buckets import Buckets, buckets_for, by_bucket, one_batch
from feature_repo.engine.local.from_lake import (
    days_reached,
    event_columns,
    features_from_lake,
    read_days,
    rows_of,
    spilled,
)
from feature_repo.engine.local.parallel import in_order
from feature_repo.engine.local.windows import microseconds, view_values
from feature_repo.engine.plan import ViewPlan
from feature_repo.lake.datasets import Lake, Manifest
from feature_repo.times import midnight_us

IDENTITY = ("transaction_id", "event_timestamp", "created_timestamp")


def view_by_day(
    lake: Lake, view: ViewPlan, entities: str, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """For each day the rows of the dataset `entities` in their order: id and times, and the view's features
    at the row's key and event time, as float64 with nulls.

    Of the view's stream only validated days count; whether those of `entities` are is for the caller to ask.
    """
    if rows_of(lake, entities, days) > from_lake.ROWS_AT_ONCE:
        yield from _in_buckets(lake, view, entities, days)
    elif days:
        rows = read_days(lake, entities, days, [*IDENTITY, view.entity])
        values = _table(
            features_from_lake(lake, view, rows[view.entity], microseconds(rows["event_timestamp"]))
        )
        start = 0
        for manifest in lake.manifests(entities, days):
            part = slice(start, start + manifest.rows)
            yield manifest.partition, _side_by_side(rows[part], values[part])
            start = part.stop


def write_by_day(lake: Lake, dataset: str, tables: Iterable[tuple[str, pa.Table]]) -> list[Manifest]:
    """Write each day as it comes, while the ones before are still being encoded.

    What is written here is made of validated rows, and says so.
    """
    return list(in_order(lambda table: lake.write(dataset, *table, validated=True), tables))


def _in_buckets(
    lake: Lake, view: ViewPlan, entities: str, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Moments and events of one key go to one bucket; what a bucket gives is put back where its rows stood in
    each day.
    """
    events_about = rows_of(
        lake, view.stream, days_reached(lake, view, *(midnight_us(day) for day in (days[0], days[-1])))
    )
    count = buckets_for(rows_of(lake, entities, days) + events_about, from_lake.ROWS_AT_ONCE)
    with TemporaryDirectory(prefix="features-") as folder:
        asked = spilled(
            lake,
            entities,
            days,
            [view.entity, "event_timestamp"],
            view.entity,
            Buckets(folder, "moments", count),
        )
        spans = [
            (at_us.min(), at_us.max())
            for bucket in range(count)
            if len(at_us := microseconds(asked.read(bucket)["event_timestamp"]))
        ]
        reached = days_reached(lake, view, int(np.min(spans)), int(np.max(spans)))
        events = spilled(
            lake, view.stream, reached, event_columns(view), view.entity, Buckets(folder, "events", count)
        )
        values = Buckets(folder, "values", count)
        for bucket in range(count):
            moments = asked.read(bucket)
            found = _table(
                view_values(
                    view, events.read(bucket), moments[view.entity], microseconds(moments["event_timestamp"])
                )
            )
            ends = np.cumsum([len(chunk) for chunk in moments[view.entity].chunks]).tolist()
            values.write_one(
                bucket, (one_batch(found[start:end]) for start, end in zip([0, *ends], ends, strict=False))
            )

        def of_day(place: int) -> tuple[str, pa.Table]:
            rows = lake.read(entities, [days[place]], [*IDENTITY, view.entity])
            order, _ = by_bucket(rows[view.entity], count)
            parts = pa.concat_tables([values.read(bucket, place) for bucket in range(count)])
            return days[place], _side_by_side(rows, parts.take(pa.array(np.argsort(order))))

        yield from in_order(of_day, range(len(days)))


def _table(values: Mapping[str, NDArray[Any]]) -> pa.Table:
    return pa.table(
        {
            name: pa.array(column.astype(np.float64, copy=False), from_pandas=True)
            for name, column in values.items()
        }
    )


def _side_by_side(rows: pa.Table, values: pa.Table) -> pa.Table:
    """In one chunk, so that the files of a day are the same however it was computed."""
    columns = [*(rows[name] for name in IDENTITY), *values.columns]
    return pa.table(columns, names=[*IDENTITY, *values.column_names]).combine_chunks()
