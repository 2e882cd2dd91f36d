"""The values of a view from the lake: the days that its windows reach, and the rows of these days.

Rows that exceed memory are computed in buckets of keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.local.buckets import Buckets, buckets_for, by_bucket
from feature_repo.engine.local.parallel import in_order
from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import ViewPlan
from feature_repo.lake.datasets import DamagedPartition, Lake
from feature_repo.times import day_of

Ints = NDArray[np.int64]

TIMES = ("event_timestamp", "created_timestamp")
# Moments and events. Each takes some 300 bytes while a view is computed, so this is about a gigabyte.
ROWS_AT_ONCE = 4_000_000


def features_from_lake(
    lake: Lake, plan: ViewPlan, keys: pa.ChunkedArray, at_us: Ints
) -> dict[str, NDArray[Any]]:
    """`Engine.features_at` of a lake: `windows.view_values` over the arrival days that the windows reach."""
    days = days_reached(lake, plan, int(at_us.min()), int(at_us.max())) if len(at_us) else []
    buckets = buckets_for(len(at_us) + rows_of(lake, plan.stream, days), ROWS_AT_ONCE)
    if buckets == 1:
        return view_values(plan, read_events(lake, plan, days), keys, at_us)
    result: dict[str, NDArray[Any]] = {}
    order, counts = by_bucket(keys.cast(pa.string()), buckets)
    with TemporaryDirectory(prefix="features-") as folder:
        events = spilled(
            lake, plan.stream, days, event_columns(plan), plan.entity, Buckets(folder, "events", buckets)
        )
        for bucket, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
            for name, values in view_values(
                plan, events.read(bucket), keys.take(pa.array(rows)), at_us[rows]
            ).items():
                before = result.get(name, np.empty(len(at_us), values.dtype))
                # Where the sums of one bucket exceed an int64, the sums of all buckets are floats.
                result[name] = before.astype(np.result_type(before, values), copy=False)
                result[name][rows] = values
    return result


def days_reached(lake: Lake, plan: ViewPlan, first_us: int, last_us: int) -> list[str]:
    """The validated days whose events the moments from `first_us` to `last_us` can see.

    An event is created no sooner than it happens. The events of a window therefore arrived at its lower bound
    or later.
    """
    return lake.between(plan.stream, day_of(first_us - plan.reach_us), day_of(last_us), validated=True)


def read_events(lake: Lake, plan: ViewPlan, days: Sequence[str]) -> pa.Table:
    """The events of some days with the columns that the view needs. No days give an empty table."""
    if days:
        return read_days(lake, plan.stream, days, event_columns(plan))
    empty = {plan.entity: pa.string(), **{t: pa.timestamp("us", tz="UTC") for t in TIMES}}
    return pa.schema({**{c: pa.int64() for c in plan.columns}, **empty}).empty_table()


def read_days(lake: Lake, dataset: str, days: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """`Lake.read`, several days at once. Raises `DamagedPartition` for days of different columns."""
    try:
        return pa.concat_tables(in_order(lambda day: lake.read(dataset, [day], columns), days))
    except pa.ArrowInvalid as error:
        raise _unequal(dataset, str(error)) from error


def spilled(
    lake: Lake, dataset: str, days: Iterable[str], columns: Sequence[str], key: str, buckets: Buckets
) -> Buckets:
    """`buckets` with the rows of the days by their `key`, one batch for each day."""
    schema = None

    def split(day: str) -> tuple[str, list[pa.RecordBatch]]:
        """One day in parts, one a bucket."""
        return day, buckets.split(lake.read(dataset, [day], columns), key)

    for day, batches in in_order(split, days):
        schema = schema or batches[0].schema
        if batches[0].schema != schema:
            raise _unequal(dataset, f"from {day} on")
        buckets.write(batches)
    buckets.close()
    return buckets


def rows_of(lake: Lake, dataset: str, days: Iterable[str]) -> int:
    """The number of rows of the days, from their manifests."""
    return sum(manifest.rows for manifest in lake.manifests(dataset, days))


def event_columns(plan: ViewPlan) -> list[str]:
    """The columns of the stream that the view needs."""
    return list(dict.fromkeys((plan.entity, *TIMES, *plan.columns)))


def _unequal(dataset: str, where: str) -> DamagedPartition:
    return DamagedPartition(f"{dataset}: its partitions have different columns or types ({where})")
