"""Feast's provider for a store of events: pushed rows and materialized intervals become events of the online
state; finished values only where a view is declared over finished rows.
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

from feature_repo.engine.ids import id_texts
from feature_repo.engine.local.materialized_views import is_windowed, plain_from_feast, read_rows, row_times
from feature_repo.engine.local.windows import microseconds
from feature_repo.engine.plan import ViewPlan, view_from_feast
from feature_repo.lake.datasets import Lake
from feature_repo.online.lake_events import events_of
from feature_repo.plugins.online_store import write_values, writing
from feature_repo.plugins.pushes import Refusals, good_values, moment_us, push_events, pushed_values

AT_ONCE = 1_000  # events in one commit: others wait for the lock meanwhile
EVER = np.iinfo(np.int64)
log = logging.getLogger(__name__)


class LakeProvider(PassthroughProvider):
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
        """Numbers that stand for ids become text here.

        Feast would ask for `654.0` by the text that Python prints.
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
        self.ingest([feature_view], df)

    async def ingest_df_async(
        self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> None:
        self.ingest([feature_view], df)

    def ingest(self, feature_views: Iterable[Any], df: pd.DataFrame) -> None:
        """One frame for some views: raw events for windowed ones, each stream once, and finished values for
        plain ones.

        Rows that no event or value may be (a number that is NaN or infinite, an id or a time that is missing,
        a time more than a day ahead) go to quarantine and are counted by reason; all others go in. Then
        `RefusedRows` says how many rows were taken and how many refused, and names the first offence. A row
        counts as refused if any of the views refused it.
        """
        database = self.repo_config.online_store.database
        refusals = Refusals(len(df))
        streams: dict[str, list[ViewPlan]] = {}
        for view in sorted(feature_views, key=lambda v: v.name):
            if is_windowed(view):
                plan = view_from_feast(view)
                streams.setdefault(plan.stream, []).append(plan)
            else:
                plain = plain_from_feast(view)
                write_values(self.repo_config, view.name, pushed_values(view, plain, df, refusals), refusals)
        for stream, views in streams.items():
            with writing(database, views) as state:
                push_events(state, views, df, refusals)
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
        """What became known from `start_date` to `end_date`, both included: of a windowed view its events, of
        a plain one the newest values.
        """
        start, end = (moment_us(t) for t in (start_date, end_date))
        lake = config.offline_store.open_lake()
        dataset = (
            view_from_feast(feature_view).stream
            if is_windowed(feature_view)
            else plain_from_feast(feature_view).dataset
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
        """Rows that are refused are counted and logged: they must not hold up the intervals to come."""
        plain = plain_from_feast(feature_view)
        rows = read_rows(lake, plain, [day])
        rows = _between(rows, row_times(plain, rows)[1], start, end)
        refusals = Refusals(rows.num_rows)
        good = good_values(feature_view, plain, rows, refusals)
        write_values(self.repo_config, feature_view.name, good, refusals)
        if refusals.offences:
            log.warning("%s, %s: %s", feature_view.name, day, refusals.summary)


def _id_names(features: Any, registry: Any, project: str) -> set[str]:
    """What ids may be called in an entity row: by the entity, its join key, or what a feature service renames
    it to.
    """
    entities = registry.list_entities(project, allow_cache=True)
    renamed = (
        name for p in getattr(features, "feature_view_projections", ()) for name in p.join_key_map.values()
    )
    return {name for entity in entities for name in (entity.name, entity.join_key)}.union(renamed)


def _with_text_ids(rows: Any, names: set[str]) -> Any:
    """Entity rows, or columns of them, with every id as text. `NotAnId` names the column and the row."""
    if isinstance(rows, list):
        columns = {
            name: id_texts(name, [row.get(name) for row in rows])
            for name in names
            if any(name in row for row in rows)
        }
        return [
            {name: columns[name][i] if name in columns else value for name, value in row.items()}
            for i, row in enumerate(rows)
        ]
    if isinstance(rows, Mapping):
        return {name: _text_ids(name, values) if name in names else values for name, values in rows.items()}
    return rows


def _text_ids(name: str, values: Any) -> Any:
    if isinstance(values, RepeatedValue):
        return RepeatedValue(val=_text_ids(name, values.val))
    given = list(values)
    plain = id_texts(
        name, [getattr(v, v.WhichOneof("val") or "", None) if isinstance(v, Value) else v for v in given]
    )
    return [
        Value(string_val=text) if isinstance(v, Value) else text for v, text in zip(given, plain, strict=True)
    ]


def _between(table: pa.Table, us: Any, start: int, end: int) -> pa.Table:
    return table.filter(pa.array((us >= start) & (us <= end)))
