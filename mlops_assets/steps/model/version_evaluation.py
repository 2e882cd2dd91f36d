"""The evaluation of the version as of a day: measured, judged, and recorded in MLflow and in the lake."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.reporting.model_card import model_card
from mlops_assets.core.judging.reporting.version_facts import Facts
from mlops_assets.core.keys import EVALUATION, TRAINING_SET
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.models import model_family
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated, to_frame
from mlops_assets.resources.registry import ModelRegistry, Version
from mlops_assets.steps.model.judge import (
    check_same_data,
    flat,
    judge,
    matrix,
    unproven_days,
    values_without_verdict,
)
from mlops_assets.steps.model.version_training import trained_version
from serving.contract.bundle import Release

# Exact contributions take a millisecond for a row and a hundred trees. Their means need no more rows.
EXPLAINED_ROWS = 1_000


@dataclass(frozen=True)
class Judged:
    """A version with its evaluation and verdict.

    `scores` are the scores on `holdout`, of the candidate and its reference. `fit` is the measured fit.
    `explained` are evenly spread rows of its input, and `contributions` those of each feature to their
    log-odds, both [rows, features].
    """

    candidate: Version
    champion: Version | None
    evaluation: Evaluation
    verdict: Verdict
    holdout: pd.DataFrame
    scores: Mapping[str, npt.NDArray[np.float64]]
    fit: Release
    explained: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float64]
    facts: Facts

    @property
    def champion_number(self) -> str | None:
        """The version that served when the candidate was judged."""
        return self.champion.version if self.champion else None


def judge_version(
    case: UseCase, lake: Lake, registry: ModelRegistry, settings: Settings, as_of: str
) -> Judged:
    """Measure the version of the day on the holdout of its own training set, and let the gate decide."""
    candidate = registry.version(trained_version(lake, as_of))
    rows = to_frame(read_validated(lake, TRAINING_SET, [as_of]))
    check_same_data(candidate, lake.manifests(TRAINING_SET, [as_of])[0].digest)
    champion = registry.champion()
    unproven = unproven_days(lake, settings, as_of, champion)
    holdout = rows[rows["fold"] == "holdout"]
    unknown = values_without_verdict(case, lake, settings, as_of, holdout)
    measured, verdict, scores = judge(case, settings, rows, candidate, champion, registry, unproven, unknown)
    fit = registry.evaluation_fit(candidate)
    spread = matrix(holdout, fit.features)
    spread = spread[:: max(1, -(-len(spread) // EXPLAINED_ROWS))]
    return Judged(
        candidate,
        champion,
        measured,
        verdict,
        holdout,
        scores,
        fit,
        spread,
        model_family().contributions(fit, spread),
        _facts(case, registry, candidate, champion),
    )


def put_on_record(
    lake: Lake, registry: ModelRegistry, as_of: str, judged: Judged, pictures: Mapping[str, bytes]
) -> None:
    """Log figures, pictures and model card in MLflow, and the verdict in MLflow and in the lake."""
    candidate, verdict = judged.candidate, judged.verdict
    card = model_card(judged.facts, judged.evaluation, verdict)
    registry.log_report(candidate, _files(judged, pictures), card)
    metrics = {f"holdout.{k}": v for k, v in flat(judged.evaluation).items()}
    registry.log_evaluation(candidate, metrics, {**asdict(verdict), "champion": judged.champion_number})
    lake.write(
        EVALUATION,
        as_of,
        pa.table(
            {
                "version": [candidate.version],
                "champion": pa.array([judged.champion_number], pa.string()),
                "promote": [verdict.promote],
                "reasons": pa.array([list(verdict.reasons)], pa.list_(pa.string())),
            }
        ),
        validated=True,
    )


def slice_columns(words: Words) -> tuple[str, ...]:
    """The header of `slice_rows`."""
    return (
        "slice",
        "rows",
        words.positives,
        "average precision",
        "of the reference",
        "difference",
        "from",
        "to",
    )


def slice_rows(measured: Evaluation) -> list[tuple[object, ...]]:
    """A row for each slice, by `slice_columns`.

    `from` and `to` contain 90 % of the resampled differences.
    """
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


def _facts(case: UseCase, registry: ModelRegistry, candidate: Version, champion: Version | None) -> Facts:
    release, family = registry.release(candidate), model_family()
    return Facts(
        subject=case.subject,
        library=family.name,
        made_by=family.description,
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


def _files(judged: Judged, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of the evaluation in MLflow: all figures, the slices for a spreadsheet, and the pictures."""
    measured = judged.evaluation
    table = io.StringIO()
    csv.writer(table).writerows([slice_columns(judged.facts.words), *slice_rows(measured)])
    whole = json.dumps(
        {"evaluation": measured.to_dict(), "verdict": asdict(judged.verdict)}, indent=1, allow_nan=False
    )
    images = {f"{name.replace(' ', '_')}.png": png for name, png in pictures.items()}
    return {"evaluation.json": whole.encode(), "slices.csv": table.getvalue().encode(), **images}
