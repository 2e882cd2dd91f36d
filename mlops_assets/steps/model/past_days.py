"""Events of past days with their verdicts of today, to measure a version on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from feature_repo.lake.datasets import Lake, MissingPartitions
from mlops_assets.core.judging.past_quality import Scored, known_verdicts, with_verdicts
from mlops_assets.core.keys import FEATURE_VECTORS, VERDICTS
from mlops_assets.core.learning.eligible_rows import event_columns
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated, shift, to_frame
from mlops_assets.steps.model.judge import matrix, split_of
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer


@dataclass(frozen=True)
class PastDays:
    """The latest verdicts of a lake, and the last day whose events are all mature."""

    case: UseCase
    lake: Lake
    known: pd.Series
    mature_until: date

    def events(self, days: Sequence[str], features: Sequence[str]) -> pd.DataFrame:
        """The events that arrived on the days, with the features and the columns of `with_verdicts`."""
        times = ("event_timestamp", "created_timestamp")
        columns = list(dict.fromkeys([*event_columns(self.case), *times, *features]))
        rows = (
            to_frame(read_validated(self.lake, FEATURE_VECTORS, days, columns))
            if days
            else pd.DataFrame(columns=columns)
        )
        return with_verdicts(self.case, rows, self.known, self.mature_until)


def past_days(case: UseCase, lake: Lake, settings: Settings, first: str) -> PastDays:
    """Read the verdicts that became known from the day `first` on.

    Raises `MissingPartitions` where there are no such verdicts.
    """
    days = lake.between(VERDICTS, first, "9999", validated=True)
    if not days:
        raise MissingPartitions(VERDICTS, [first])
    verdicts = to_frame(lake.read(VERDICTS, days, [case.event.id, "event_timestamp", case.labels.name]))
    known = known_verdicts(case, verdicts)
    return PastDays(case, lake, known, split_of(settings, shift(days[-1], 1)).last_mature_day)


@dataclass(frozen=True)
class Judge:
    """A release with its model parsed, for scores of many days."""

    release: Release
    scorer: Scorer

    def score(self, rows: pd.DataFrame) -> Scored:
        """The calibrated scores of the rows, in their order, and the policy of the release."""
        return Scored(self.scorer.score(matrix(rows, self.release.features)), self.release.policy)


def judge_of(release: Release) -> Judge:
    """The release, ready to score."""
    return Judge(release, Scorer(release.model_text, release.calibrator))
