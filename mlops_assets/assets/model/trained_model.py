"""One registered version as of a day, as an asset."""

from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MaterializeResult

from mlops_assets.core.keys import FEATURE_VECTORS, MODEL, RECIPE, TRAINED_MODEL, TRAINING_SET
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import markdown_table
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import as_of_days, before_as_of, run_of
from mlops_assets.models import model_family
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.version_training import train_version

SHOWN_FEATURES = 15


def trained_model_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `trained_model`. It also reads the days after its training, for the drift reference."""
    unseen = (
        [AssetDep(FEATURE_VECTORS, partition_mapping=before_as_of(days))]
        if (days := settings.verdicts.maturity_days)
        else []
    )

    @described(
        case,
        TRAINED_MODEL,
        "One registered version: the evaluation fit, which is measured on the holdout, and the release fit,"
        " which serves, with its policy.",
        group=MODEL,
        kinds={model_family().name, "mlflow"},
        days=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINING_SET, RECIPE, *unseen],
    )
    def trained_model(
        context: AssetExecutionContext,
        lake: LakeResource,
        feature_store: FeatureStoreResource,
        registry: ModelRegistry,
    ) -> MaterializeResult:
        plan, as_of, run = feature_store.plan(case.feature_service), context.partition_key, run_of(context)
        made = train_version(case, lake.open(), registry, settings, plan, as_of, run, context.log)
        importance = sorted(made.model.importance.items(), key=lambda item: -item[1])[:SHOWN_FEATURES]
        return MaterializeResult(
            metadata={
                "version": made.version.version,
                "mlflow_run": made.version.run_id,
                "bundle_digest": made.bundle_digest,
                "record": made.manifest.digest,
                "rounds": made.model.rounds,
                "drift reference": str(made.reference),
                "importance": markdown_table(["feature", "share of gain"], importance),
                **{name: float(value) for name, value in made.model.metrics.items()},
            }
        )

    return trained_model
