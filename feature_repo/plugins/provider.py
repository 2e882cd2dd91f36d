"""Feast's provider for a store of events.

Pushed rows and materialized intervals become events of the online state. They become finished values only
where a view is declared over finished rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.infra.passthrough_provider import PassthroughProvider
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

from feature_repo.engine.columns import microseconds
from feature_repo.engine.from_feast import is_windowed, view_from_feast
from feature_repo.engine.local.materialized_views import materialized_from_feast, read_rows, row_times
from feature_repo.engine.plan import ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.lake_events import events_of
from feature_repo.plugins.cells import id_or_null
from feature_repo.plugins.finished_rows import good_values, pushed_values
from feature_repo.plugins.online_store import write_values, writing
from feature_repo.plugins.pushes import nullable_keys, push_events
from feature_repo.plugins.refusals import Refusals
from feature_repo.times import to_us

AT_ONCE = 1_000  # Events in one commit. Other writers wait for the lock meanwhile.
EVER = np.iinfo(np.int64)
log = logging.getLogger(__name__)


class LakeProvider(PassthroughProvider):
    """The provider that `feature_store.yaml` names."""

    def get_online_features(
        self,
        config: Any,
        features: Any,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> Any:
        """Feast's answer, with ids as text. Feast would look for 654.0 by the text that Python prints.

        None and NaN are a null key, which has an empty history. Raises `NotAnId` for any other value that is
        no id, with its column and row.
        """
        asked = _with_text_ids(entity_rows, _id_names(features, registry, project))
        return super().get_online_features(
            config,
            features,
            asked,
            registry,
            project,
            full_feature_names,
            include_feature_view_version_metadata,
        )

    def ingest_df(
        self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> None:
        """Take a frame for one view, as `ingest` does."""
        self.ingest([feature_view], df)

    async def ingest_df_async(
        self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> None:
        """`ingest_df`, for callers that await it."""
        self.ingest([feature_view], df)

    def ingest(self, feature_views: Iterable[Any], df: pd.DataFrame) -> None:
        """Take one frame for some views: raw events for windowed views, finished values for materialized
        views.

        Each stream takes an event once. Bad rows go to quarantine and are counted by reason: a number that is
        NaN or infinite, a missing id or time, a time more than a day ahead. All other rows are taken.
        `RefusedRows` is raised afterwards where a row was refused. It says how many rows were taken and
        refused, and names the first offence. A row counts as refused if any view refused it.
        """
        database = self.repo_config.online_store.database
        refusals = Refusals(len(df))
        streams: dict[str, list[tuple[ViewPlan, Any]]] = {}
        for view in sorted(feature_views, key=lambda v: v.name):
            if is_windowed(view):
                plan = view_from_feast(view)
                streams.setdefault(plan.stream, []).append((plan, view))
            else:
                materialized = materialized_from_feast(view)
                write_values(
                    self.repo_config, view.name, pushed_values(view, materialized, df, refusals), refusals
                )
        for stream, both in streams.items():
            with writing(database, [plan for plan, _ in both]) as state:
                push_events(state, stream, df, refusals, nullable_keys(view for _, view in both))
                refusals.keep(state, stream)
        refusals.tell()

    def materialize_single_feature_view(
        self,
        config: Any,
        feature_view: Any,
        start_date: datetime,
        end_date: datetime,
        registry: Any,
        project: str,
        tqdm_builder: Any,
        disable_event_timestamp: bool = False,
    ) -> None:
        """Copy what became known from `start_date` to `end_date`, both included, from the lake to the online
        store.

        A windowed view gets its events, a materialized view its newest values.
        """
        start, end = to_us(start_date), to_us(end_date)
        lake = config.offline_store.open_lake()
        dataset = (
            view_from_feast(feature_view).stream
            if is_windowed(feature_view)
            else materialized_from_feast(feature_view).dataset
        )
        first = "" if disable_event_timestamp else start_date.astimezone(UTC).date().isoformat()
        for day in lake.between(dataset, first, end_date.astimezone(UTC).date().isoformat(), validated=True):
            load = self._load_events if is_windowed(feature_view) else self._load_values
            load(feature_view, lake, day, EVER.min if disable_event_timestamp else start, end)

    def _load_events(self, feature_view: Any, lake: Lake, day: str, start: int, end: int) -> None:
        view = view_from_feast(feature_view)
        table = lake.read(view.stream, [day])
        table = _between(table, microseconds(table["created_timestamp"]), start, end)
        with writing(self.repo_config.online_store.database, [view]) as state:
            events = events_of(state.plan, view.stream, state.columns(view.stream), table)
            state.load(view.stream, islice(events, AT_ONCE))
        while batch := list(islice(events, AT_ONCE)):
            with writing(self.repo_config.online_store.database, [view]) as state:
                state.load(view.stream, batch)

    def _load_values(self, feature_view: Any, lake: Lake, day: str, start: int, end: int) -> None:
        """Refused rows are counted and logged. An error would hold up all later intervals."""
        materialized = materialized_from_feast(feature_view)
        rows = read_rows(lake, materialized, [day])
        rows = _between(rows, row_times(materialized, rows)[1], start, end)
        refusals = Refusals(rows.num_rows)
        good = good_values(feature_view, materialized, rows, refusals)
        write_values(self.repo_config, feature_view.name, good, refusals)
        if refusals.offences:
            log.warning("%s, %s: %s", feature_view.name, day, refusals.summary)


def _id_names(features: Any, registry: Any, project: str) -> set[str]:
    """The names that ids may have in an entity row: entity, join key, or the name in a feature service."""
    entities = registry.list_entities(project, allow_cache=True)
    renamed = (
        name for p in getattr(features, "feature_view_projections", ()) for name in p.join_key_map.values()
    )
    return {name for entity in entities for name in (entity.name, entity.join_key)}.union(renamed)


def _with_text_ids(rows: Any, names: set[str]) -> Any:
    """Entity rows, or columns of them, with every id as text or None.

    `NotAnId` names the column and the row.
    """
    if isinstance(rows, list):
        return [
            {name: _text_id(name, i, value) if name in names else value for name, value in row.items()}
            for i, row in enumerate(rows)
        ]
    if isinstance(rows, Mapping):
        return {name: _text_ids(name, values) if name in names else values for name, values in rows.items()}
    return rows


def _text_ids(name: str, values: Any) -> Any:
    if isinstance(values, RepeatedValue):
        return RepeatedValue(val=_text_ids(name, values.val))
    return [_text_id(name, i, value) for i, value in enumerate(values)]


def _text_id(name: str, row: int, value: Any) -> Any:
    """One id as text. An id in Feast's own form keeps that form."""
    if isinstance(value, Value):
        kind = value.WhichOneof("val")
        held = None if kind in (None, "null_val") else getattr(value, kind)
        text = id_or_null(held, name, row)
        return Value() if text is None else Value(string_val=text)
    return id_or_null(value, name, row)


def _between(table: pa.Table, us: Any, start: int, end: int) -> pa.Table:
    return table.filter(pa.array((us >= start) & (us <= end)))
