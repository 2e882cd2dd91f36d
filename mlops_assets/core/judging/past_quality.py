"""How well a version did on past events: how well it ranked them, and what each policy would have caught."""

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
    """How well scores rank and say what they claim, on events whose verdict is known.

    Null: these events do not define it.
    """

    average_precision: float | None
    roc_auc: float | None
    precision_at_k: float | None
    calibration_error: float | None

    def stored(self, subject: Subject) -> dict[str, float | None]:
        """By the names of reports, such as `card_precision_at_k`."""
        return _renamed(asdict(self), subject)


@dataclass(frozen=True)
class Caught:
    """What one policy would have done to the events of mature days.

    A positive that was stopped, or reviewed within the day's capacity, is caught. `cost` is what was missed,
    reviewed and insulted, by the configured costs. Values and cost are in the unit of the value column, or in
    cases. An event that has no verdict takes a review like any other.
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
        """By the names of reports, such as `caught_money`."""
        return _renamed(asdict(self), subject)


@dataclass(frozen=True)
class Scored:
    """The scores of one version, in the order of the events, and the thresholds that it decides by."""

    scores: m.Scores
    policy: Policy


@dataclass(frozen=True)
class PrecisionDifference:
    """Average precision of one version minus that of another on the same events, with a percentile interval.

    `resampled` names those of the `clusters` that let it vary most, and `clusters` how many groups each has.
    Null where it is undefined, or where a resample had no positive in it.
    """

    average_precision: float | None
    low: float | None
    high: float | None
    confidence: float
    resamples: int
    resampled: str
    clusters: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the numbers of groups beside the others."""
        plain = asdict(self)
        del plain["clusters"]
        return {**plain, **self.clusters}


def known_verdicts(subject: Subject, verdicts: pd.DataFrame) -> pd.Series:
    """The latest verdict on each event (a nullable boolean), by the event's id."""
    latest = latest_verdicts(subject, verdicts, END)
    return latest.set_index(subject.event.id)[subject.labels.name].astype("boolean")


def with_verdicts(
    subject: Subject, events: pd.DataFrame, known: pd.Series, mature_until: date
) -> pd.DataFrame:
    """The events with their label (null: unknown), `mature`, and `day`, the day of their arrival (UTC).

    An event that happened up to the day `mature_until` is mature. Where silence says nothing, only an event
    with a label is. The verdict on a later event does not count even if there is one: positives are known
    earlier than negatives, and would stand alone.
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
    """The quality on the rows of `with_verdicts` that have a verdict."""
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
    """The decision on every event, as the service would have made it.

    An event that is too much for the team on the day of its arrival passes.
    """
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
    """The decisions of a team that reviews the highest scores of a day's arrivals, as many as it gets
    through.

    It stops nothing.
    """
    reviewed = reviewed_at_capacity(scores, rows["day"], reviews_per_day)
    return np.where(reviewed, subject.decisions.looks, subject.decisions.passes)


def caught(subject: Subject, rows: pd.DataFrame, decisions: npt.NDArray[Any], costs: AppliedCosts) -> Caught:
    """What the decisions would have come to on the mature rows of `with_verdicts`."""
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
    """What a version would have caught by its own thresholds, and what a team with its highest scores."""
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
    """How much better `one` ranks the rows that have a verdict than `other`."""
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
    """The names that reports have for what is called otherwise here."""
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
