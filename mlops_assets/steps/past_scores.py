"""Scores of past days with exact versions, from the same vectors that training reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.judging.walk_weeks import Difference, difference, policies, quality
from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, read_validated, to_frame
from mlops_assets.resources.registry import ModelRegistry, RegistryError, Version
from mlops_assets.steps.judge import matrix
from mlops_assets.steps.past_days import judge_of, past_days
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer

COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "merchant_id", "amount"]


def score_days(lake: Lake, release: Release, first: str, last: str) -> pa.Table:
    """One row a transaction that arrived from `first` to `last`, with its calibrated probability of fraud as
    `fraud_score`.
    """
    vectors = read_validated(
        lake, FEATURE_VECTORS, day_range(first, last), list(dict.fromkeys([*COLUMNS, *release.features]))
    )
    scores = Scorer(release.model_text, release.calibrator).score(matrix(to_frame(vectors), release.features))
    return vectors.select(COLUMNS).append_column("fraud_score", pa.array(scores, pa.float64()))


class NothingKnown(PlatformError, ValueError):
    """No payment of the days has a verdict yet, so that there is nothing to measure on."""


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same payments: `rows` with a verdict, `frauds` of them, and `unknown` without one
    that counts.

    Those `left_out` came late, from days that one of the fits was trained on. By version: the fit that was
    used, its quality, and what each policy would have caught.
    """

    rows: int
    frauds: int
    unknown: int
    left_out: int
    versions: Mapping[str, Mapping[str, Any]]
    difference: Difference


def compare_days(
    lake: Lake,
    settings: Settings,
    registry: ModelRegistry,
    one: Version,
    other: Version,
    first: str,
    last: str,
) -> Comparison:
    """Both versions on the payments that arrived from `first` to `last`, neither on days that it was trained
    on; else `RegistryError`.

    Where no verdict counts yet, `NothingKnown`.
    """
    used = {version.version: _unseen(registry, version, first) for version in (one, other)}
    judges = {number: judge_of(release) for number, (_, release, _) in used.items()}
    features = [name for judge in judges.values() for name in judge.release.features]
    arrived = past_days(lake, settings, first).payments(day_range(first, last), features)
    learnt = pd.Timestamp(max(last_day for _, _, last_day in used.values()))
    rows = arrived[utc_days(arrived["event_timestamp"]) > learnt]
    if not rows["is_fraud"].notna().any():
        raise NothingKnown(f"from {first} to {last}: none of {len(rows):,} payments has a verdict yet")
    scored = {number: judge.score(rows) for number, judge in judges.items()}
    found = difference(rows, scored[one.version].scores, scored[other.version].scores, settings.model.seed)
    return Comparison(
        rows=int(rows["is_fraud"].notna().sum()),
        frauds=int(rows["is_fraud"].sum()),
        unknown=int(rows["is_fraud"].isna().sum()),
        left_out=len(arrived) - len(rows),
        versions={
            number: {
                "fit": used[number][0],
                **asdict(quality(rows, its.scores, settings.model.card_k)),
                "policies": {
                    policy: asdict(amounts) for policy, amounts in policies(rows, its, settings.costs).items()
                },
            }
            for number, its in scored.items()
        },
        difference=found,
    )


def _unseen(registry: ModelRegistry, version: Version, first: str) -> tuple[str, Release, str]:
    """The fit of the version that ended before the day `first`, the release fit where it did, by name, with
    its last day.
    """
    if (last := version.tags["last_day"]) < first:
        return "release", registry.release(version), last
    if (last := version.tags["evaluation_last_day"]) < first:
        return "evaluation", registry.evaluation_fit(version), last
    raise RegistryError(
        f"version {version.version} was trained to {last} even for its evaluation: it has seen {first}; begin"
        f" after {last}"
    )
