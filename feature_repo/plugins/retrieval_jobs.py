"""The result of a historical question: an answer that is computed when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata

from feature_repo.plugins.entity_rows import EntityRows

Columns = dict[str, pa.ChunkedArray]


class LakeRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is used, on-demand features included.

    `evaluate` gives the columns of the features, a value for each of `rows`.
    """

    def __init__(
        self,
        rows: EntityRows,
        evaluate: Callable[[], Columns],
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._rows, self._evaluate, self._full_feature_names, self._metadata = (
            rows,
            evaluate,
            full_feature_names,
            metadata,
        )

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The rows with their features. Feast's own way would convert the rows' columns to Arrow and back."""
        return (
            super().to_df(validation_reference, timeout)
            if validation_reference
            else self._to_df_internal(timeout)
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._rows.with_features(self._evaluate())

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._rows.frame_with_features(self._evaluate())

    @property
    def full_feature_names(self) -> bool:
        """Whether the names of features begin with the name of their view."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Empty: the rows have their on-demand features already, so Feast computes none."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for; None where Feast did not say it."""
        return self._metadata


class SourceRows(RetrievalJob):
    """Rows of a dataset, unchanged, read when they are used."""

    def __init__(self, evaluate: Callable[[], pa.Table]) -> None:
        self._evaluate = evaluate

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._evaluate().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """False: the columns keep their names."""
        return False

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Empty: a source has none."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """None: nothing was asked for beyond the rows."""
        return None
