import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.judging.costs import AppliedCosts, BadCosts
from mlops_assets.core.judging.measuring.measures import UndefinedMetric
from mlops_assets.core.judging.measuring.money import (
    ConflictingVerdicts,
    business_report,
    policy_from_costs,
    report_columns,
    reviewed_at_capacity,
)
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.before_subjects import BEFORE
from serving.contract.policy import decide

scored = st.lists(
    st.tuples(
        st.integers(0, 20).map(lambda n: n / 20),
        st.integers(1, 500).map(float),
        st.booleans(),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=40,
)


@given(scored, st.integers(0, 5), st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([0.0, 4.0, 50.0]))
def test_review_is_never_above_block_and_the_reviews_fit_the_team(
    table: list[tuple[float, float, bool, int]], capacity: int, review: float, insult: float
) -> None:
    scores, amounts, fraud, days = zip(*table, strict=True)
    policy = policy_from_costs(
        scores,
        amounts,
        fraud,
        days,
        AppliedCosts(review_cost=review, insult_cost=insult, reviews_per_day=capacity),
    )
    assert policy.review <= policy.block
    assert sum(decide(s, policy, BEFORE.decisions) == "REVIEW" for s in scores) <= capacity * len(set(days))


@given(scored)
def test_no_other_review_threshold_within_capacity_would_have_cost_less(
    table: list[tuple[float, float, bool, int]],
) -> None:
    scores, amounts, fraud, days = zip(*table, strict=True)
    costs = AppliedCosts(review_cost=5, insult_cost=50, reviews_per_day=2)
    policy = policy_from_costs(scores, amounts, fraud, days, costs)

    def saved(threshold: float) -> float:
        inside = [(a, f) for s, a, f, _ in table if threshold <= s < policy.block]
        if len(inside) > 2 * len(set(days)):
            return -np.inf
        return sum(a * f - 5 for a, f in inside)

    assert saved(policy.review) == pytest.approx(max(saved(t) for t in {*scores, policy.block}))


def test_block_starts_where_blocking_costs_less_than_reviewing() -> None:
    costs = AppliedCosts(review_cost=5, insult_cost=50, reviews_per_day=100)
    scores = np.r_[np.full(50, 0.98), np.full(50, 0.92), np.full(50, 0.5), np.full(100, 0.01)]
    fraud = np.r_[np.ones(50), np.ones(44), np.zeros(6), np.ones(25), np.zeros(25), np.zeros(100)].astype(
        bool
    )
    policy = policy_from_costs(scores, np.full(250, 100.0), fraud, np.repeat(["a", "b"], 125), costs)
    assert costs.block_from == pytest.approx(0.9)
    assert policy.block == 0.98  # at 0.92, 6 of 50 are good customers: 300 in insults against 250 in reviews
    assert policy.review == 0.5


def test_a_lucky_handful_does_not_start_blocking_at_low_probabilities() -> None:
    policy = policy_from_costs(
        [0.3, 0.2, 0.1], [100.0, 100.0, 100.0], [True, False, False], [1, 1, 1], AppliedCosts()
    )
    assert policy.block >= AppliedCosts().block_from
    assert policy.review == 0.3


def test_where_nothing_is_worth_a_review_nothing_is_reviewed() -> None:
    policy = policy_from_costs([0.3, 0.2], [100.0, 100.0], [False, False], [1, 1], AppliedCosts())
    assert policy.review == policy.block > 0.3


def test_the_policy_of_nothing_is_undefined() -> None:
    with pytest.raises(UndefinedMetric, match="the policy is undefined: there are no rows"):
        policy_from_costs([], [], [], [], AppliedCosts())
    with pytest.raises(UndefinedMetric, match="1 of 1 scores"):
        policy_from_costs([float("nan")], [1.0], [True], [1], AppliedCosts())


@pytest.mark.parametrize(
    "costs", [{"review_cost": -1.0}, {"insult_cost": float("nan")}, {"reviews_per_day": -3}]
)
def test_a_cost_below_nothing_is_refused_by_name(costs: dict[str, float]) -> None:
    with pytest.raises(BadCosts, match=f"{next(iter(costs))} of"):
        AppliedCosts(**costs)  # type: ignore[arg-type]


def test_the_team_looks_at_the_highest_scores_of_each_day() -> None:
    looked_at = reviewed_at_capacity([0.1, 0.9, 0.5, 0.2, 0.2], ["a", "a", "a", "b", "b"], 1)
    assert looked_at.tolist() == [False, True, False, True, False]


CAPACITY = 100


def decisions(table: list[tuple[str, int, float, str]]) -> pd.DataFrame:
    """The later in the table, the lower the score."""
    frame = pd.DataFrame(table, columns=["transaction_id", "hour", "amount", "decision"])
    frame["fraud_score"] = [1 - n / 1_000 for n in range(len(table))]
    return frame.assign(
        event_timestamp=pd.Timestamp("2024-01-01", tz="UTC")
        + pd.to_timedelta(frame.pop("hour").astype("int64"), unit="h")
    )


def test_the_report_of_a_day() -> None:
    made = decisions(
        [
            ("f1", 0, 100.0, "BLOCK"),
            ("f2", 1, 50.0, "REVIEW"),
            ("f3", 2, 50.0, "ALLOW"),
            ("g1", 3, 7.0, "BLOCK"),
            ("g2", 4, 9.0, "ALLOW"),
            ("u1", 5, 30.0, "BLOCK"),
            ("u2", 6, 11.5, "ALLOW"),
            ("n1", 25, 1.0, "ALLOW"),
        ]
    )
    verdicts = pd.DataFrame(
        {
            "transaction_id": ["f1", "f2", "f3", "g1", "g2", "n1", "other"],
            "is_fraud": [True] * 3 + [False] * 3 + [True],
        }
    )
    report = business_report(FRAUD, made, verdicts, CAPACITY)
    assert tuple(report.columns) == report_columns(FRAUD)
    day = report.iloc[0].to_dict()
    assert day == {
        "day": "2024-01-01", "transactions": 7, "money": 257.5, "fraud_money": 200.0,
        "caught_money": 150.0, "missed_money": 50.0, "caught_share": 0.75, "reviews": 1,
        "not_reviewed": 0, "blocked": 3, "insulted": 1, "unknown": 2, "unknown_money": 41.5,
    }  # fmt: skip
    assert report.iloc[1]["day"] == "2024-01-02"
    assert pd.isna(report.iloc[1]["caught_share"])


def test_what_a_team_does_not_get_through_is_let_through() -> None:
    made = decisions(
        [
            ("b", 0, 1.0, "BLOCK"),
            ("r1", 1, 10.0, "REVIEW"),
            ("r2", 2, 20.0, "REVIEW"),
            ("r3", 3, 40.0, "REVIEW"),
            ("r4", 30, 80.0, "REVIEW"),
        ]
    )
    made.loc[3, "fraud_score"] = 0.9999  # the last one of the day, and the most suspicious
    verdicts = pd.DataFrame({"transaction_id": ["b", "r1", "r2", "r3", "r4"], "is_fraud": [True] * 5})
    report = business_report(FRAUD, made, verdicts, 2).set_index("day")
    assert report[["reviews", "not_reviewed", "blocked"]].to_numpy().tolist() == [[2, 1, 1], [1, 0, 0]]
    assert report[["caught_money", "missed_money"]].to_numpy().tolist() == [[51.0, 20.0], [80.0, 0.0]]


def test_what_has_no_verdict_is_unknown_and_not_legitimate() -> None:
    report = business_report(
        FRAUD,
        decisions([("a", 0, 5.0, "BLOCK"), ("b", 0, 6.0, "ALLOW")]),
        pd.DataFrame({"transaction_id": [], "is_fraud": []}),
        CAPACITY,
    )
    assert report[["unknown", "unknown_money", "insulted", "fraud_money"]].iloc[0].tolist() == [
        2,
        11.0,
        0,
        0.0,
    ]


def test_no_decisions_are_no_days() -> None:
    report = business_report(
        FRAUD, decisions([]), pd.DataFrame({"transaction_id": ["a"], "is_fraud": [True]}), CAPACITY
    )
    assert report.empty
    assert tuple(report.columns) == report_columns(FRAUD)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 72),
            st.integers(0, 10**9).map(lambda cents: cents / 100),
            st.sampled_from(["ALLOW", "REVIEW", "BLOCK"]),
            st.sampled_from([True, False, None]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_the_money_reconciles(table: list[tuple[int, float, str, bool | None]]) -> None:
    made = decisions(
        [(str(i), hour, amount, decision) for i, (hour, amount, decision, _) in enumerate(table)]
    )
    known = [(str(i), fraud) for i, (*_, fraud) in enumerate(table) if fraud is not None]
    report = business_report(FRAUD, made, pd.DataFrame(known, columns=["transaction_id", "is_fraud"]), 2)
    cents = {
        name: (report[name] * 100).round().astype("int64")
        for name in report_columns(FRAUD)
        if name.endswith("money")
    }
    assert (cents["fraud_money"] == cents["caught_money"] + cents["missed_money"]).all()
    assert cents["money"].sum() == sum(round(amount * 100) for _, amount, _, _ in table)
    assert cents["unknown_money"].sum() == sum(
        round(amount * 100) for _, amount, _, fraud in table if fraud is None
    )
    assert report["transactions"].sum() == len(table)
    assert (report["reviews"] <= 2).all()
    assert (report["reviews"] + report["not_reviewed"]).sum() == sum(
        decision == "REVIEW" for _, _, decision, _ in table
    )
    assert cents["fraud_money"].sum() == sum(round(amount * 100) for _, amount, _, fraud in table if fraud)


def test_two_verdicts_of_one_transaction_are_refused() -> None:
    with pytest.raises(ConflictingVerdicts, match="1 transactions have more than one verdict, a among them"):
        business_report(
            FRAUD,
            decisions([("a", 0, 1.0, "ALLOW")]),
            pd.DataFrame({"transaction_id": ["a", "a"], "is_fraud": [True, False]}),
            CAPACITY,
        )


def test_an_amount_that_is_no_number_is_named() -> None:
    with pytest.raises(UndefinedMetric, match="1 of 1 amounts"):
        business_report(
            FRAUD,
            decisions([("a", 0, float("nan"), "ALLOW")]),
            pd.DataFrame({"transaction_id": [], "is_fraud": []}),
            CAPACITY,
        )
