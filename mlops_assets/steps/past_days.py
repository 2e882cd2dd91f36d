"""Payments of past days with what is known of them now, for a version that is asked how it would have done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from feature_repo.lake.datasets import Lake, MissingPartitions
from mlops_assets.core.judging.walk_weeks import Scored, known_verdicts, with_verdicts
from mlops_assets.core.keys import FEATURE_VECTORS, VERDICTS
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated, shift, to_frame
from mlops_assets.steps.judge import matrix, split_of
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer

COLUMNS = ("transaction_id", "event_timestamp", "created_timestamp", "customer_id", "merchant_id", "amount")


@dataclass(frozen=True)
class PastDays:
    """A lake as it stands: the latest verdicts that it has, and the last day whose payments all have theirs."""

    lake: Lake
    known: pd.Series
    mature_until: date

    def payments(self, days: Sequence[str], features: Sequence[str]) -> pd.DataFrame:
        """What arrived on the days, with these features, and the verdicts as `with_verdicts` gives them; no
        days are no rows.
        """
        columns = list(dict.fromkeys([*COLUMNS, *features]))
        rows = (
            to_frame(read_validated(self.lake, FEATURE_VECTORS, days, columns))
            if days
            else pd.DataFrame(columns=columns)
        )
        return with_verdicts(rows, self.known, self.mature_until)


def past_days(lake: Lake, settings: Settings, first: str) -> PastDays:
    """Read the verdicts that became known from the day `first` on, once for all the payments that arrived
    since.
    """
    days = lake.between(VERDICTS, first, "9999", validated=True)
    if not days:
        raise MissingPartitions(VERDICTS, [first])
    verdicts = to_frame(lake.read(VERDICTS, days, ["transaction_id", "event_timestamp", "is_fraud"]))
    return PastDays(lake, known_verdicts(verdicts), split_of(settings, shift(days[-1], 1)).last_mature_day)


@dataclass(frozen=True)
class Judge:
    """A release whose model is parsed once, for many days."""

    release: Release
    scorer: Scorer

    def score(self, rows: pd.DataFrame) -> Scored:
        return Scored(self.scorer.score(matrix(rows, self.release.features)), self.release.policy)


def judge_of(release: Release) -> Judge:
    return Judge(release, Scorer(release.model_text, release.calibrator))
