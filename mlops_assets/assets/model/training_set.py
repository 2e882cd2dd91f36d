"""The training set as of a day: mature events with their latest verdict, in a training fold and a holdout."""

from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MaterializeResult

from mlops_assets.core.keys import (
    DATA_DRIFT,
    FEATURE_PARITY,
    FEATURE_VECTORS,
    MODEL,
    PREDICTION_DRIFT,
    TRAINING_SET,
    VERDICTS,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.graph.checks import blocking, content, markdown_table, result
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import as_of_days, before_as_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource
from mlops_assets.steps.model.training_rows import write_training_set


def training_set_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `training_set`, downstream of its inputs and of the reports that ask for a retraining."""
    days, words = as_of_days(settings.time.start, settings.time.end), Words.of(case)
    enough = blocking(
        TRAINING_SET,
        "enough_positives",
        f"Both folds hold enough {words.positives} for training and for measurement.",
        days,
    )
    reach = settings.model.train_days + settings.verdicts.maturity_days + 1
    inputs = [AssetDep(name, partition_mapping=before_as_of(reach)) for name in (FEATURE_VECTORS, VERDICTS)]
    # The reports are no arguments. They show in the lineage what asked for a retraining.
    lineage = [
        AssetDep(name, partition_mapping=before_as_of(1))
        for name in (DATA_DRIFT, PREDICTION_DRIFT, FEATURE_PARITY)
    ]

    @described(
        case,
        TRAINING_SET,
        f"Mature {words.events} with their latest verdict as of the day, in a training fold and a holdout of"
        " the last mature days.",
        group=MODEL,
        kinds={"parquet"},
        days=days,
        deps=[*inputs, *lineage],
        check_specs=[enough],
    )
    def training_set(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> MaterializeResult:
        features = feature_store.plan(case.feature_service).features
        made = write_training_set(case, lake.open(), settings, context.partition_key, features)
        return MaterializeResult(
            metadata={
                **content([made.manifest]),
                "train rows": made.rows["train"],
                "days left out": ", ".join(made.left_out) or "none",
                "holdout rows": made.rows["holdout"],
                "by day": markdown_table(["day", words.events, words.positives], made.by_day),
            },
            check_results=[
                result(enough, made.enough, {**made.positives, "required": settings.gate.min_positives})
            ],
        )

    return training_set
