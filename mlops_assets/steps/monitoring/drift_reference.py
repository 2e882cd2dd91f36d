"""The drift reference of a version: events of days that a fit did not see, with the scores of that fit.

The drift reports and the guard compare served events with it. A fit scores its training rows differently from
other rows, and two fits of one recipe give different scores. References of these kinds would show differences
that are no drift.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.core.learning.fits import TrainedModel
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, read_validated, shift, to_frame, to_table
from mlops_assets.steps.model.judge import matrix, split_of
from mlops_assets.steps.model.training_rows import broken_days
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer

RELEASE_FIT, EVALUATION_FIT = "release", "evaluation"  # the fit that gave the scores of a reference
MOST_ROWS = 5_000  # A PSI over ten bins is stable from a few thousand rows.


@dataclass(frozen=True)
class DriftReference:
    """The events of a reference in the order of time, with the value column, the features and the score.

    `fit` is the fit that gave the scores. `first` and `last` are days of events (UTC). `events` is the word
    for the events.
    """

    table: pa.Table
    fit: str
    first: str
    last: str
    events: str

    @property
    def facts(self) -> dict[str, object]:
        """The facts in the bundle."""
        return {"fit": self.fit, "first": self.first, "last": self.last, "rows": self.table.num_rows}

    def __str__(self) -> str:
        return (
            f"{self.table.num_rows:,} {self.events} from {self.first} to {self.last}, scored by the"
            f" {self.fit} fit"
        )


def release_reference(
    case: UseCase, lake: Lake, settings: Settings, as_of: str, model: TrainedModel
) -> DriftReference | None:
    """The scores of the release fit on the days after its training, M + 1 to D - 1. They need no labels.

    None where these days have fewer events than `[drift] min_rows`, as with a maturity of 0 days. A day that
    did not pass validation is left out. Raises `MissingPartitions` for a missing day.
    """
    mature = split_of(settings, as_of).last_mature_day.isoformat()
    first, last = shift(mature, 1), shift(as_of, -1)
    broken = set(broken_days(case, lake, first, last))
    if not (days := [day for day in day_range(first, last) if day not in broken]):
        return None
    columns = dict.fromkeys([case.event.id, "event_timestamp", *_value(case), *model.features])
    rows = to_frame(read_validated(lake, FEATURE_VECTORS, days, list(columns)))
    # A late event of an earlier day can be a training row.
    rows = rows[utc_days(rows["event_timestamp"]).between(pd.Timestamp(first), pd.Timestamp(last))]
    if len(rows) < settings.drift.min_rows:
        return None
    return _scored(case, rows, model, model.release_text, RELEASE_FIT)


def evaluation_reference(case: UseCase, rows: pd.DataFrame, model: TrainedModel) -> DriftReference:
    """The scores of the evaluation fit on the holdout of the training set `rows`.

    The gate has checked these values, and the policy comes from these scores.
    """
    return _scored(case, rows[rows["fold"] == "holdout"], model, model.evaluation_text, EVALUATION_FIT)


def why_not_compared(case: UseCase, number: str, release: Release) -> str | None:
    """Why the scores of the version cannot be compared with its reference. None where they can."""
    if release.reference_fit == RELEASE_FIT:
        return None
    if release.reference_fit is None:
        return (
            f"version {number} was trained before references came from the fit that serves, and its reference"
            " has the scores of another fit; the next version has its own"
        )
    return (
        f"too few {Words.of(case).events} came between the last day that version {number} was trained on and"
        f" its as-of day, so that its reference has the scores of its {release.reference_fit} fit"
    )


def _value(case: UseCase) -> list[str]:
    return [] if case.decisions.value is None else [case.decisions.value]


def _scored(case: UseCase, rows: pd.DataFrame, model: TrainedModel, text: str, fit: str) -> DriftReference:
    """At most MOST_ROWS rows, evenly spread over time, with the scores of the model `text`."""
    ordered = rows.sort_values(["event_timestamp", case.event.id], kind="stable")
    days = utc_days(ordered["event_timestamp"]).dt.date
    size = min(MOST_ROWS, len(ordered))
    sample = ordered.iloc[np.arange(size) * len(ordered) // max(size, 1)]
    scores = Scorer(text, model.calibrator).score(matrix(sample, model.features))
    columns = dict.fromkeys([*_value(case), *model.features, case.score])  # The value can be a feature too.
    table = to_table(sample.assign(**{case.score: scores})[list(columns)])
    return DriftReference(table, fit, str(days.iloc[0]), str(days.iloc[-1]), Words.of(case).events)
