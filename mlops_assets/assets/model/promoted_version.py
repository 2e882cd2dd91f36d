"""The version that became champion as of the day. It exists only where the gate agreed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue

from mlops_assets.core.keys import EVALUATION, MODEL, PROMOTED_VERSION
from mlops_assets.core.lifecycle.champions import GATE, Row, kind, moved_to
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import as_of_days, run_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.history_resource import HistoryResource
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.promotion import Lifecycle
from mlops_assets.resources.registry import MODEL_CARD, ModelRegistry


def promoted_version_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `promoted_version`, which has no partition where the gate refused."""

    @described(
        case,
        PROMOTED_VERSION,
        "The version that became champion as of the day. After a refusal by the gate there is none: the run"
        " succeeds, and the champion stays.",
        group=MODEL,
        kinds={"mlflow"},
        days=as_of_days(settings.time.start, settings.time.end),
        deps=[EVALUATION],
        output_required=False,
    )
    def promoted_version(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry, history: HistoryResource
    ) -> Iterator[MaterializeResult]:
        as_of = context.partition_key
        opened = lake.open()
        number = opened.read(EVALUATION, [as_of]).column("version")[0].as_py()
        row = Lifecycle(registry, history.open()).follow_the_gate(
            number, datetime.now(UTC), run_of(context), settings.gate.approval
        )
        context.log.info(
            f"version {number} is {kind(row)}, by {row.get('by', GATE)}: {'; '.join(row['reasons'])}"
        )
        if moved_to(row) != number:
            return
        opened.write(
            PROMOTED_VERSION,
            as_of,
            pa.table({"version": [number], "replaced": pa.array([row["champion"]], pa.string())}),
            validated=True,
        )
        yield MaterializeResult(metadata=_told(row, number, registry))

    return promoted_version


def _told(row: Row, number: str, registry: ModelRegistry) -> dict[str, Any]:
    """The promotion for a person in the UI."""
    return {
        "version": number,
        "replaced": row["champion"] or "none",
        "by": row.get("by", GATE),
        "model card": f"{MODEL_CARD} of the MLflow run {registry.version(number).run_id}",
        "reasons": MetadataValue.md("\n".join(f"- {r}" for r in row["reasons"])),
    }
