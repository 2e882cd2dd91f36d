"""A version on past days that it was not trained on: how well it ranked the payments, and what each policy
would have caught, in currency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.judging import measures as m
from mlops_assets.core.judging.bootstrap import clusters, paired_bootstrap
from mlops_assets.core.judging.money import Costs, business_report, reviewed_at_capacity
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.errors import PlatformError
from serving.contract.policy import Policy, decide

OWN, CAPACITY, UNCHANGED = "own_thresholds", "at_capacity", "never_retrained"
RESAMPLES = 500
END = pd.Timestamp.max.tz_localize("UTC")


class BadWalk(PlatformError, ValueError):
    """Days or a step that make no walk; the message names them."""


@dataclass(frozen=True)
class Quality:
    """How well scores rank and say what they claim, on payments whose verdict is known.

    Null: these payments do not define it.
    """

    average_precision: float | None
    roc_auc: float | None
    card_precision_at_k: float | None
    calibration_error: float | None


@dataclass(frozen=True)
class Caught:
    """What one policy would have done to the payments of mature days.

    Fraud that was blocked, or reviewed within the day's capacity, is caught; `cost` is what was missed,
    reviewed and insulted, by the configured costs. A payment that has no verdict takes a review like any
    other.
    """

    fraud_money: float
    caught_money: float
    missed_money: float
    caught_share: float | None
    reviews: int
    blocked: int
    insulted: int
    cost: float


AMOUNTS = tuple(field.name for field in fields(Caught))
COUNTS = ("reviews", "blocked", "insulted")


@dataclass(frozen=True)
class Scored:
    """The scores of one version, in the order of the payments, and the thresholds that it decides by."""

    scores: m.Scores
    policy: Policy


@dataclass(frozen=True)
class Week:
    """One version on the days that it would have served, from its as-of day to the day before the next one.

    `days` of them, the last one `last_day`, are in the lake, with `rows` payments; `frauds` of these are
    known to be fraud, and `unknown` have no verdict that counts. `unchanged` is the quality of the walk's
    first version on the same payments. `policies` is empty where no payment is mature.
    """

    as_of: str
    last_day: str | None
    version: str
    days: int
    rows: int
    frauds: int
    unknown: int
    quality: Quality
    unchanged: Quality
    policies: Mapping[str, Caught]


@dataclass(frozen=True)
class Difference:
    """Average precision of one version minus that of another on the same payments, with a percentile interval
    over resampled customers or merchants, whichever of them lets it vary more.

    Null where it is undefined, or where a resample had no fraud in it.
    """

    average_precision: float | None
    low: float | None
    high: float | None
    confidence: float
    resamples: int
    resampled: str
    customers: int
    merchants: int


def steps(first: str, last: str, step: int) -> list[str]:
    """The as-of days of a walk: every `step` days from `first` on, `last` at the latest."""
    begin, end = _day(first), _day(last)
    if begin > end:
        raise BadWalk(f"from {first} to {last}: the first day is after the last one")
    if step < 1:
        raise BadWalk(f"a step of {step} days")
    return [(begin + timedelta(days=n)).isoformat() for n in range(0, (end - begin).days + 1, step)]


def known_verdicts(verdicts: pd.DataFrame) -> pd.Series:
    """The latest verdict on each transaction, by its id."""
    return latest_verdicts(verdicts, END).set_index("transaction_id")["is_fraud"].astype("boolean")


def with_verdicts(payments: pd.DataFrame, known: pd.Series, mature_until: date) -> pd.DataFrame:
    """The payments with `is_fraud`, their verdict in `known` (null: unknown), `mature`, and `day`, on which
    they arrived.

    A payment that happened up to the day `mature_until` is mature. The verdict on a later one does not count
    even if there is one: frauds are known earlier than legitimate payments, and would stand alone.
    """
    mature = utc_days(payments["event_timestamp"]) <= pd.Timestamp(mature_until)
    return payments.assign(
        is_fraud=payments["transaction_id"].map(known).astype("boolean").where(mature),
        mature=mature,
        day=utc_days(payments["created_timestamp"]).dt.strftime("%Y-%m-%d"),
    )


def quality(rows: pd.DataFrame, scores: m.Scores, k: int) -> Quality:
    """On the rows of `with_verdicts` that have a verdict."""
    known = rows["is_fraud"].notna().to_numpy(dtype=bool)
    flags, values = rows.loc[known, "is_fraud"].to_numpy(dtype=bool), scores[known]
    return Quality(
        _defined(lambda: m.average_precision(flags, values)),
        _defined(lambda: m.roc_auc(flags, values)),
        _defined(
            lambda: m.card_precision_at_k(
                rows.loc[known, "day"], rows.loc[known, "customer_id"], flags, values, k
            )
        ),
        _defined(lambda: m.expected_calibration_error(flags, values)),
    )


def by_thresholds(rows: pd.DataFrame, scored: Scored, reviews_per_day: int) -> npt.NDArray[Any]:
    """The decision on every payment, as the service would have made it.

    A REVIEW that is too much for the team on the day of its arrival is ALLOW.
    """
    made = np.array([decide(score, scored.policy) for score in scored.scores.tolist()], dtype=object)
    asked = np.flatnonzero(made == "REVIEW")
    done = reviewed_at_capacity(scored.scores[asked], rows["day"].to_numpy()[asked], reviews_per_day)
    made[asked[~done]] = "ALLOW"
    return made


def by_capacity(rows: pd.DataFrame, scores: m.Scores, reviews_per_day: int) -> npt.NDArray[Any]:
    """A team that reviews the highest scores of what arrives on a day, as many as it gets through, and blocks
    nothing.
    """
    return np.where(reviewed_at_capacity(scores, rows["day"], reviews_per_day), "REVIEW", "ALLOW")


def caught(rows: pd.DataFrame, decisions: npt.NDArray[Any], costs: Costs) -> Caught:
    """What the decisions would have come to on the mature rows of `with_verdicts`."""
    made = rows.assign(decision=decisions)[rows["mature"].to_numpy(dtype=bool)]
    total = (
        business_report(made, made[["transaction_id", "is_fraud"]], reviews_per_day=None)
        .drop(columns="day")
        .sum()
    )
    missed, reviews, insulted = float(total["missed_money"]), int(total["reviews"]), int(total["insulted"])
    fraud = float(total["fraud_money"])
    return Caught(
        fraud_money=round(fraud, 2),
        caught_money=round(float(total["caught_money"]), 2),
        missed_money=round(missed, 2),
        caught_share=float(total["caught_money"]) / fraud if fraud else None,
        reviews=reviews,
        blocked=int(total["blocked"]),
        insulted=insulted,
        cost=round(
            missed * costs.missed_fraud_share + reviews * costs.review_cost + insulted * costs.insult_cost, 2
        ),
    )


def week(
    as_of: str,
    version: str,
    days: Sequence[str],
    rows: pd.DataFrame,
    own: Scored,
    first: Scored,
    costs: Costs,
    k: int,
) -> Week:
    """Measure one version of a walk, `own`, and the walk's `first` one, on the rows of `with_verdicts` that
    arrived on the `days`.
    """
    return Week(
        as_of=as_of,
        last_day=days[-1] if days else None,
        version=version,
        days=len(days),
        rows=len(rows),
        frauds=int(rows["is_fraud"].sum()),
        unknown=int(rows["is_fraud"].isna().sum()),
        quality=quality(rows, own.scores, k),
        unchanged=quality(rows, first.scores, k),
        policies={
            **policies(rows, own, costs),
            UNCHANGED: caught(rows, by_thresholds(rows, first, costs.reviews_per_day), costs),
        }
        if rows["mature"].any()
        else {},
    )


def policies(rows: pd.DataFrame, scored: Scored, costs: Costs) -> dict[str, Caught]:
    """What a version would have caught by its own thresholds, and what a team that is given its highest
    scores.
    """
    return {
        OWN: caught(rows, by_thresholds(rows, scored, costs.reviews_per_day), costs),
        CAPACITY: caught(rows, by_capacity(rows, scored.scores, costs.reviews_per_day), costs),
    }


def table(weeks: Sequence[Week]) -> pd.DataFrame:
    """One row a week; what a policy came to is in columns such as `at_capacity.cost`.

    Numbers that a week does not define are null.
    """
    plain = [name for name in Week.__dataclass_fields__ if name not in ("quality", "unchanged", "policies")]
    rows = []
    for one in weeks:
        row = {name: getattr(one, name) for name in plain}
        row |= {**asdict(one.quality), f"{UNCHANGED}.average_precision": one.unchanged.average_precision}
        row |= {
            f"{policy}.{name}": getattr(one.policies.get(policy), name, None)
            for policy in (OWN, CAPACITY, UNCHANGED)
            for name in AMOUNTS
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    numbers = [str(name) for name in frame if name not in plain]
    return frame.astype(
        {name: "Int64" if name.rpartition(".")[2] in COUNTS else "float64" for name in numbers}
    )


def means(frame: pd.DataFrame) -> dict[str, float | None]:
    """The mean of each number of `table` over the weeks that define it; null where none does."""
    found = frame.select_dtypes("number").mean()
    return {str(name): None if pd.isna(value) else float(value) for name, value in found.items()}


def difference(
    rows: pd.DataFrame, one: m.Scores, other: m.Scores, seed: int, confidence: float = 0.95
) -> Difference:
    """How much better `one` ranks the rows that have a verdict than `other`."""
    known = rows["is_fraud"].notna().to_numpy(dtype=bool)
    flags = rows.loc[known, "is_fraud"].to_numpy(dtype=bool)
    groups = clusters(rows[known])
    counts = {name: len(np.unique(codes)) for name, codes in groups.items()}
    own, others = (_defined(partial(m.average_precision, flags, scores[known])) for scores in (one, other))
    if own is None or others is None:
        return Difference(None, None, None, confidence, 0, next(iter(groups)), **counts)
    by, drawn = paired_bootstrap(flags, one[known], other[known], groups, seed, RESAMPLES)
    low, high = (
        None if np.isnan(drawn).any() else float(np.quantile(drawn, q))
        for q in ((1 - confidence) / 2, (1 + confidence) / 2)
    )
    return Difference(own - others, low, high, confidence, RESAMPLES, by, **counts)


def _day(text: str) -> date:
    try:
        if (day := date.fromisoformat(text)).isoformat() == text:
            return day
    except ValueError:
        pass
    raise BadWalk(f"{text!r} is not a day such as 2018-05-23")


def _defined(metric: Callable[[], float]) -> float | None:
    try:
        return metric()
    except m.UndefinedMetric:
        return None
