"""A use case without money, with two decisions and labels both ways: all figures are counts of cases."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_assets.core.judging.costs import AppliedCosts, BadCosts, GivenCosts
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import decide
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.measuring.bootstrap import clusters
from mlops_assets.core.judging.measuring.money import NEVER, business_report, policy_from_costs
from mlops_assets.core.judging.past_quality import with_verdicts
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.core.learning.eligible_rows import event_columns
from serving.contract.policy import decide as decision_on
from serving.contract.subject import Bands, Decisions, Event, Key, Known, Labels, Number, Subject
from serving.contract.subject import Costs as DeclaredCosts

PARCELS = Subject(
    name="parcels",
    event=Event(
        noun="parcel",
        dataset="parcels",
        id="parcel_id",
        keys=(Key("route"), Key("vehicle_id", nullable=True)),
        columns=(Number("distance_km", 0, 10_000),),
    ),
    labels=Labels(
        name="is_late", positive="late", negative="on time", silence="unknown", maturity=timedelta(days=2)
    ),
    decisions=Decisions(passes="ON_TIME", looks="WARN", costs=DeclaredCosts(review=0.1)),
    slices=(Bands("distance_km", (50,)), Known("route")),
    clusters=("route", "vehicle_id"),
)
COSTS = AppliedCosts.of(PARCELS, GivenCosts(reviews_per_day=10))


def holdout(count: int = 3_000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    vehicle = pd.Series(random.integers(0, 40, count).astype(str)).where(random.uniform(size=count) > 0.3)
    return pd.DataFrame(
        {
            "parcel_id": [f"p{n}" for n in range(count)],
            "route": random.integers(0, 200, count).astype(str),
            "vehicle_id": vehicle.to_numpy(dtype=object),
            "distance_km": random.uniform(1, 300, count),
            "is_late": random.uniform(size=count) < 0.1,
            "event_timestamp": pd.Timestamp("2025-03-01", tz="UTC")
            + pd.to_timedelta(random.integers(0, 7 * 24, count), unit="h"),
        }
    )


def scores(rows: pd.DataFrame, skill: float, seed: int = 1) -> np.ndarray:
    seen = skill * rows["is_late"].to_numpy() + np.random.default_rng(seed).normal(size=len(rows))
    return 1 / (1 + np.exp(-(skill * seen - skill**2 / 2 + np.log(0.1 / 0.9))))


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    rows = holdout()
    return evaluate(
        PARCELS, rows, scores(rows, 3), scores(rows, 1), None, COSTS, k=5, seed=0, train=holdout(seed=3)
    )


def test_an_evaluation_counts_cases_and_knows_no_value(measured: Evaluation) -> None:
    saved = measured.metrics["candidate"]["cases_saved"]
    assert saved == int(saved)
    assert saved <= 7 * 10
    assert "money_saved" not in measured.metrics["candidate"]
    assert not [name for name in measured.metrics["candidate"] if name.endswith("precision_at_k")]
    assert (measured.value, measured.value_factor, measured.unknown_value) == (None, None, None)
    assert set(measured.clusters) == {"routes", "vehicles"}
    assert {one.name for one in measured.slices} == {
        "distance km under 50",
        "distance km from 50",
        "known routes",
        "new routes",
    }


def test_the_gate_speaks_of_late_parcels_and_of_cases(measured: Evaluation) -> None:
    verdict = decide(
        PARCELS,
        measured,
        Gate(),
        candidate_features=("distance_km",),
        champion_features=None,
        missing=(),
        unproven=(),
    )
    told = "; ".join(verdict.reasons)
    assert verdict.promote, told
    assert "late parcels in 3,000 rows" in told
    assert " cases, the champion " in told
    assert not [word for word in ("fraud", "customer", "merchant", "amount") if word in told]


def test_rows_with_a_null_key_are_not_one_group() -> None:
    rows = holdout(200)
    codes = clusters(PARCELS, rows)["vehicles"]
    absent = rows["vehicle_id"].isna().to_numpy()
    assert len(np.unique(codes[absent])) == absent.sum() > 1
    assert not set(codes[absent]) & set(codes[~absent])
    assert codes.max() + 1 == len(np.unique(codes))


def test_with_two_decisions_nothing_is_stopped() -> None:
    rows = holdout(1_000)
    found = scores(rows, 3)
    policy = policy_from_costs(
        found, np.ones(1_000), rows["is_late"], rows["event_timestamp"].dt.date, COSTS, stops=False
    )
    assert policy.block == NEVER
    assert {decision_on(score, policy, PARCELS.decisions) for score in [*found, 1.0]} == {"ON_TIME", "WARN"}


def test_the_report_of_a_day_counts_cases() -> None:
    at = pd.Timestamp("2025-03-01", tz="UTC")
    made = pd.DataFrame(
        {
            "parcel_id": ["a", "b", "c", "d"],
            "event_timestamp": at,
            "decision": ["WARN", "ON_TIME", "WARN", "ON_TIME"],
            "score": [0.9, 0.1, 0.8, 0.2],
        }
    )
    verdicts = pd.DataFrame({"parcel_id": ["a", "b", "c"], "is_late": [True, True, False]})
    (day,) = business_report(PARCELS, made, verdicts, reviews_per_day=10).to_dict("records")
    assert day == {
        "day": "2025-03-01",
        "parcels": 4,
        "cases": 4.0,
        "late_cases": 2.0,
        "caught_cases": 1.0,
        "missed_cases": 1.0,
        "caught_share": 0.5,
        "reviews": 2,
        "not_reviewed": 0,
        "blocked": 0,
        "insulted": 0,
        "unknown": 1,
        "unknown_cases": 1.0,
    }


def test_where_silence_says_nothing_only_labelled_events_are_mature() -> None:
    at = pd.to_datetime(["2025-03-01", "2025-03-01", "2025-03-09"], utc=True)
    rows = pd.DataFrame({"parcel_id": ["a", "b", "c"], "event_timestamp": at, "created_timestamp": at})
    known = pd.Series({"a": False, "c": True}, dtype="boolean")
    found = with_verdicts(PARCELS, rows, known, date(2025, 3, 2))
    assert found["mature"].tolist() == [True, False, False]
    assert found["is_late"].isna().tolist() == [False, True, True]


def test_learning_looks_at_keys_and_at_the_numbers_that_slices_go_by() -> None:
    assert event_columns(PARCELS) == ("parcel_id", "route", "vehicle_id", "distance_km")


def test_costs_are_the_use_cases_where_the_configuration_gives_none() -> None:
    assert AppliedCosts.of(PARCELS, GivenCosts()) == AppliedCosts(1.0, 0.1, 0.0, 100)
    assert AppliedCosts.of(PARCELS, GivenCosts(review_cost=0.5, insult_cost=2.0)) == AppliedCosts(
        1.0, 0.5, 2.0, 100
    )


def test_costs_that_nobody_gives_are_named() -> None:
    silent = replace(PARCELS, decisions=replace(PARCELS.decisions, costs=None))
    with pytest.raises(BadCosts, match=r"'parcels' declares no costs, and \[costs\] has no missed_share"):
        AppliedCosts.of(silent, GivenCosts(review_cost=1.0, insult_cost=1.0))
