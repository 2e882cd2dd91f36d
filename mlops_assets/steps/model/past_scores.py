"""Scores of past days by exact versions, from the vectors that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.past_quality import (
    PrecisionDifference,
    difference,
    policies,
    quality,
)
from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.core.learning.eligible_rows import event_columns
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words, as_column
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, read_validated, to_frame
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.resources.registry_records import RegistryError, Version
from mlops_assets.steps.model.judge import matrix
from mlops_assets.steps.model.past_days import judge_of, past_days
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer


def score_days(case: UseCase, lake: Lake, release: Release, first: str, last: str) -> pa.Table:
    """A row for each event that arrived from `first` to `last`, with its calibrated score."""
    name, *others = event_columns(case)
    told = [name, "event_timestamp", *others]
    vectors = read_validated(
        lake, FEATURE_VECTORS, day_range(first, last), list(dict.fromkeys([*told, *release.features]))
    )
    scores = Scorer(release.model_text, release.calibrator).score(matrix(to_frame(vectors), release.features))
    return vectors.select(told).append_column(case.score, pa.array(scores, pa.float64()))


class NothingKnown(PlatformError, ValueError):
    """No event of the days has a verdict yet, so nothing can be measured."""


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same events.

    `rows` events have a verdict, `positives` of them a positive one. `unknown` events have no verdict that
    counts. `left_out` events came late, from days that one of the fits was trained on. `versions` has, by
    version, the measured fit, its quality, and the results of each policy.
    """

    rows: int
    positives: int
    unknown: int
    left_out: int
    versions: Mapping[str, Mapping[str, Any]]
    difference: PrecisionDifference

    def to_dict(self, case: UseCase) -> dict[str, Any]:
        """The values for JSON, with the use case's word for positives."""
        return {
            "rows": self.rows,
            as_column(Words.of(case).positives): self.positives,
            "unknown": self.unknown,
            "left_out": self.left_out,
            "versions": {number: dict(side) for number, side in self.versions.items()},
            "difference": self.difference.to_dict(),
        }


def compare_days(
    case: UseCase,
    lake: Lake,
    settings: Settings,
    registry: ModelRegistry,
    one: Version,
    other: Version,
    first: str,
    last: str,
) -> Comparison:
    """Compare two versions on the events that arrived from `first` to `last`.

    No version is measured on days that it was trained on. Raises `RegistryError` where both fits of a version
    have seen the days, and `NothingKnown` where no verdict counts yet.
    """
    used = {version.version: _unseen(registry, version, first) for version in (one, other)}
    judges = {number: judge_of(release) for number, (_, release, _) in used.items()}
    features = [name for judge in judges.values() for name in judge.release.features]
    arrived = past_days(case, lake, settings, first).events(day_range(first, last), features)
    learnt = pd.Timestamp(max(last_day for _, _, last_day in used.values()))
    rows = arrived[utc_days(arrived["event_timestamp"]) > learnt]
    verdicts, costs, events = (
        rows[case.labels.name],
        AppliedCosts.of(case, settings.costs),
        Words.of(case).events,
    )
    if not verdicts.notna().any():
        raise NothingKnown(f"from {first} to {last}: none of {len(rows):,} {events} has a verdict yet")
    scored = {number: judge.score(rows) for number, judge in judges.items()}
    found = difference(
        case, rows, scored[one.version].scores, scored[other.version].scores, settings.model.seed
    )
    return Comparison(
        rows=int(verdicts.notna().sum()),
        positives=int(verdicts.sum()),
        unknown=int(verdicts.isna().sum()),
        left_out=len(arrived) - len(rows),
        versions={
            number: {
                "fit": used[number][0],
                **quality(case, rows, its.scores, settings.model.precision_k).stored(case),
                "policies": {
                    policy: one_policy.stored(case)
                    for policy, one_policy in policies(case, rows, its, costs).items()
                },
            }
            for number, its in scored.items()
        },
        difference=found,
    )


def _unseen(registry: ModelRegistry, version: Version, first: str) -> tuple[str, Release, str]:
    """A fit of the version that has not seen the day `first`: its name, the fit, and its last day.

    The release fit is preferred.
    """
    if (last := version.tags["last_day"]) < first:
        return "release", registry.release(version), last
    if (last := version.tags["evaluation_last_day"]) < first:
        return "evaluation", registry.evaluation_fit(version), last
    raise RegistryError(
        f"version {version.version} was trained to {last} even for its evaluation: it has seen {first}; begin"
        f" after {last}"
    )
