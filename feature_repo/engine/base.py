"""The interface of whatever computes the features of a view from the lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.plan import ViewPlan


class Engine(Protocol):
    """Computes the values of windowed views over the events of one lake.

    Every engine promises:

    - A value at a moment is made from the events of the key and of the window that happened before the moment
      and were known by then. `functions` defines how the value is made.
    - Equal questions get equal bits: from every engine, from both methods, and from the online state.
    - A null key has an empty history. An event whose key is null is in no history.
    - Only validated days of the view's stream count. A day that was never written holds no events.
    - The engine bounds its memory, whatever the number of rows.

    Both methods raise `BadEvent` for a value that cannot be aggregated, and `DamagedPartition` where a file
    of the lake does not hold what its manifest says.
    """

    def view_by_day(
        self, view: ViewPlan, dataset: str, id_column: str, days: Sequence[str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """For each of `days`, in their order, a table with the rows of `dataset` in their order.

        The columns are the id of the row, its two times, and the features of the view at the row's key and
        event time. Features are float64, null where there is no value. The days of `dataset` have to be
        validated, which the caller checks. A day that was never written raises `MissingPartitions`.
        """

    def features_at(
        self, view: ViewPlan, keys: pa.ChunkedArray, at_us: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Each feature of the view at every (key, moment), in the order of the questions.

        `keys` are texts, `at_us` microseconds since the epoch. Counts and sums of whole numbers are int64.
        All other features are float64 with NaN for null. All features of a view with a time to live are
        float64.
        """
