"""Candidate and champion on the same held-out days, and the verdict of the gate on that exact version."""

from collections.abc import Mapping
from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.reporting.model_card import body
from mlops_assets.core.keys import EVALUATION, MODEL, TRAINED_MODEL, TRAINING_SET
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import markdown_table, result, warning
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import as_of_days
from mlops_assets.graph.pictures import as_markdown, pictures
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.judge import flat
from mlops_assets.steps.model.version_evaluation import (
    Judged,
    judge_version,
    put_on_record,
    slice_columns,
    slice_rows,
)


def evaluation_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `evaluation`, with the verdict of the gate as a check."""
    days = as_of_days(settings.time.start, settings.time.end)
    gate = warning(
        EVALUATION,
        "gate",
        "The verdict on this exact version, with its reasons. After a refusal the champion stays.",
        days,
    )

    @described(
        case,
        EVALUATION,
        "Candidate and champion on the same held-out days, which neither was trained on, and the verdict of"
        " the gate.",
        group=MODEL,
        kinds={"python"},
        days=days,
        deps=[TRAINED_MODEL, TRAINING_SET],
        check_specs=[gate],
    )
    def evaluation(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        opened, as_of = lake.open(), context.partition_key
        judged = judge_version(case, opened, registry, settings, as_of)
        shown = pictures(
            case,
            judged.holdout,
            judged.scores,
            AppliedCosts.of(case, settings.costs),
            judged.fit.features,
            judged.explained,
            judged.contributions,
        )
        put_on_record(opened, registry, as_of, judged, shown)
        verdict = judged.verdict
        told = {"version": judged.candidate.version, "reasons": "; ".join(verdict.reasons)}
        return MaterializeResult(
            metadata=_told(judged, shown), check_results=[result(gate, verdict.promote, told)]
        )

    return evaluation


def _told(judged: Judged, shown: Mapping[str, bytes]) -> dict[str, Any]:
    """The evaluation for a person in the UI."""
    measured, verdict = judged.evaluation, judged.verdict
    header = [
        f"of the {measured.reference}" if name == "of the reference" else name
        for name in slice_columns(judged.facts.words)
    ]
    slices = [["–" if value is None else value for value in row] for row in slice_rows(measured)]
    return {
        "version": judged.candidate.version,
        "champion": judged.champion_number or "none",
        "measures": markdown_table(["measure", "value"], sorted(flat(measured).items())),
        "slices": markdown_table(header, slices),
        **{name: MetadataValue.md(as_markdown(name, png)) for name, png in shown.items()},
        "reasons": MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
        "model card": MetadataValue.md(body(judged.facts, measured, verdict)),
    }
