"""Feast as assets use it, opened when the first step needs it: importing Feast takes seconds."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.resources.environments import Settings


class FeatureStoreResource(ConfigurableResource[Any]):
    """The feature repository in feature_repo/, its registry and online state under `home`, over the lake at
    `lake`.
    """

    home: str
    lake: str

    def plan(self, service: str) -> FeaturePlan:
        """The declarations behind a feature service as plain data."""
        return _plan(self.home, self.lake, service)


def feature_store_of(settings: Settings) -> FeatureStoreResource:
    """The feature store of the platform's home and lake."""
    return FeatureStoreResource(home=str(settings.home), lake=settings.lake_root)


@lru_cache(maxsize=4)
def _open(home: str, lake: str) -> Any:
    from feature_repo.store import open_store

    return open_store(Path(home), lake)


@lru_cache(maxsize=4)
def _plan(home: str, lake: str, service: str) -> FeaturePlan:
    from feature_repo.engine.plan import plan_from_feast

    return plan_from_feast(_open(home, lake), service)
