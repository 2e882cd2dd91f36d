"""Events of past days with what is known of them now, for a version that is asked how it would have done."""

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
    """A lake as it stands: the latest verdicts that it has, and the last day whose events all have theirs."""

    case: UseCase
    lake: Lake
    known: pd.Series
    mature_until: date

    def events(self, days: Sequence[str], features: Sequence[str]) -> pd.DataFrame:
        """What arrived on the days, with these features, and the verdicts as `with_verdicts` gives them.

        No days are no rows.
        """
        times = ("event_timestamp", "created_timestamp")
        columns = list(dict.fromkeys([*event_columns(self.case), *times, *features]))
        rows = (
            to_frame(read_validated(self.lake, FEATURE_VECTORS, days, columns))
            if days
            else pd.DataFrame(columns=columns)
        )
        return with_verdicts(self.case, rows, self.known, self.mature_until)


def past_days(case: UseCase, lake: Lake, settings: Settings, first: str) -> PastDays:
    """Read the verdicts that became known from the day `first` on, for all events that arrived since.

    Raises `MissingPartitions` where there are none.
    """
    days = lake.between(VERDICTS, first, "9999", validated=True)
    if not days:
        raise MissingPartitions(VERDICTS, [first])
    verdicts = to_frame(lake.read(VERDICTS, days, [case.event.id, "event_timestamp", case.labels.name]))
    known = known_verdicts(case, verdicts)
    return PastDays(case, lake, known, split_of(settings, shift(days[-1], 1)).last_mature_day)


@dataclass(frozen=True)
class Judge:
    """A release whose model is parsed once, for many days."""

    release: Release
    scorer: Scorer

    def score(self, rows: pd.DataFrame) -> Scored:
        """The calibrated scores of the rows, in their order, with the release's thresholds."""
        return Scored(self.scorer.score(matrix(rows, self.release.features)), self.release.policy)


def judge_of(release: Release) -> Judge:
    """The release, ready to score."""
    return Judge(release, Scorer(release.model_text, release.calibrator))
