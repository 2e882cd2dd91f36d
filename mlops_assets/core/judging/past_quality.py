"""The results of a version on past events: how well it ranks them, and what each policy would have caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring import measures as m
from mlops_assets.core.judging.measuring.bootstrap import clusters, paired_bootstrap
from mlops_assets.core.judging.measuring.money import business_report, reviewed_at_capacity
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.core.words import Words, as_column
from serving.contract.policy import Policy, decide
from serving.contract.subject import Subject

OWN, CAPACITY = "own_thresholds", "at_capacity"
END = pd.Timestamp.max.tz_localize("UTC")
RESAMPLES = 500


@dataclass(frozen=True)
class Quality:
    """The quality of scores on events with a known verdict. An undefined measure is null."""

    average_precision: float | None
    roc_auc: float | None
    precision_at_k: float | None
    calibration_error: float | None

    def stored(self, subject: Subject) -> dict[str, float | None]:
        """The values by the names of reports, such as `card_precision_at_k`."""
        return _renamed(asdict(self), subject)


@dataclass(frozen=True)
class Caught:
    """The results of one policy on the events of mature days.

    A positive is caught if it was stopped, or reviewed within the capacity of the day. `cost` is the cost of
    missed positives, reviews and insults. Values and cost are in the unit of the value column, or in cases.
    An event without a verdict takes a review like any other event.
    """

    positive_value: float
    caught_value: float
    missed_value: float
    caught_share: float | None
    reviews: int
    blocked: int
    insulted: int
    cost: float

    def stored(self, subject: Subject) -> dict[str, float | None]:
        """The values by the names of reports, such as `caught_money`."""
        return _renamed(asdict(self), subject)


@dataclass(frozen=True)
class Scored:
    """The scores of one version in the order of the events, and its thresholds."""

    scores: m.Scores
    policy: Policy


@dataclass(frozen=True)
class PrecisionDifference:
    """The difference in average precision of two versions on the same events, with a percentile interval.

    `clusters` has the number of groups by name. `resampled` is the name by which the difference varies most.
    Figures are null where they are undefined, and the interval also where a resample has no positive.
    """

    average_precision: float | None
    low: float | None
    high: float | None
    confidence: float
    resamples: int
    resampled: str
    clusters: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON. The numbers of groups are at the top level."""
        values = asdict(self)
        del values["clusters"]
        return {**values, **self.clusters}


def known_verdicts(subject: Subject, verdicts: pd.DataFrame) -> pd.Series:
    """The latest verdict on each event as a nullable boolean, indexed by the event's id."""
    latest = latest_verdicts(subject, verdicts, END)
    return latest.set_index(subject.event.id)[subject.labels.name].astype("boolean")


def with_verdicts(
    subject: Subject, events: pd.DataFrame, known: pd.Series, mature_until: date
) -> pd.DataFrame:
    """The events with their label (null for unknown), `mature`, and `day`, the arrival day (UTC).

    An event is mature if it happened up to the day `mature_until`. Where silence is unknown, it also needs a
    label. A verdict on a later event does not count, because positives are known earlier than negatives.
    """
    verdict = events[subject.event.id].map(known).astype("boolean")
    mature = utc_days(events["event_timestamp"]) <= pd.Timestamp(mature_until)
    if subject.labels.silence == "unknown":
        mature &= verdict.notna()
    return events.assign(
        **{subject.labels.name: verdict.where(mature)},
        mature=mature,
        day=utc_days(events["created_timestamp"]).dt.strftime("%Y-%m-%d"),
    )


def quality(subject: Subject, rows: pd.DataFrame, scores: m.Scores, k: int) -> Quality:
    """The quality of the scores on the rows of `with_verdicts` that have a verdict."""
    labels, inspected = rows[subject.labels.name], subject.inspected
    known = labels.notna().to_numpy(dtype=bool)
    flags, values = labels[known].to_numpy(dtype=bool), scores[known]
    return Quality(
        _defined(lambda: m.average_precision(flags, values)),
        _defined(lambda: m.roc_auc(flags, values)),
        None
        if inspected is None
        else _defined(
            lambda: m.precision_at_k(rows.loc[known, "day"], rows.loc[known, inspected.key], flags, values, k)
        ),
        _defined(lambda: m.expected_calibration_error(flags, values)),
    )


def by_thresholds(
    subject: Subject, rows: pd.DataFrame, scored: Scored, reviews_per_day: int
) -> npt.NDArray[Any]:
    """The decision of the service on each event. A review beyond the capacity of the arrival day passes."""
    decisions = subject.decisions
    made = np.array(
        [decide(score, scored.policy, decisions) for score in scored.scores.tolist()], dtype=object
    )
    asked = np.flatnonzero(made == decisions.looks)
    done = reviewed_at_capacity(scored.scores[asked], rows["day"].to_numpy()[asked], reviews_per_day)
    made[asked[~done]] = decisions.passes
    return made


def by_capacity(
    subject: Subject, rows: pd.DataFrame, scores: m.Scores, reviews_per_day: int
) -> npt.NDArray[Any]:
    """The decisions of a team that reviews the highest scores of each arrival day, and stops nothing."""
    reviewed = reviewed_at_capacity(scores, rows["day"], reviews_per_day)
    return np.where(reviewed, subject.decisions.looks, subject.decisions.passes)


def caught(subject: Subject, rows: pd.DataFrame, decisions: npt.NDArray[Any], costs: AppliedCosts) -> Caught:
    """The results of the decisions on the mature rows of `with_verdicts`."""
    words = Words.of(subject)
    made = rows.assign(decision=decisions)[rows["mature"].to_numpy(dtype=bool)]
    verdicts = made[[subject.event.id, subject.labels.name]]
    total = business_report(subject, made, verdicts, reviews_per_day=None).drop(columns="day").sum()
    missed, reviews = float(total[words.of_positives("missed")]), int(total["reviews"])
    insulted, positive = int(total["insulted"]), float(total[words.of_positives()])
    stopped = float(total[words.of_positives("caught")])
    return Caught(
        positive_value=round(positive, 2),
        caught_value=round(stopped, 2),
        missed_value=round(missed, 2),
        caught_share=stopped / positive if positive else None,
        reviews=reviews,
        blocked=int(total["blocked"]),
        insulted=insulted,
        cost=round(
            missed * costs.missed_share + reviews * costs.review_cost + insulted * costs.insult_cost, 2
        ),
    )


def policies(subject: Subject, rows: pd.DataFrame, scored: Scored, costs: AppliedCosts) -> dict[str, Caught]:
    """The results of a version by its own thresholds, and by the highest scores at capacity."""
    own = by_thresholds(subject, rows, scored, costs.reviews_per_day)
    capacity = by_capacity(subject, rows, scored.scores, costs.reviews_per_day)
    return {
        OWN: caught(subject, rows, own, costs),
        CAPACITY: caught(subject, rows, capacity, costs),
    }


def difference(
    subject: Subject,
    rows: pd.DataFrame,
    one: m.Scores,
    other: m.Scores,
    seed: int,
    confidence: float = 0.95,
) -> PrecisionDifference:
    """The average precision of `one` minus that of `other`, on the rows with a verdict."""
    labels = rows[subject.labels.name]
    known = labels.notna().to_numpy(dtype=bool)
    flags = labels[known].to_numpy(dtype=bool)
    groups = clusters(subject, rows[known])
    counts = {name: len(np.unique(codes)) for name, codes in groups.items()}
    own, others = (_defined(partial(m.average_precision, flags, scores[known])) for scores in (one, other))
    if own is None or others is None:
        return PrecisionDifference(None, None, None, confidence, 0, next(iter(groups)), counts)
    by, drawn = paired_bootstrap(flags, one[known], other[known], groups, seed, RESAMPLES)
    low, high = (
        None if np.isnan(drawn).any() else float(np.quantile(drawn, q))
        for q in ((1 - confidence) / 2, (1 + confidence) / 2)
    )
    return PrecisionDifference(own - others, low, high, confidence, RESAMPLES, by, counts)


def stored_names(subject: Subject) -> dict[str, str]:
    """The names in reports, by the field names of this module, where the two differ."""
    words = Words.of(subject)
    return {
        "positives": as_column(words.positives),
        "precision_at_k": words.precision_at_k,
        "positive_value": words.of_positives(),
        "caught_value": words.of_positives("caught"),
        "missed_value": words.of_positives("missed"),
    }


def _renamed(values: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    names = stored_names(subject)
    left_out = set() if subject.inspected else {"precision_at_k"}
    return {names.get(name, name): value for name, value in values.items() if name not in left_out}


def _defined(metric: Callable[[], float]) -> float | None:
    try:
        return metric()
    except m.UndefinedMetric:
        return None
