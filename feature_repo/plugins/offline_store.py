"""Feast's historical retrieval over the lake.

Every feature is as it was known at the time of its row. The answer has the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
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
from feature_repo.engine.base import Engine
from feature_repo.engine.columns import microseconds
from feature_repo.engine.from_feast import is_windowed, view_from_feast
from feature_repo.engine.local.engine import LocalEngine
from feature_repo.engine.local.materialized_views import FIRST, LAST, features_as_of, materialized_from_feast
from feature_repo.engine.plan import LAKE, PlanError, ViewPlan
from feature_repo.errors import FeatureError
from feature_repo.lake.datasets import Lake, LakeError
from feature_repo.plugins.entity_rows import EntityError, EntityRows
from feature_repo.plugins.retrieval_jobs import Columns, LakeRetrievalJob, SourceRows
from feature_repo.times import day_of, to_us


class NotWritten(FeatureError):
    """A write to the lake through Feast. Only the platform's assets write partitions, whole and checked."""


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """The section `offline_store` of feature_store.yaml.

    `lake` is a folder or an fsspec address, where the lake is not in the home.
    """

    type: str = "feature_repo.plugins.offline_store.LakeOfflineStore"
    home: str | None = roots.VARIABLE
    lake: str | None = None

    def open_lake(self) -> Lake:
        """The lake that features are computed from."""
        return Lake(self.lake or roots.lake_root(roots.resolve(self.home or "")))


@dataclass(frozen=True)
class _Question:
    """One view, renamed or not, with the features that are asked for and the names of their columns."""

    view: Any
    names: tuple[str, ...]
    prefix: str

    @property
    def keys(self) -> list[str]:
        """The entity frame's columns that hold the view's keys."""
        renamed = self.view.projection.join_key_map
        keys = materialized_from_feast(self.view, ()).keys
        return [renamed.get(k, k) for k in keys]

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns of the answer and their types."""
        declared = {f.name: f.dtype for f in self.view.features}
        return {self.prefix + n: from_feast_to_pyarrow_type(declared[n]) for n in self.names}

    def answer(self, lake: Lake, engine: Engine, rows: EntityRows) -> Columns:
        """The features at the rows' keys and times, in the rows' order."""
        keys = [rows.key(k) for k in self.keys]
        if not is_windowed(self.view):
            found = features_as_of(lake, materialized_from_feast(self.view, self.names), keys, rows.at_us)
            return {self.prefix + n: found[n] for n in self.names}
        values = engine.features_at(self.plan, keys[0], rows.at_us)
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
    """The offline store that `feature_store.yaml` names."""

    supports_filter_by_created_timestamp = True  # And it always does.

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
        """The features at the rows of a frame or an SQL query, computed when the result is used.

        A null key has an empty history. Raises `EntityError` for rows that cannot be used, and `PlanError`
        for a view that cannot be computed.
        """
        if entity_df is None:
            raise EntityError(
                "features are computed at keys and times: give an entity_df, not a range of dates"
            )
        lake = config.offline_store.open_lake()
        engine: Engine = LocalEngine(lake)
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
                _ = question.plan  # A view that cannot be computed is refused at once.
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
                columns |= question.answer(lake, engine, rows)
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
        """The newest row of each key with an event time in the range.

        Of several newest rows, the row that was created last.
        """
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
        """Raises `NotWritten`."""
        raise NotWritten(
            f"{feature_view.name}: the lake is written by the platform's assets; push to the online store"
            " only"
        )

    def validate_data_source(self, config: RepoConfig, data_source: Any) -> None:
        """Check the kind of place only. A declaration may exist before its first day of data.

        Raises `PlanError` for another place than the lake.
        """
        if not getattr(data_source, "path", "").startswith(LAKE):
            raise PlanError(f"{data_source.name}: expected a FileSource at {LAKE}<dataset>")

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: Any
    ) -> Iterable[tuple[str, str]]:
        """The columns of the newest day, from which Feast infers a schema where a view declares none.

        Raises `LakeError` where there is no day yet.
        """
        lake, dataset = config.offline_store.open_lake(), data_source.path.removeprefix(LAKE)
        days = lake.partitions(dataset)
        if not days:
            raise LakeError(
                f"{dataset}: nothing materialized, so its columns are not known: declare a schema"
            )
        return list(lake.manifests(dataset, days[-1:])[0].schema.items())


def _inputs(view: Any, rows: EntityRows, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """The columns that an on-demand view reads. Feast would give it all columns, as lists."""
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
    days = lake.between(dataset, day_of(to_us(start)) if start else FIRST, LAST)
    if not days:
        raise EntityError(f"{dataset}: nothing materialized from {start} on")
    table = lake.read(dataset, days, list(dict.fromkeys(columns)))
    us = microseconds(table[time_column])
    low = to_us(start) if start else np.iinfo(np.int64).min
    high = to_us(end) if end else np.iinfo(np.int64).max
    return table.filter(pa.array((us >= low) & (us <= high)))
