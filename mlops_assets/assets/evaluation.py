"""Candidate and champion on the same held-out days, and the verdict of the gate on that exact version."""

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)

from mlops_assets.assets.judging import check_same_data, flat, judge, unproven_days
from mlops_assets.assets.trained_model import trained_version
from mlops_assets.checks import markdown_table, result, warning
from mlops_assets.core.use_case import UseCase
from mlops_assets.keys import (
    EVALUATION,
    MODEL,
    TRAINED_MODEL,
    TRAINING_SET,
)
from mlops_assets.partitions import as_of_days
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, read_validated, to_frame
from mlops_assets.resources.registry import ModelRegistry


def evaluation_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    gate = warning(EVALUATION, "gate", "The verdict on this exact version, with its reasons; a refusal is a result, and the champion stays.")

    @asset(
        name=EVALUATION,
        description="Candidate and champion on the same held-out days, neither on what it was trained on, and the verdict of the gate.",
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"python"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINED_MODEL, TRAINING_SET],
        check_specs=[gate],
    )
    def evaluation(context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        candidate = registry.version(trained_version(opened, as_of))
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        check_same_data(candidate, opened.manifests(TRAINING_SET, [as_of])[0].digest)
        champion = registry.champion()
        unproven = unproven_days(opened, settings, as_of, champion)
        measured, verdict, scores = judge(case, settings, rows, candidate, champion, registry, unproven)
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
                "slices": markdown_table(
                    ["slice", "rows", "frauds", "average precision", f"of the {measured.reference}"],
                    [(s.name, s.rows, s.positives, *("undefined" if v is None else v for v in (s.candidate, s.reference))) for s in measured.slices],
                ),
                "precision and recall": _picture(rows.loc[rows["fold"] == "holdout", "is_fraud"].to_numpy(bool), scores),
                "reasons": MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
            },
            check_results=[result(gate, verdict.promote, {"version": candidate.version, "reasons": "; ".join(verdict.reasons)})],
        )

    return evaluation


def _picture(is_fraud: npt.NDArray[np.bool_], scores: Mapping[str, npt.NDArray[np.float64]]) -> MetadataValue:
    """Precision over recall on the holdout, small enough for the UI."""
    if not is_fraud.any() or not all(np.isfinite(values).all() for values in scores.values()):
        return MetadataValue.md("undefined on this holdout")
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(4.5, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name, values in scores.items():
        precision, recall, _ = precision_recall_curve(is_fraud, values)
        axes.plot(recall, precision, label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    figure.savefig(image := io.BytesIO(), format="png")
    return MetadataValue.md(f"![precision and recall](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})")
