"""Scores in currency: what a decision costs, the thresholds that cost least, and what was caught and missed,
with the unknown left unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.core.judging.measures import Flags, Scores, UndefinedMetric, numbers
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.errors import PlatformError
from serving.contract.policy import Policy

REPORT_COLUMNS = (
    "day", "transactions", "money", "fraud_money", "caught_money", "missed_money", "caught_share",
    "reviews", "not_reviewed", "blocked", "insulted", "unknown", "unknown_money",
)  # fmt: skip


class BadCosts(PlatformError, ValueError):
    """A cost that is no cost; the message names it."""


class ConflictingVerdicts(PlatformError, ValueError):
    """Two verdicts of one transaction where only the latest may stand."""


@dataclass(frozen=True)
class Costs:
    """What decisions cost, in the currency of the amounts. The risk analyst owns these figures."""

    # of the amount that a missed fraud costs: charged back in full, nothing recovered
    missed_fraud_share: float = 1.0
    review_cost: float = 3.0  # about five minutes of an analyst, all in
    # a good customer blocked at the till: a call to support, a lost sale, now and then a lost customer
    insult_cost: float = 30.0
    # what the team gets through in a day; the book's card precision@100 assumes the same
    reviews_per_day: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise BadCosts(f"{field.name} of {value!r}: a number from 0 up is needed")

    @property
    def block_from(self) -> float:
        """The probability of fraud from which blocking costs less than a review: (1 - p) * insult < review;
        above 1 means never.
        """
        return 0.0 if self.insult_cost <= self.review_cost else 1 - self.review_cost / self.insult_cost


def policy_from_costs(scores: Any, amounts: Any, is_fraud: Any, days: Any, costs: Costs) -> Policy:
    """The thresholds that would have cost least on rows with known verdicts.

    `scores` are calibrated probabilities.

    BLOCK starts where both the probability and these rows say that blocking costs less than reviewing. REVIEW
    starts where reviewing what lies between would have saved most, and never so low that more than
    `reviews_per_day` would be reviewed on an average day (what one day has too many the next one takes).
    Where nothing is worth a review, the two are equal. Raises `UndefinedMetric` where there are no rows or
    scores that are not numbers.
    """
    flags, values = numbers("the policy", is_fraud, scores)
    order = np.argsort(-values, kind="stable")
    ranked, fraud = values[order], flags[order]
    loss = np.where(fraud, costs.missed_fraud_share * np.asarray(amounts, dtype=np.float64)[order], 0.0)
    ends = _tie_ends(ranked)  # a threshold takes equal scores together

    over_reviewing = np.cumsum(np.where(fraud, costs.review_cost, costs.review_cost - costs.insult_cost))[
        ends
    ]
    best = int(np.argmax(over_reviewing))
    evidence = (
        float(ranked[ends[best]]) if over_reviewing[best] > 0 else float(np.nextafter(ranked[0], math.inf))
    )
    block = max(evidence, costs.block_from)

    blocked = int((ranked >= block).sum())
    room = blocked + math.floor(costs.reviews_per_day * len(np.unique(np.asarray(days))))
    within = ends[(ends >= blocked) & (ends < room)]
    gain = np.cumsum(loss - costs.review_cost)
    gains = gain[within] - (gain[blocked - 1] if blocked else 0.0)
    if not len(within) or gains.max() <= 0:
        return Policy(review=block, block=block)
    return Policy(review=float(ranked[within[int(np.argmax(gains))]]), block=block)


def reviewed_at_capacity(scores: Any, days: Any, reviews_per_day: int) -> Flags:
    """Which rows a team would look at that takes the highest scores of each day: the same effort for every
    model, whatever its scale.

    Ties go by the order of the rows.
    """
    frame = pd.DataFrame({"day": np.asarray(days), "score": -np.asarray(scores, dtype=np.float64)})
    return (frame.groupby("day")["score"].rank(method="first") <= reviews_per_day).to_numpy(dtype=bool)


def business_report(
    decisions: pd.DataFrame, verdicts: pd.DataFrame, reviews_per_day: int | None, decimals: int = 2
) -> pd.DataFrame:
    """One row a day of transactions: what was caught and missed, in currency, on what is known.

    `decisions`: transaction_id, event_timestamp, amount, decision, fraud_score. `verdicts`: transaction_id,
    is_fraud, the latest of each transaction; one without a verdict (not mature yet, or blocked and never
    investigated) counts as unknown, never as legitimate. Fraud is caught where it was blocked, or is among
    the `reviews_per_day` highest scores of its day's REVIEW: a team does not get through more, and what is
    not reviewed is let through (None: all of them are done, and no score is needed). `caught_share` is null
    on a day without known fraud. Money adds up exactly, at `decimals` digits.
    """
    if twice := verdicts.loc[verdicts["transaction_id"].duplicated(), "transaction_id"].tolist():
        raise ConflictingVerdicts(
            f"{len(twice):,} transactions have more than one verdict, {twice[0]} among them"
        )
    amounts = decisions["amount"].astype("float64")
    if bad := int((~np.isfinite(amounts)).sum()):
        raise UndefinedMetric("the business report", f"{bad:,} of {len(decisions):,} amounts are not numbers")
    scale = 10**decimals
    known = verdicts.set_index("transaction_id")["is_fraud"].astype("boolean")
    verdict = decisions["transaction_id"].map(known).astype("boolean")
    fraud, legitimate, unknown = verdict.fillna(False), ~verdict.fillna(True), verdict.isna()
    minor = (amounts * scale).round().astype("int64")
    days = utc_days(decisions["event_timestamp"]).dt.strftime("%Y-%m-%d")
    asked, blocked = decisions["decision"] == "REVIEW", decisions["decision"] == "BLOCK"
    reviewed = asked
    if reviews_per_day is not None:
        place = (
            decisions["fraud_score"]
            .astype("float64")
            .where(asked)
            .groupby(days)
            .rank(method="first", ascending=False)
        )  # null if not asked for
        reviewed = asked & (place <= reviews_per_day)
    stopped = reviewed | blocked
    rows = pd.DataFrame(
        {
            "day": days,
            "transactions": 1,
            "money": minor,
            "caught_money": minor.where(fraud & stopped, 0),
            "missed_money": minor.where(fraud & ~stopped, 0),
            "reviews": reviewed.astype("int64"),
            "not_reviewed": (asked & ~reviewed).astype("int64"),
            "blocked": blocked.astype("int64"),
            "insulted": (blocked & legitimate).astype("int64"),
            "unknown": unknown.astype("int64"),
            "unknown_money": minor.where(unknown, 0),
        }
    )
    report = rows.groupby("day", sort=True).sum().reset_index()
    report["fraud_money"] = report["caught_money"] + report["missed_money"]
    report["caught_share"] = report["caught_money"] / report["fraud_money"].where(report["fraud_money"] > 0)
    money = [name for name in REPORT_COLUMNS if name.endswith("money")]
    report[money] = report[money] / scale
    return report[list(REPORT_COLUMNS)]


def _tie_ends(ranked: Scores) -> Any:
    """Positions of the last row of each run of equal values."""
    return np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
