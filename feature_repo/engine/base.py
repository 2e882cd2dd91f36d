"""What computes a view's features from the lake, whatever does the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.plan import ViewPlan


class Engine(Protocol):
    """The values of windowed views over the events of one lake.

    Every engine promises:
    - A value at a moment is made of the events that happened before the moment and were known by then, of the
      key asked for and of the window. `functions` defines what is made of them.
    - Equal questions get equal bits: from every engine, from both methods, and from the online state.
    - A null key has an empty history, and an event whose key is null is in nobody's history.
    - Of the view's stream only validated days count. Days that were never written hold no events.
    - Memory is bounded by the engine, whatever the number of rows.

    Both methods raise `BadEvent` for a value that cannot be
    aggregated, and `DamagedPartition` where the lake does not hold what it says.
    """

    def view_by_day(
        self, view: ViewPlan, dataset: str, id_column: str, days: Sequence[str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """For each day of `days`, in their order, a table with the rows of `dataset` in their order.

        Its columns are the id of the row, its two times, and the view's features at the row's key and event
        time: float64, null where there is no value. The caller looks to it that the days of `dataset` are
        validated. A day that was never written raises `MissingPartitions`.
        """

    def features_at(
        self, view: ViewPlan, keys: pa.ChunkedArray, at_us: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Each feature of the view at every (key, moment), in the order given.

        `keys` are texts, `at_us` microseconds since the epoch. Counts and whole sums are int64, all else is
        float64 with NaN for null. Where the view has a time to live, all are float64.
        """
