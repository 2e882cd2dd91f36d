"""The features of a view for all rows of many days, a day at a time and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.columns import microseconds
from feature_repo.engine.local import from_lake
from feature_repo.engine.local.buckets import Buckets, buckets_for, by_bucket, one_batch
from feature_repo.engine.local.from_lake import (
    TIMES,
    days_reached,
    event_columns,
    features_from_lake,
    read_days,
    rows_of,
    spilled,
)
from feature_repo.engine.local.parallel import in_order
from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import ViewPlan
from feature_repo.lake.datasets import Lake, Manifest
from feature_repo.times import midnight_us


def view_by_day(
    lake: Lake, view: ViewPlan, dataset: str, id_column: str, days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """`Engine.view_by_day` of a lake on this machine."""
    identity = (id_column, *TIMES)
    if rows_of(lake, dataset, days) > from_lake.ROWS_AT_ONCE:
        yield from _in_buckets(lake, view, dataset, identity, days)
    elif days:
        rows = read_days(lake, dataset, days, list(dict.fromkeys((*identity, view.asked_by))))
        values = _table(
            features_from_lake(lake, view, rows[view.asked_by], microseconds(rows["event_timestamp"]))
        )
        start = 0
        for manifest in lake.manifests(dataset, days):
            part = slice(start, start + manifest.rows)
            yield manifest.partition, _side_by_side(identity, rows[part], values[part])
            start = part.stop


def write_by_day(lake: Lake, dataset: str, tables: Iterable[tuple[str, pa.Table]]) -> list[Manifest]:
    """Write each day while the engine computes the next days. Returns the manifests, in the order of the
    days.

    The tables are made of validated rows, so the partitions are marked as validated.
    """
    return list(in_order(lambda table: lake.write(dataset, *table, validated=True), tables))


def _in_buckets(
    lake: Lake, view: ViewPlan, dataset: str, identity: Sequence[str], days: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The features, computed bucket by bucket. Moments and events of one key go to one bucket.

    The result of a bucket is put back at the positions of its rows in each day.
    """
    events_about = rows_of(
        lake, view.stream, days_reached(lake, view, *(midnight_us(day) for day in (days[0], days[-1])))
    )
    count = buckets_for(rows_of(lake, dataset, days) + events_about, from_lake.ROWS_AT_ONCE)
    with TemporaryDirectory(prefix="features-") as folder:
        asked = spilled(
            lake,
            dataset,
            days,
            [view.asked_by, "event_timestamp"],
            view.asked_by,
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
                    view,
                    events.read(bucket),
                    moments[view.asked_by],
                    microseconds(moments["event_timestamp"]),
                )
            )
            ends = np.cumsum([len(chunk) for chunk in moments[view.asked_by].chunks]).tolist()
            values.write_one(
                bucket, (one_batch(found[start:end]) for start, end in zip([0, *ends], ends, strict=False))
            )

        def of_day(place: int) -> tuple[str, pa.Table]:
            """One day of the result, by the position of the day."""
            rows = lake.read(dataset, [days[place]], list(dict.fromkeys((*identity, view.asked_by))))
            order, _ = by_bucket(rows[view.asked_by], count)
            parts = pa.concat_tables([values.read(bucket, place) for bucket in range(count)])
            return days[place], _side_by_side(identity, rows, parts.take(pa.array(np.argsort(order))))

        yield from in_order(of_day, range(len(days)))


def _table(values: Mapping[str, NDArray[Any]]) -> pa.Table:
    return pa.table(
        {
            name: pa.array(column.astype(np.float64, copy=False), from_pandas=True)
            for name, column in values.items()
        }
    )


def _side_by_side(identity: Sequence[str], rows: pa.Table, values: pa.Table) -> pa.Table:
    """The columns as a table of one chunk.

    The files of a day are then the same whether the day was computed in memory or in buckets.
    """
    columns = [*(rows[name] for name in identity), *values.columns]
    return pa.table(columns, names=[*identity, *values.column_names]).combine_chunks()
