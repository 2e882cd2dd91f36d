"""Feast's provider for a store of events: pushed rows and materialized intervals become events of the online state; finished values only where a view
is declared over finished rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.infra.passthrough_provider import PassthroughProvider

from feature_repo.engine.lake import Lake
from feature_repo.engine.online_store import write_values, writing
from feature_repo.engine.plain import is_windowed, plain_from_feast, read_rows, row_times
from feature_repo.engine.plan import ViewPlan, view_from_feast
from feature_repo.engine.pushes import Refusals, good_values, moment_us, push_events, pushed_values
from feature_repo.engine.replay import events_of
from feature_repo.engine.windows import microseconds

AT_ONCE = 1_000  # events in one commit: others wait for the lock meanwhile
EVER = np.iinfo(np.int64)
log = logging.getLogger(__name__)


class LakeProvider(PassthroughProvider):
    def ingest_df(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        self.ingest([feature_view], df)

    async def ingest_df_async(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        self.ingest([feature_view], df)

    def ingest(self, feature_views: Iterable[Any], df: pd.DataFrame) -> None:
        """One frame for some views: raw events for windowed ones, each stream once, and finished values for plain ones.

        Rows that no event or value may be (a number that is NaN or infinite, an id or a time that is missing, a time more than a day ahead) go to
        quarantine and are counted by reason; all others go in. Then `RefusedRows` says how many rows were taken and how many refused, and names the
        first offence. A row counts as refused if any of the views refused it.
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
        """What became known from `start_date` to `end_date`, both included: of a windowed view its events, of a plain one the newest values."""
        start, end = (moment_us(t) for t in (start_date, end_date))
        lake = config.offline_store.open_lake()
        dataset = view_from_feast(feature_view).stream if is_windowed(feature_view) else plain_from_feast(feature_view).dataset
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


def _between(table: pa.Table, us: Any, start: int, end: int) -> pa.Table:
    return table.filter(pa.array((us >= start) & (us <= end)))
