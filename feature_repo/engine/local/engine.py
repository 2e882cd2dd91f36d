"""The engine of one machine: Arrow and NumPy on a few threads, with scratch files for rows beyond memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.engine.local.by_day import view_by_day
from feature_repo.engine.local.from_lake import features_from_lake
from feature_repo.engine.plan import ViewPlan
from feature_repo.lake.datasets import Lake


class LocalEngine:
    """The `Engine` of every home."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def view_by_day(
        self, view: ViewPlan, dataset: str, id_column: str, days: Sequence[str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """Computed in memory where the rows fit, else in buckets of keys. Both give the same bits."""
        return view_by_day(self._lake, view, dataset, id_column, days)

    def features_at(
        self, view: ViewPlan, keys: pa.ChunkedArray, at_us: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Computed in memory where the rows fit, else in buckets of keys. Both give the same bits."""
        return features_from_lake(self._lake, view, keys, at_us)
