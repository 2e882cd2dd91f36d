"""Feast's historical retrieval over the lake: every feature as it was known at the row's own time, in the rows' own order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_requested_feature_views_to_features_dict
from numpy.typing import NDArray

from feature_repo.engine import roots
from feature_repo.engine.lake import Lake
from feature_repo.engine.plan import LAKE, view_from_feast
from feature_repo.engine.retrieval import EPOCH, features_from_lake
from feature_repo.engine.windows import microseconds


class EntityError(ValueError):
    """The rows that features were asked for cannot be used; the message names the column."""


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    type: str = "feature_repo.engine.offline.LakeOfflineStore"
    home: str | None = roots.VARIABLE
    lake: str | None = None  # where the lake is not in the home: a folder or an fsspec address

    def open_lake(self) -> Lake:
        return Lake(self.lake or roots.lake_root(roots.resolve(self.home or "")))


class LakeRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for, on-demand features included."""

    def __init__(self, evaluate: Callable[[], pa.Table], full_feature_names: bool = False, metadata: RetrievalMetadata | None = None) -> None:
        self._evaluate, self._full_feature_names, self._metadata = evaluate, full_feature_names, metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._evaluate().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []  # none that Feast would still have to compute

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata


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
            raise EntityError("features are computed at keys and times: give an entity_df, not a range of dates")
        lake = config.offline_store.open_lake()
        rows = rows_from_sql(lake, entity_df) if isinstance(entity_df, str) else pa.Table.from_pandas(entity_df, preserve_index=False)
        time_column = infer_event_timestamp_from_entity_df(rows.slice(0, 0).to_pandas().dtypes.to_dict())
        wanted, wanted_on_demand = _get_requested_feature_views_to_features_dict(
            feature_refs, feature_views, registry.list_on_demand_feature_views(project)
        )
        types: dict[str, pa.DataType] = {}
        questions = []

        def prefix_of(view: Any) -> str:
            return f"{view.projection.name_to_use()}__" if full_feature_names else ""

        for view, names in wanted.items():
            prefix = prefix_of(view)
            declared = {f.name: f.dtype for f in view.features}
            types |= {prefix + n: _arrow_type(declared[n]) for n in names}
            plan = view_from_feast(view, set(names))
            questions.append((plan, view.projection.join_key_map.get(plan.entity, plan.entity), prefix, names))
        for on_demand, names in wanted_on_demand.items():
            declared = {f.name: f.dtype for f in on_demand.features}
            types |= {prefix_of(on_demand) + n: _arrow_type(declared[n]) for n in names}
        at_us = _moments(rows, time_column)
        for _, key, _, _ in questions:
            _check_key(rows, key)
        if taken := sorted(types.keys() & set(rows.column_names)):
            raise EntityError(f"{', '.join(taken)}: these columns have the names of features that were asked for")

        def evaluate() -> pa.Table:
            table = rows
            for plan, key, prefix, names in questions:
                values = features_from_lake(lake, plan, rows[key], at_us)
                for name in names:
                    column = pa.array(values[name], from_pandas=True).cast(types[prefix + name])
                    table = table.append_column(prefix + name, column)
            for view, names in wanted_on_demand.items():
                computed = view.transform_arrow(_inputs(view, table), full_feature_names)
                for name in (prefix_of(view) + n for n in names):
                    table = table.append_column(name, computed[name].cast(types[name]))
            return table

        keys = sorted({key for _, key, _, _ in questions})
        return LakeRetrievalJob(evaluate, full_feature_names, RetrievalMetadata(feature_refs, keys))

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
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        return LakeRetrievalJob(lambda: _source_rows(config, data_source, columns, timestamp_field, start_date, end_date))

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
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def evaluate() -> pa.Table:
            table = _source_rows(config, data_source, columns, timestamp_field, start_date, end_date)
            order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
            return table.sort_by([(c, "descending") for c in order]).group_by(join_key_columns, use_threads=False).aggregate(
                [(c, "first") for c in columns if c not in join_key_columns]
            ).rename_columns([*join_key_columns, *(c for c in columns if c not in join_key_columns)])  # fmt: skip

        return LakeRetrievalJob(evaluate)


def rows_from_sql(lake: Lake, query: str) -> pa.Table:
    """An entity frame from SQL: every dataset of the lake that the query names is a table of that name."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in dict.fromkeys(re.findall(r"[a-z_][a-z0-9_]*", query)):
            if days := lake.partitions(name):
                connection.register(name, lake.read(name, days))
        return connection.sql(query).to_arrow_table()


def _inputs(view: Any, table: pa.Table) -> pa.Table:
    """The columns that an on-demand view reads. Feast would hand it all of them, as lists."""
    names = {f.name for source in view.source_request_sources.values() for f in source.schema}
    for projection in view.source_feature_view_projections.values():
        names |= {n for f in projection.features for n in (f.name, f"{projection.name_to_use()}__{f.name}")}
    return table.select([n for n in table.column_names if n in names])


def _source_rows(config: RepoConfig, source: Any, columns: list[str], time_column: str, start: datetime | None, end: datetime | None) -> pa.Table:
    lake = config.offline_store.open_lake()
    dataset = source.path.removeprefix(LAKE)
    days = lake.between(dataset, start.date().isoformat() if start else "", "9999-12-31")
    if not days:
        raise EntityError(f"{dataset}: nothing materialized from {start} on")
    table = lake.read(dataset, days, _unique(columns))
    us = microseconds(table[time_column])
    low, high = (_us(start) if start else np.iinfo(np.int64).min), (_us(end) if end else np.iinfo(np.int64).max)
    return table.filter(pa.array((us >= low) & (us <= high)))


def _moments(rows: pa.Table, name: str) -> NDArray[np.int64]:
    column = rows[name]
    if not pa.types.is_timestamp(column.type):
        column = pa.chunked_array([pa.array(pd.to_datetime(column.to_pandas(), utc=True), type=pa.timestamp("us", tz="UTC"))])
    if column.null_count:
        raise EntityError(f"{name}: {column.null_count} of {len(column)} rows have no time")
    return microseconds(column)


def _check_key(rows: pa.Table, key: str) -> None:
    if key not in rows.column_names:
        raise EntityError(f"{key}: this key column is missing; there are {', '.join(rows.column_names)}")
    kind = rows[key].type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise EntityError(f"{key}: ids are strings, these are {kind}")


def _arrow_type(dtype: Any) -> pa.DataType:
    return {"Int64": pa.int64(), "Float64": pa.float64()}[str(dtype)]


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _us(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)
