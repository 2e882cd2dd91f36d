"""Feast as assets use it.

Importing Feast takes seconds, so the store is opened when the first step needs it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource

from feature_repo.engine.base import Engine
from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from mlops_assets.core.named_features import check_inputs, check_named, request_fields, stored_columns
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings


class FeatureStoreResource(ConfigurableResource[Any]):
    """The declarations of a use case, with their registry and online state in `home`, over the lake at
    `lake`.

    `declarations` is the package with the Feast objects. `joined_by` maps a join key to the column of the
    scored event that holds it, where the names differ. `named` are the views and features that the use case
    names. `event_keys`, `request`, `stored` and `streams` are the values for `check_inputs`.
    """

    home: str
    lake: str
    declarations: str
    joined_by: dict[str, str]
    named: dict[str, list[str]]
    event_keys: list[str]
    request: list[str]
    stored: dict[str, list[str]]
    streams: dict[str, str]

    def plan(self, service: str) -> FeaturePlan:
        """The plan of a feature service.

        Raises `BadSubject` where the use case names a view or a feature that is not declared, and where a
        feature needs what the use case does not declare.
        """
        joined_by = tuple(sorted(self.joined_by.items()))
        plan = _plan(self.home, self.lake, self.declarations, service, joined_by)
        self._check(plan)
        return plan

    def declared(self, service: str) -> FeaturePlan:
        """The same plan straight from the declarations. Nothing is opened and nothing is written."""
        from feature_repo.store import declared_plan

        plan = declared_plan(self.declarations, service, self.joined_by)
        self._check(plan)
        return plan

    def engine(self, lake: Lake) -> Engine:
        """The engine that computes the features of a lake."""
        from feature_repo.engine.local.engine import LocalEngine

        return LocalEngine(lake)

    def _check(self, plan: FeaturePlan) -> None:
        check_named(self.named, self.declarations, [view.name for view in plan.views], plan.features)
        check_inputs(
            plan,
            self.declarations,
            keys=self.event_keys,
            request=self.request,
            stored=self.stored,
            streams=self.streams,
        )


def feature_store_of(settings: Settings, case: UseCase) -> FeatureStoreResource:
    """The use case's feature store in the platform's home, over its lake."""
    return FeatureStoreResource(
        home=str(settings.home),
        lake=settings.lake_root,
        declarations=case.feast_package,
        joined_by={key.joins: key.name for key in case.event.keys if key.joins != key.name},
        named=case.named_features,
        event_keys=[key.name for key in case.event.keys],
        request=list(request_fields(case)),
        stored={stream: list(columns) for stream, columns in stored_columns(case).items()},
        streams={view.name: view.stream for view in case.views},
    )


@lru_cache(maxsize=4)
def _open(home: str, lake: str, declarations: str) -> Any:
    from feature_repo.store import open_store

    return open_store(Path(home), declarations, lake)


@lru_cache(maxsize=4)
def _plan(
    home: str, lake: str, declarations: str, service: str, joined_by: tuple[tuple[str, str], ...]
) -> FeaturePlan:
    from feature_repo.engine.from_feast import plan_from_feast

    return plan_from_feast(_open(home, lake, declarations), service, dict(joined_by))
