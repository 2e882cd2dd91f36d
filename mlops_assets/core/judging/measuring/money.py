"""The costs of decisions, the thresholds with the lowest costs, and the value caught and missed.

The unit is the unit of the value column, such as a currency. Without a value column it is cases. Events
without a verdict are counted as unknown.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring.measures import Flags, Scores, UndefinedMetric, numbers
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.core.words import Words, as_column
from mlops_assets.errors import PlatformError
from serving.contract.policy import Policy
from serving.contract.subject import Subject

NEVER = 2.0  # a threshold above all scores


class ConflictingVerdicts(PlatformError, ValueError):
    """Two verdicts on one event, where only the latest may be given."""


def policy_from_costs(
    scores: Any, values: Any, positive: Any, days: Any, costs: AppliedCosts, *, stops: bool = True
) -> Policy:
    """The thresholds that would have cost least on rows with known verdicts.

    `scores` are calibrated probabilities. `values` are the losses of a missed positive. Without `stops` there
    is no decision that stops, and the block threshold is `NEVER`.

    The block threshold is the higher of two scores: the probability from which stopping costs less than
    reviewing, and the cheapest threshold on these rows. The review threshold is the score at which reviews
    save most. It allows at most `reviews_per_day` reviews on an average day. The two are equal where no
    review pays. Raises `UndefinedMetric` for no rows and for scores that are not numbers.
    """
    flags, ranks = numbers("the policy", positive, scores)
    order = np.argsort(-ranks, kind="stable")
    ranked, hits = ranks[order], flags[order]
    loss = np.where(hits, costs.missed_share * np.asarray(values, dtype=np.float64)[order], 0.0)
    ends = _tie_ends(ranked)  # A threshold cannot separate equal scores.

    block = _block_threshold(ranked, hits, ends, costs) if stops else NEVER
    blocked = int((ranked >= block).sum())
    room = blocked + math.floor(costs.reviews_per_day * len(np.unique(np.asarray(days))))
    within = ends[(ends >= blocked) & (ends < room)]
    gain = np.cumsum(loss - costs.review_cost)
    gains = gain[within] - (gain[blocked - 1] if blocked else 0.0)
    if not len(within) or gains.max() <= 0:
        return Policy(review=block, block=block)
    return Policy(review=float(ranked[within[int(np.argmax(gains))]]), block=block)


def reviewed_at_capacity(scores: Any, days: Any, reviews_per_day: int) -> Flags:
    """Whether a team reviews each row, if it reviews the highest scores of each day.

    The effort is equal for all models, whatever the scale of their scores. Ties keep the order of the rows.
    """
    frame = pd.DataFrame({"day": np.asarray(days), "score": -np.asarray(scores, dtype=np.float64)})
    return (frame.groupby("day")["score"].rank(method="first") <= reviews_per_day).to_numpy(dtype=bool)


def report_columns(subject: Subject) -> tuple[str, ...]:
    """The columns of `business_report`, such as "day", "events", "cases", "late_cases", "caught_cases"."""
    words = Words.of(subject)
    columns = (
        "day", as_column(words.events), words.worth, words.of_positives(), words.of_positives("caught"),
        words.of_positives("missed"), "caught_share", "reviews", "not_reviewed", "blocked", "insulted",
        "unknown", words.of_positives("unknown"),
    )  # fmt: skip
    return tuple(dict.fromkeys(columns))  # The events of a use case can be called cases.


def business_report(
    subject: Subject,
    decisions: pd.DataFrame,
    verdicts: pd.DataFrame,
    reviews_per_day: int | None,
    decimals: int = 2,
) -> pd.DataFrame:
    """The value caught and missed by day of the events, with the columns `report_columns`.

    `decisions` has the event's id, event_timestamp, the value column, decision and the score. `verdicts` has
    the event's id and the label, one row for each event. An event without a verdict is unknown, never
    negative. A positive is caught if it was stopped or reviewed. The team reviews the `reviews_per_day`
    highest scores among the reviews of a day, and all other events pass. With None the team reviews all, and
    no score is needed. `caught_share` is null on a day without known positives. Values are summed exactly,
    with `decimals` digits. Raises `ConflictingVerdicts`, and `UndefinedMetric` for values that are not
    numbers.
    """
    words, value, name = Words.of(subject), subject.decisions.value, subject.event.id
    if twice := verdicts.loc[verdicts[name].duplicated(), name].tolist():
        raise ConflictingVerdicts(
            f"{len(twice):,} {words.events} have more than one verdict, {twice[0]} among them"
        )
    values = pd.Series(1.0, decisions.index) if value is None else decisions[value].astype("float64")
    if bad := int((~np.isfinite(values)).sum()):
        raise UndefinedMetric(
            "the business report", f"{bad:,} of {len(decisions):,} {words.values} are not numbers"
        )
    scale = 10**decimals
    minor = (values * scale).round().astype("int64")
    known = verdicts.set_index(name)[subject.labels.name].astype("boolean")
    verdict = decisions[name].map(known).astype("boolean")
    days = utc_days(decisions["event_timestamp"]).dt.strftime("%Y-%m-%d")
    rows = _outcomes(subject, decisions, verdict, minor, days, reviews_per_day)
    report = rows.groupby("day", sort=True).sum().reset_index()
    positive, caught, missed = (words.of_positives(what) for what in ("", "caught", "missed"))
    report[positive] = report[caught] + report[missed]
    report["caught_share"] = report[caught] / report[positive].where(report[positive] > 0)
    worth = [words.worth, positive, caught, missed, words.of_positives("unknown")]
    report[worth] = report[worth] / scale
    return report[list(report_columns(subject))]


def _outcomes(
    subject: Subject,
    decisions: pd.DataFrame,
    verdict: pd.Series,
    minor: pd.Series,
    days: pd.Series,
    reviews_per_day: int | None,
) -> pd.DataFrame:
    """A row for each event with the figures to sum by day. Values are in minor units."""
    words = Words.of(subject)
    positive, negative, unknown = verdict.fillna(False), ~verdict.fillna(True), verdict.isna()
    asked = decisions["decision"] == subject.decisions.looks
    blocked = decisions["decision"] == subject.decisions.stops
    reviewed = asked
    if reviews_per_day is not None:
        scores = decisions[subject.score].astype("float64").where(asked)  # null without a review
        reviewed = asked & (scores.groupby(days).rank(method="first", ascending=False) <= reviews_per_day)
    stopped = reviewed | blocked
    return pd.DataFrame(
        {
            "day": days,
            as_column(words.events): 1,
            words.worth: minor,
            words.of_positives("caught"): minor.where(positive & stopped, 0),
            words.of_positives("missed"): minor.where(positive & ~stopped, 0),
            "reviews": reviewed.astype("int64"),
            "not_reviewed": (asked & ~reviewed).astype("int64"),
            "blocked": blocked.astype("int64"),
            "insulted": (blocked & negative).astype("int64"),
            "unknown": unknown.astype("int64"),
            words.of_positives("unknown"): minor.where(unknown, 0),
        }
    )


def _block_threshold(ranked: Scores, positive: Flags, ends: Any, costs: AppliedCosts) -> float:
    over_reviewing = np.cumsum(np.where(positive, costs.review_cost, costs.review_cost - costs.insult_cost))[
        ends
    ]
    best = int(np.argmax(over_reviewing))
    evidence = (
        float(ranked[ends[best]]) if over_reviewing[best] > 0 else float(np.nextafter(ranked[0], math.inf))
    )
    return max(evidence, costs.block_from)


def _tie_ends(ranked: Scores) -> Any:
    """The positions of the last row of each run of equal values."""
    return np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
