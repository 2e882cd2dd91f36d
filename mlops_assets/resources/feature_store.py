"""Feast as assets use it, opened when the first step needs it: importing Feast takes seconds."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from dagster import ConfigurableResource

from feature_repo.engine.plan import FeaturePlan


class FeatureStoreResource(ConfigurableResource[Any]):
    """The feature repository in feature_repo/, its registry and online state under `home`."""

    home: str

    def historical(self, entities: pd.DataFrame, view: str, features: Sequence[str]) -> pa.Table:
        """Point-in-time values of a view's features for rows of entity keys and `event_timestamp`; rows keep their order and other columns."""
        store = _open(self.home)
        return store.get_historical_features(entity_df=entities, features=[f"{view}:{name}" for name in features]).to_arrow()

    def plan(self, service: str) -> FeaturePlan:
        """The declarations behind a feature service as plain data."""
        return _plan(self.home, service)


@lru_cache(maxsize=4)
def _open(home: str) -> Any:
    from feature_repo.engine.store import open_store

    return open_store(Path(home))


@lru_cache(maxsize=4)
def _plan(home: str, service: str) -> FeaturePlan:
    from feature_repo.engine.plan import plan_from_feast

    return plan_from_feast(_open(home), service)
