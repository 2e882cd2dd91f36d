"""The model group, as of a day: training set, recipe, trained version, evaluation, and promotion.

No automation condition starts these assets. A sensor, a person or a backfill asks for them. Each step hands
on an exact version, never "the latest".
"""

from dagster import AssetsDefinition

from mlops_assets.assets.model.evaluation import evaluation_asset
from mlops_assets.assets.model.promoted_version import promoted_version_asset
from mlops_assets.assets.model.recipe import recipe_asset
from mlops_assets.assets.model.trained_model import trained_model_asset
from mlops_assets.assets.model.training_set import training_set_asset
from mlops_assets.assets.model.walk_forward import walk_forward_asset
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings


def model_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    """The assets of the group in the order of a training. The walk-forward is last."""
    makers = (
        training_set_asset,
        recipe_asset,
        trained_model_asset,
        evaluation_asset,
        promoted_version_asset,
        walk_forward_asset,
    )
    return [make(case, settings) for make in makers]
