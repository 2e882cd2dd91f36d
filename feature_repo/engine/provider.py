"""Feast's provider for a store of events: pushed rows and materialized days become events of the online state, not finished values."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from feast.infra.passthrough_provider import PassthroughProvider
from numpy.typing import NDArray

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.online import load_day
from feature_repo.engine.online_store import open_state
from feature_repo.engine.plan import ViewPlan, view_from_feast

DAY_US = 86_400_000_000
AHEAD_US = DAY_US  # clocks may be a day off; what is further ahead is no event yet


class LakeProvider(PassthroughProvider):
    def ingest_df(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        """Raw events of the view's stream: all of them, or on the first bad one none. Without created_timestamp they were known at once."""
        self._ingest(view_from_feast(feature_view), df)

    async def ingest_df_async(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        self._ingest(view_from_feast(feature_view), df)

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
        """Load the arrival days of the lake from `start_date` to `end_date`."""
        view = view_from_feast(feature_view)
        lake = config.offline_store.open_lake()
        first, last = (d.astimezone(UTC).date().isoformat() for d in (start_date, end_date))
        with open_state(config.online_store.database, [view]) as state:
            for day in lake.between(view.stream, first, last):
                load_day(state, lake, view.stream, day)

    def _ingest(self, view: ViewPlan, df: pd.DataFrame) -> None:
        for name in ("event_timestamp", *view.event_id):
            if name not in df.columns:
                raise BadEvent(name, None)
        event_us = _microseconds(df, "event_timestamp")
        created_us = _microseconds(df, "created_timestamp") if "created_timestamp" in df.columns else event_us
        ahead = np.maximum(event_us, created_us) > time.time_ns() // 1000 + AHEAD_US
        if ahead.any():
            raise BadEvent("event_timestamp", df["event_timestamp"].iloc[int(np.argmax(ahead))])
        rows = df.to_dict("records")
        with open_state(self.repo_config.online_store.database, [view]) as state:
            for row, at, created in zip(rows, event_us.tolist(), created_us.tolist(), strict=True):
                event = {str(name): value for name, value in row.items()}
                state.push(view.stream, state.plan.event_id(view.stream, event, at), event, at, created)


def _microseconds(df: pd.DataFrame, name: str) -> NDArray[np.int64]:
    times = pd.to_datetime(df[name], utc=True)
    if times.isna().any():
        raise BadEvent(name, None)
    return np.asarray(times.astype("datetime64[us, UTC]").astype("int64"), np.int64)
