"""The values of a view at many keys and moments at once: the kernel of each function, over key partitions.

Events that were created no later than they happened are known to every later moment, so only their event time
matters. The few late events are taken out. They are added to the windows that reach them and whose moment
lies after their creation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.local.key_partitions import KeyPartition, partitions_of
from feature_repo.engine.local.parallel import in_order
from feature_repo.engine.plan import ViewPlan

Array = NDArray[Any]
Ints = NDArray[np.int64]


def view_values(
    view: ViewPlan, events: pa.Table, keys: pa.Array | pa.ChunkedArray, at_us: Ints
) -> dict[str, Array]:
    """Each aggregate at every (key, moment), in the order of the questions.

    Counts and sums of whole numbers are int64. All other features are float64 with NaN for null. All features
    of a view with a time to live are float64, and NaN where the key had no event for so long.

    `events` holds the entity column, event_timestamp, created_timestamp and the aggregated columns, in any
    order. An event counts once for every row that it has. A null key has no history. A value that cannot be
    aggregated raises `BadEvent`.
    """
    order, partitions = partitions_of(view, events, keys, at_us)
    parts = list(in_order(_values, partitions))
    result = {}
    for place, aggregate in enumerate(view.aggregates):
        values = np.concatenate([part[place] for part in parts])
        result[aggregate.name] = np.empty_like(values)
        result[aggregate.name][order] = values
    return result


def _values(partition: KeyPartition) -> list[Array]:
    view = partition.view
    values = [a.computed_by.over(a.column, partition, partition.window(a.window_us)) for a in view.aggregates]
    if not view.ttl_us:
        return values
    alive = partition.window(view.ttl_us).counts > 0
    return [np.where(alive, v, np.nan) for v in values]
