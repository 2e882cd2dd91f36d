"""The recipe of the version as of a day, as an asset."""

from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue

from mlops_assets.core.keys import MODEL, RECIPE, TRAINING_SET
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import markdown_table
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import as_of_days, run_of
from mlops_assets.graph.pictures import as_markdown, png, search_history
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.recipe_search import Searched, write_configured, write_searched

TRIALS_SHOWN = 20


def recipe_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `recipe`, searched where `[tuning]` has trials."""

    @described(
        case,
        RECIPE,
        "How the version of the day is trained: the configured recipe, or the best of as many trials as"
        " [tuning] allows.",
        group=MODEL,
        kinds={"optuna", "mlflow"},
        days=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINING_SET],
    )
    def recipe(
        context: AssetExecutionContext,
        lake: LakeResource,
        feature_store: FeatureStoreResource,
        registry: ModelRegistry,
    ) -> MaterializeResult:
        as_of, opened, configured = context.partition_key, lake.open(), settings.recipe
        if not settings.tuning.trials:
            write_configured(opened, settings, as_of)
            shown = markdown_table(["value", "configured"], vars(configured).items())
            return MaterializeResult(metadata={"tuned": False, "recipe": shown})
        features, run = feature_store.plan(case.feature_service).features, run_of(context)
        found = write_searched(
            case, opened, registry, settings, as_of, features, run, context.log, search_history
        )
        return MaterializeResult(metadata={"tuned": True, **_shown(found), "mlflow_run": found.mlflow_run})

    return recipe


def _shown(found: Searched) -> dict[str, Any]:
    """The study for a person in the UI."""
    study, searched = found.study, list(found.study.configured.searched)
    best, configured = study.best, study.configured
    first = sorted(study.trials, key=lambda trial: (trial.given_up, trial.loss))[:TRIALS_SHOWN]
    return {
        "log loss": best.loss,
        "log loss as configured": configured.loss,
        "folds": ", ".join(f"{fold.first} to {fold.last}" for fold in study.folds),
        "recipe": markdown_table(
            ["value", "chosen", "configured"],
            [(n, v, configured.searched[n]) for n, v in best.searched.items()],
        ),
        "best trials": markdown_table(
            ["trial", "log loss", "folds", *searched],
            [(t.number + 1, f"{t.loss:.5f}", len(t.losses), *t.searched.values()) for t in first],
        ),
        "history": MetadataValue.md(as_markdown("log loss by trial", png(found.picture))),
    }
