"""The values of a view, from the lake: which days its windows reach, and what they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.lake import Lake
from feature_repo.engine.plan import ViewPlan
from feature_repo.engine.windows import view_values

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = ("event_timestamp", "created_timestamp")


def features_from_lake(lake: Lake, plan: ViewPlan, keys: pa.ChunkedArray, at_us: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """`windows.view_values` over the arrival days that the windows reach. Days that were never materialized, or did not pass validation,
    hold no events here."""
    events = None
    if len(at_us):
        first, last = day_of(int(at_us.min()) - plan.reach_us), day_of(int(at_us.max()))
        days = lake.between(plan.stream, first, last, validated=True)
        # An event is created no sooner than it happens, so what lies in a window arrived no sooner than its lower bound.
        events = lake.read(plan.stream, days, list(dict.fromkeys((plan.entity, *TIMES, *plan.columns)))) if days else None
    if events is None:
        empty = {plan.entity: pa.string(), **{t: pa.timestamp("us", tz="UTC") for t in TIMES}}
        events = pa.schema({**{c: pa.int64() for c in plan.columns}, **empty}).empty_table()
    return view_values(plan, events, keys, at_us)


def day_of(moment_us: int) -> str:
    return (EPOCH + timedelta(microseconds=moment_us)).date().isoformat()
