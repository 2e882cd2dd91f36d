"""Candidate and champion on the same held-out days, and the verdict of the gate on that exact version."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict

import pyarrow as pa
from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue, asset

from mlops_assets.assets.trained_model import trained_version
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.model_card import Facts, body, model_card
from mlops_assets.core.judging.side_by_side import Evaluation
from mlops_assets.core.keys import EVALUATION, MODEL, TRAINED_MODEL, TRAINING_SET
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import markdown_table, result, warning
from mlops_assets.graph.partitions import as_of_days
from mlops_assets.graph.pictures import as_markdown, pictures
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, read_validated, to_frame
from mlops_assets.resources.registry import ModelRegistry, Version
from mlops_assets.steps.judge import (
    amounts_without_verdict,
    check_same_data,
    flat,
    judge,
    matrix,
    unproven_days,
)


def evaluation_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    days = as_of_days(settings.time.start, settings.time.end)
    gate = warning(
        EVALUATION,
        "gate",
        "The verdict on this exact version, with its reasons; a refusal is a result, and the champion stays.",
        days,
    )

    @asset(
        name=EVALUATION,
        description=(
            "Candidate and champion on the same held-out days, neither on what it was trained on, and the"
            " verdict of the gate."
        ),
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"python"},
        partitions_def=days,
        deps=[TRAINED_MODEL, TRAINING_SET],
        check_specs=[gate],
    )
    def evaluation(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        candidate = registry.version(trained_version(opened, as_of))
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        check_same_data(candidate, opened.manifests(TRAINING_SET, [as_of])[0].digest)
        champion = registry.champion()
        unproven = unproven_days(opened, settings, as_of, champion)
        holdout = rows[rows["fold"] == "holdout"]
        unknown = amounts_without_verdict(opened, settings, as_of, holdout)
        measured, verdict, scores = judge(
            case, settings, rows, candidate, champion, registry, unproven, unknown
        )

        fit = registry.evaluation_fit(candidate)
        shown = pictures(holdout, scores, settings.costs, fit, matrix(holdout, fit.features))
        facts = _facts(case, registry, candidate, champion)
        registry.log_report(candidate, _files(measured, verdict, shown), model_card(facts, measured, verdict))
        metrics = {f"holdout.{k}": v for k, v in flat(measured).items()}
        outcome = {**asdict(verdict), "champion": champion.version if champion else None}
        registry.log_evaluation(candidate, metrics, outcome)
        opened.write(
            EVALUATION,
            as_of,
            pa.table(
                {
                    "version": [candidate.version],
                    "champion": pa.array([champion.version if champion else None], pa.string()),
                    "promote": [verdict.promote],
                    "reasons": pa.array([list(verdict.reasons)], pa.list_(pa.string())),
                }
            ),
            validated=True,
        )
        return MaterializeResult(
            metadata={
                "version": candidate.version,
                "champion": champion.version if champion else "none",
                "measures": markdown_table(["measure", "value"], sorted(flat(measured).items())),
                "slices": _slices(measured),
                **{name: MetadataValue.md(as_markdown(name, png)) for name, png in shown.items()},
                "reasons": MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
                "model card": MetadataValue.md(body(facts, measured, verdict)),
            },
            check_results=[
                result(
                    gate,
                    verdict.promote,
                    {"version": candidate.version, "reasons": "; ".join(verdict.reasons)},
                )
            ],
        )

    return evaluation


def _facts(case: UseCase, registry: ModelRegistry, candidate: Version, champion: Version | None) -> Facts:
    release = registry.release(candidate)
    return Facts(
        use_case=case.name,
        description=case.description,
        owner=case.owner,
        version=candidate.version,
        run_id=candidate.run_id,
        champion=champion.version if champion else None,
        tags=candidate.tags,
        record=asdict(registry.record(candidate)),
        features=release.features,
        review=release.policy.review,
        block=release.policy.block,
    )


SLICE_COLUMNS = (
    "slice",
    "rows",
    "frauds",
    "average precision",
    "of the reference",
    "difference",
    "from",
    "to",
)


def _slice_rows(measured: Evaluation) -> list[tuple[object, ...]]:
    """By SLICE_COLUMNS; `from` and `to` hold 90 % of the resampled differences."""
    return [
        (
            s.name,
            s.rows,
            s.positives,
            s.candidate,
            s.reference,
            s.difference,
            *((s.bound(q) for q in (0.05, 0.95)) if s.bootstrap else (None, None)),
        )
        for s in measured.slices
    ]


def _slices(measured: Evaluation) -> MetadataValue:
    header = [
        f"of the {measured.reference}" if name == "of the reference" else name for name in SLICE_COLUMNS
    ]
    return markdown_table(
        header, [["–" if value is None else value for value in row] for row in _slice_rows(measured)]
    )


def _files(measured: Evaluation, verdict: Verdict, shown: Mapping[str, bytes]) -> dict[str, bytes]:
    """What lies beside the model in MLflow: the figures whole, the slices for a spreadsheet, the pictures."""
    table = io.StringIO()
    csv.writer(table).writerows([SLICE_COLUMNS, *_slice_rows(measured)])
    whole = json.dumps(
        {"evaluation": measured.to_dict(), "verdict": asdict(verdict)}, indent=1, allow_nan=False
    )
    images = {f"{name.replace(' ', '_')}.png": png for name, png in shown.items()}
    return {"evaluation.json": whole.encode(), "slices.csv": table.getvalue().encode(), **images}
