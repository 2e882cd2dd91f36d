"""The asset that compares each served vector with the offline vector: training/serving skew as a number."""

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
)

from mlops_assets.core.keys import FEATURE_PARITY, FEATURE_VECTORS, MONITORING, PREDICTION_LOG
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import content, markdown_table, result, warning
from mlops_assets.graph.headers import described
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.serving_log import ServingLogResource
from mlops_assets.steps.monitoring.served_vectors import rows_schema, write_parity


def feature_parity_asset(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    """The asset `feature_parity`, with the check that a promotion relies on."""
    parity = warning(
        FEATURE_PARITY,
        "no_unexplained_mismatch",
        "Every served vector equals the vector that training reads, or the difference is explained by events"
        " that were committed after the decision.",
        days,
    )

    @described(
        case,
        FEATURE_PARITY,
        "Each served vector against the vector that is computed from the lake: training/serving skew as a"
        " number.",
        group=MONITORING,
        kinds={"parquet"},
        days=days,
        deps=[PREDICTION_LOG, FEATURE_VECTORS],
        check_specs=[parity],
    )
    def feature_parity(
        context: AssetExecutionContext,
        lake: LakeResource,
        feature_store: FeatureStoreResource,
        serving_log: ServingLogResource,
    ) -> MaterializeResult:
        plan, day = feature_store.plan(case.feature_service), context.partition_key
        made = write_parity(case, lake.open(), serving_log.open(), settings, plan, day)
        rows = [tuple(row.values()) for row in made.examples]
        told = {**made.numbers, "examples": str(list(made.examples[:3]))}
        return MaterializeResult(
            metadata={
                **content([made.manifest]),
                **made.numbers,
                "examples": markdown_table(rows_schema(case).names, rows),
            },
            check_results=[result(parity, made.found.clean, told)],
        )

    return feature_parity
