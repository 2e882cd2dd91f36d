"""Weeks of a walk that can be worked out by hand: who counts as known, what each policy catches, and what is
undefined and says so.
"""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.past_quality import (
    CAPACITY,
    OWN,
    Scored,
    by_capacity,
    by_thresholds,
    caught,
    difference,
    known_verdicts,
    quality,
    with_verdicts,
)
from mlops_assets.core.judging.walk_weeks import UNCHANGED, BadWalk, Week, means, steps, table, week
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.policy import Policy

COSTS = AppliedCosts(missed_share=0.5, review_cost=3.0, insult_cost=30.0, reviews_per_day=2)
POLICY = Policy(review=0.5, block=0.9)
MATURE = date(2025, 3, 2)
DAYS = ["2025-03-01", "2025-03-02", "2025-03-03"]


def payments(*rows: tuple[str, str, float, bool | None]) -> pd.DataFrame:
    """Payments as (id, day, amount, verdict), arrived when they happened, of a customer each."""
    at = pd.to_datetime([f"{day}T12:00:00" for _, day, _, _ in rows], utc=True)
    frame = pd.DataFrame(
        {"transaction_id": [row[0] for row in rows], "event_timestamp": at, "created_timestamp": at}
    )
    frame["customer_id"] = "c" + frame["transaction_id"]
    frame["merchant_id"] = "m" + frame["transaction_id"]
    frame["amount"] = [row[2] for row in rows]
    known = pd.Series({row[0]: row[3] for row in rows if row[3] is not None}, dtype="boolean")
    return with_verdicts(FRAUD, frame, known, MATURE)


@pytest.fixture
def rows() -> pd.DataFrame:
    return payments(
        ("a", DAYS[0], 100.0, True),
        ("b", DAYS[0], 40.0, False),
        ("c", DAYS[0], 10.0, None),  # blocked, and never investigated
        ("d", DAYS[1], 60.0, True),
        ("e", DAYS[1], 20.0, False),
        ("f", DAYS[1], 30.0, False),
        ("g", DAYS[2], 500.0, True),  # reported at once, on a day whose legitimate payments nobody knows yet
        ("h", DAYS[2], 70.0, None),
    )


SCORES = np.array([0.6, 0.95, 0.7, 0.2, 0.1, 0.3, 0.99, 0.0])


def test_a_walk_goes_by_its_step_and_never_past_its_last_day() -> None:
    assert steps("2025-03-01", "2025-03-09", 4) == ["2025-03-01", "2025-03-05", "2025-03-09"]
    assert steps("2025-03-01", "2025-03-08", 4) == ["2025-03-01", "2025-03-05"]
    assert steps("2025-03-01", "2025-03-01", 7) == ["2025-03-01"]


@pytest.mark.parametrize(
    ("first", "last", "step", "named"),
    [
        ("2025-03-02", "2025-03-01", 1, "from 2025-03-02 to 2025-03-01"),
        (*DAYS[:2], 0, "0 days"),
        ("20250301", "2025-03-02", 1, "'20250301' is not a day"),
        ("2025-03-01", "soon", 1, "'soon' is not a day"),
    ],
)
def test_days_that_make_no_walk_are_named(first: str, last: str, step: int, named: str) -> None:
    with pytest.raises(BadWalk, match=named):
        steps(first, last, step)


def test_the_latest_verdict_counts_whenever_it_came() -> None:
    at = pd.to_datetime(["2025-03-08", "2025-05-01", "2025-03-08"], utc=True)
    said = pd.DataFrame(
        {"transaction_id": ["a", "a", "b"], "event_timestamp": at, "is_fraud": [False, True, False]}
    )
    assert known_verdicts(FRAUD, said).to_dict() == {"a": True, "b": False}


def test_a_fraud_that_was_reported_early_is_unknown_until_its_day_is_mature(rows: pd.DataFrame) -> None:
    assert rows["is_fraud"].isna().tolist() == [False, False, True, False, False, False, True, True]
    assert rows["mature"].tolist() == [True] * 6 + [False] * 2


def test_a_late_payment_is_of_the_day_on_which_it_arrived_and_matures_by_when_it_happened() -> None:
    happened, arrived = (
        pd.to_datetime(["2025-03-02T23:00"], utc=True),
        pd.to_datetime(["2025-03-03T01:00"], utc=True),
    )
    late = pd.DataFrame({"transaction_id": ["a"], "event_timestamp": happened, "created_timestamp": arrived})
    found = with_verdicts(FRAUD, late, pd.Series({"a": False}, dtype="boolean"), MATURE)
    assert (found["day"][0], bool(found["mature"][0])) == ("2025-03-03", True)


def test_thresholds_of_the_version_catch_miss_and_insult(rows: pd.DataFrame) -> None:
    found = caught(FRAUD, rows, by_thresholds(FRAUD, rows, Scored(SCORES, POLICY), 2), COSTS)
    assert (found.positive_value, found.caught_value, found.missed_value, found.caught_share) == (
        160.0,
        100.0,
        60.0,
        0.625,
    )
    assert (found.reviews, found.blocked, found.insulted) == (2, 1, 1), "the unknown one takes a review too"
    assert found.cost == 0.5 * 60 + 2 * 3 + 1 * 30


def test_reviews_beyond_a_days_capacity_are_let_through_the_lowest_scores_first() -> None:
    rows = payments(*((name, DAYS[0], 10.0, True) for name in "abcd"))
    made = by_thresholds(FRAUD, rows, Scored(np.array([0.6, 0.95, 0.8, 0.7]), POLICY), 2)
    assert made.tolist() == ["ALLOW", "BLOCK", "REVIEW", "REVIEW"]


def test_a_team_at_capacity_sees_the_highest_score_of_each_day_and_blocks_nobody(rows: pd.DataFrame) -> None:
    decisions = by_capacity(FRAUD, rows, SCORES, 1)
    assert [
        name for name, said in zip(rows["transaction_id"], decisions, strict=True) if said == "REVIEW"
    ] == ["b", "f", "g"]
    found = caught(FRAUD, rows, decisions, COSTS)
    assert (found.caught_value, found.missed_value, found.reviews, found.blocked) == (0.0, 160.0, 2, 0)
    assert found.cost == 0.5 * 160 + 2 * 3


def test_mature_days_without_fraud_have_no_share_and_still_their_cost() -> None:
    found = caught(FRAUD, payments(("a", DAYS[0], 10.0, False)), np.array(["REVIEW"]), COSTS)
    assert (found.positive_value, found.caught_share, found.cost) == (0.0, None, 3.0)


def test_quality_is_measured_on_what_is_known_alone(rows: pd.DataFrame) -> None:
    found = quality(FRAUD, rows, SCORES, 1)
    assert found.average_precision == pytest.approx(
        (1 / 2 + 2 / 4) / 2
    )  # b, a, f, d, e: the frauds come second and fourth
    assert found.roc_auc == pytest.approx(3 / 6)
    assert found.precision_at_k == 0.0  # the first card of either day is a good customer's
    assert found == quality(FRAUD, rows[rows["is_fraud"].notna()], SCORES[rows["is_fraud"].notna()], 1)


def test_a_week_without_fraud_is_undefined_and_not_zero() -> None:
    rows = payments(("a", DAYS[0], 10.0, False), ("b", DAYS[1], 10.0, False))
    found = quality(FRAUD, rows, np.array([0.1, 0.2]), 1)
    assert (found.average_precision, found.roc_auc, found.precision_at_k) == (None, None, None)
    assert found.calibration_error == pytest.approx(0.15)


def test_a_week_measures_its_own_version_and_the_first_one_on_the_same_rows(rows: pd.DataFrame) -> None:
    first = Scored(1 - SCORES, Policy(review=0.75, block=2.0))
    found = week(FRAUD, "2025-03-01", "4", DAYS, rows, Scored(SCORES, POLICY), first, COSTS, 1)
    assert (found.last_day, found.days, found.rows, found.positives, found.unknown) == (DAYS[2], 3, 8, 2, 3)
    assert found.policies[OWN] == caught(
        FRAUD, rows, by_thresholds(FRAUD, rows, Scored(SCORES, POLICY), 2), COSTS
    )
    assert found.policies[UNCHANGED] == caught(FRAUD, rows, by_thresholds(FRAUD, rows, first, 2), COSTS)
    assert found.policies[UNCHANGED].caught_value == 60.0
    assert found.unchanged == quality(FRAUD, rows, first.scores, 1)
    assert found.unchanged != found.quality


def test_what_has_not_matured_has_neither_quality_nor_cost_and_the_means_leave_it_out(
    rows: pd.DataFrame,
) -> None:
    def one(as_of: str, days: list[str], chosen: pd.Series) -> Week:
        scored = Scored(SCORES[chosen.to_numpy()], POLICY)
        return week(FRAUD, as_of, "1", days, rows[chosen], scored, scored, COSTS, 1)

    old, young, none = rows["day"] < DAYS[2], rows["day"] == DAYS[2], rows["day"] == "2025-03-05"
    weeks = [
        one("2025-03-01", DAYS[:2], old),
        one("2025-03-03", DAYS[2:], young),
        one("2025-03-05", [], none),
    ]
    found = table(FRAUD, weeks)
    assert found["rows"].tolist() == [6, 2, 0]
    assert found["unknown"].tolist() == [1, 2, 0]
    assert found["last_day"].tolist() == [DAYS[1], DAYS[2], None]
    for column in (
        "average_precision",
        f"{CAPACITY}.cost",
        f"{OWN}.reviews",
        f"{UNCHANGED}.average_precision",
    ):
        assert found[column].isna().tolist() == [False, True, True], column
    mean = means(found)
    assert mean["average_precision"] == weeks[0].quality.average_precision
    assert mean[f"{OWN}.cost"] == weeks[0].policies[OWN].cost
    assert mean["rows"] == pytest.approx(8 / 3)


def test_a_mean_of_nothing_is_null() -> None:
    empty = week(
        FRAUD,
        "2025-03-05",
        "3",
        [],
        payments(("a", DAYS[0], 1.0, None))[:0],
        nothing := Scored(np.empty(0), POLICY),
        nothing,
        COSTS,
        1,
    )
    assert means(table(FRAUD, [empty]))["average_precision"] is None


def test_the_difference_is_that_of_the_average_precisions_with_an_interval_around_it() -> None:
    random = np.random.default_rng(3)
    fraud = random.random(2_000) < 0.1
    rows = payments(*((str(n), DAYS[n % 2], 10.0, bool(flag)) for n, flag in enumerate(fraud)))
    good, poor = fraud + random.normal(0, 0.5, 2_000), random.random(2_000)
    found = difference(FRAUD, rows, good, poor, seed=1)
    precise = [quality(FRAUD, rows, scores, 1).average_precision for scores in (good, poor)]
    assert precise[0] is not None
    assert precise[1] is not None
    assert found.average_precision == pytest.approx(precise[0] - precise[1])
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < precise[0] - precise[1] < found.high
    assert found == difference(FRAUD, rows, good, poor, seed=1)
    assert difference(FRAUD, rows, good, good, seed=1).high == 0


def test_a_difference_without_fraud_is_undefined() -> None:
    rows = payments(("a", DAYS[0], 10.0, False), ("b", DAYS[1], 10.0, False))
    found = difference(FRAUD, rows, np.array([0.1, 0.2]), np.array([0.2, 0.1]), seed=1)
    assert (found.average_precision, found.low, found.high, found.clusters) == (
        None,
        None,
        None,
        {"customers": 2, "merchants": 2},
    )
