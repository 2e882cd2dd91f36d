"""Feast's historical retrieval over the lake: every feature as it was known at the row's own time, in the
rows' own order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import from_feast_to_pyarrow_type
from feast.utils import _get_requested_feature_views_to_features_dict

from feature_repo import roots
from feature_repo.engine.local.from_lake import features_from_lake
from feature_repo.engine.local.materialized_views import (
    FIRST,
    LAST,
    features_as_of,
    is_windowed,
    plain_from_feast,
)
from feature_repo.engine.local.windows import microseconds
from feature_repo.engine.plan import LAKE, PlanError, ViewPlan, view_from_feast
from feature_repo.lake.datasets import Lake, LakeError
from feature_repo.plugins.entity_rows import EntityError, EntityRows
from feature_repo.times import EPOCH

Columns = dict[str, pa.ChunkedArray]


class NotWritten(Exception):
    """Somebody wrote to the lake through Feast.

    Its partitions are written by the platform's assets, whole and checked.
    """


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    type: str = "feature_repo.plugins.offline_store.LakeOfflineStore"
    home: str | None = roots.VARIABLE
    lake: str | None = None  # where the lake is not in the home: a folder or an fsspec address

    def open_lake(self) -> Lake:
        return Lake(self.lake or roots.lake_root(roots.resolve(self.home or "")))


class LakeRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for, on-demand features included."""

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
        """Feast would take the rows' own columns to Arrow and back."""
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
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []  # none that Feast would still have to compute

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata


class SourceRows(RetrievalJob):
    """Rows of a dataset as they are."""

    def __init__(self, evaluate: Callable[[], pa.Table]) -> None:
        self._evaluate = evaluate

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._evaluate().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return False

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return None


@dataclass(frozen=True)
class _Question:
    """One view, renamed or not: which of its features are asked at which keys, and what the answer's columns
    are called.
    """

    view: Any
    names: tuple[str, ...]
    prefix: str

    @property
    def keys(self) -> list[str]:
        """The entity frame's columns that hold the view's keys."""
        renamed = self.view.projection.join_key_map
        keys = plain_from_feast(self.view, ()).keys
        return [renamed.get(k, k) for k in keys]

    @property
    def types(self) -> dict[str, pa.DataType]:
        declared = {f.name: f.dtype for f in self.view.features}
        return {self.prefix + n: from_feast_to_pyarrow_type(declared[n]) for n in self.names}

    def answer(self, lake: Lake, rows: EntityRows) -> Columns:
        keys = [rows.key(k) for k in self.keys]
        if not is_windowed(self.view):
            found = features_as_of(lake, plain_from_feast(self.view, self.names), keys, rows.at_us)
            return {self.prefix + n: found[n] for n in self.names}
        values = features_from_lake(lake, self.plan, keys[0], rows.at_us)
        return {
            self.prefix + n: pa.chunked_array(
                [pa.array(values[n], from_pandas=True).cast(self.types[self.prefix + n])]
            )
            for n in self.names
        }

    @property
    def plan(self) -> ViewPlan:
        return view_from_feast(self.view, set(self.names))


class LakeOfflineStore(OfflineStore):
    supports_filter_by_created_timestamp = True  # and always does

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        if entity_df is None:
            raise EntityError(
                "features are computed at keys and times: give an entity_df, not a range of dates"
            )
        lake = config.offline_store.open_lake()
        views, on_demand_views = _get_requested_feature_views_to_features_dict(
            feature_refs, feature_views, registry.list_on_demand_feature_views(project)
        )

        def prefix_of(view: Any) -> str:
            return f"{view.projection.name_to_use()}__" if full_feature_names else ""

        questions = [_Question(v, tuple(names), prefix_of(v)) for v, names in views.items()]
        on_demand = [_Question(v, tuple(names), prefix_of(v)) for v, names in on_demand_views.items()]
        rows = EntityRows.of(entity_df, lake)
        keys: set[str] = set()
        for question in questions:
            keys.update(question.keys)
            if is_windowed(question.view):
                _ = question.plan  # what cannot be computed is refused now, not when the result is asked for
        for key in sorted(keys):
            rows.key(key)
        asked = {name for q in (*questions, *on_demand) for name in q.types}
        if taken := sorted(asked & set(rows.names)):
            raise EntityError(
                f"{', '.join(taken)}: these columns have the names of features that were asked for"
            )

        def evaluate() -> Columns:
            columns: Columns = {}
            for question in questions:
                columns |= question.answer(lake, rows)
            for question in on_demand:
                computed = question.view.transform_arrow(
                    _inputs(question.view, rows, columns), full_feature_names
                )
                columns |= {name: computed[name].cast(kind) for name, kind in question.types.items()}
            return columns

        return LakeRetrievalJob(
            rows, evaluate, full_feature_names, RetrievalMetadata(feature_refs, sorted(keys))
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The source's rows whose event time lies from `start_date` to `end_date`."""
        columns = [
            *join_key_columns,
            *feature_name_columns,
            timestamp_field,
            *([created_timestamp_column] if created_timestamp_column else []),
        ]
        return SourceRows(
            lambda: _source_rows(config, data_source, columns, timestamp_field, start_date, end_date)
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest of these rows for each key; the one that was created last, where there are several."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *times]

        def evaluate() -> pa.Table:
            table = _source_rows(config, data_source, columns, timestamp_field, start_date, end_date)
            table = table.append_column("__place", pa.array(range(table.num_rows), pa.int64()))
            table = table.sort_by([(c, "descending") for c in (*times, "__place")])
            newest = table.group_by(join_key_columns, use_threads=False).aggregate([("__place", "first")])
            return table.filter(pc.is_in(table["__place"], value_set=newest["__place_first"])).drop_columns(
                ["__place"]
            )

        return SourceRows(evaluate)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: Any, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        raise NotWritten(
            f"{feature_view.name}: the lake is written by the platform's assets; push to the online store"
            " only"
        )

    def validate_data_source(self, config: RepoConfig, data_source: Any) -> None:
        """A declaration may come before its first day: only the kind of place is checked."""
        if not getattr(data_source, "path", "").startswith(LAKE):
            raise PlanError(f"{data_source.name}: expected a FileSource at {LAKE}<dataset>")

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: Any
    ) -> Iterable[tuple[str, str]]:
        """From the newest day's manifest; Feast infers a schema from it where a view declares none."""
        lake, dataset = config.offline_store.open_lake(), data_source.path.removeprefix(LAKE)
        days = lake.partitions(dataset)
        if not days:
            raise LakeError(
                f"{dataset}: nothing materialized, so its columns are not known: declare a schema"
            )
        return list(lake.manifests(dataset, days[-1:])[0].schema.items())


def _inputs(view: Any, rows: EntityRows, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """The columns that an on-demand view reads. Feast would hand it all of them, as lists."""
    request = [f.name for source in view.source_request_sources.values() for f in source.schema]
    if missing := sorted(set(request) - set(rows.names)):
        raise EntityError(
            f"{', '.join(missing)}: {view.name} needs these columns; there are {', '.join(rows.names)}"
        )
    names = set()
    for projection in view.source_feature_view_projections.values():
        names |= {n for f in projection.features for n in (f.name, f"{projection.name_to_use()}__{f.name}")}
    return pa.table(
        {**{n: rows.column(n) for n in request}, **{n: c for n, c in columns.items() if n in names}}
    )


def _source_rows(
    config: RepoConfig,
    source: Any,
    columns: list[str],
    time_column: str,
    start: datetime | None,
    end: datetime | None,
) -> pa.Table:
    lake = config.offline_store.open_lake()
    dataset = source.path.removeprefix(LAKE)
    days = lake.between(dataset, _utc(start).date().isoformat() if start else FIRST, LAST)
    if not days:
        raise EntityError(f"{dataset}: nothing materialized from {start} on")
    table = lake.read(dataset, days, list(dict.fromkeys(columns)))
    us = microseconds(table[time_column])
    low, high = (
        (microseconds_of(start) if start else np.iinfo(np.int64).min),
        (microseconds_of(end) if end else np.iinfo(np.int64).max),
    )
    return table.filter(pa.array((us >= low) & (us <= high)))


def microseconds_of(moment: datetime) -> int:
    return (_utc(moment) - EPOCH) // timedelta(microseconds=1)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
