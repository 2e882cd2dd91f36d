"""The common part of the declarations of all assets."""

from collections.abc import Callable
from typing import Any

from dagster import AssetsDefinition, PartitionsDefinition, asset

from mlops_assets.core.keys import MODEL
from mlops_assets.core.use_case import UseCase


def described(
    case: UseCase,
    name: str,
    description: str,
    *,
    group: str,
    kinds: set[str],
    days: PartitionsDefinition[str] | None = None,
    **more: Any,
) -> Callable[[Callable[..., Any]], AssetsDefinition]:
    """Dagster's `@asset` for an asset of a use case.

    The owner of the use case owns the asset. Assets of the model group with as-of days share a pool, so that
    two trainings never run at once.
    """
    return asset(
        name=name,
        description=description,
        group_name=group,
        owners=[case.owner],
        kinds=kinds,
        partitions_def=days,
        pool=MODEL if group == MODEL and days is not None else None,
        **more,
    )
