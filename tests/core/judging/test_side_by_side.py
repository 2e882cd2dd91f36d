import json
import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring.baseline import baseline_scores
from mlops_assets.core.judging.measuring.bootstrap import paired_bootstrap, weighted_value_saved
from mlops_assets.core.judging.measuring.measures import Scores, UndefinedMetric, average_precision
from mlops_assets.core.judging.measuring.money import reviewed_at_capacity
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.subject import Bands


def make_holdout(count: int = 4_000, seed: int = 0, share: float = 0.05) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": random.lognormal(3, 1, count).round(2),
            "is_fraud": random.uniform(size=count) < share,
            "customer_id": random.integers(0, 400, count).astype(str),
            "merchant_id": "m",
            "event_timestamp": pd.Timestamp("2024-01-01", tz="UTC")
            + pd.to_timedelta(random.integers(0, 7 * 24, count), unit="h"),
        }
    )


def score(holdout: pd.DataFrame, skill: float, seed: int = 1) -> Scores:
    noise = np.random.default_rng(seed).normal(size=len(holdout))
    return 1 / (1 + np.exp(-(skill * holdout["is_fraud"].to_numpy() + noise - 3)))


def test_a_better_model_is_seen_to_be_better() -> None:
    holdout = make_holdout()
    evaluation = evaluate(
        FRAUD, holdout, score(holdout, 3), score(holdout, 1), score(holdout, 0), AppliedCosts(), k=20, seed=0
    )
    assert evaluation.reference == "champion"
    assert set(evaluation.metrics) == {"candidate", "champion", "baseline"}
    assert evaluation.lower_bound(0.95) > 0
    assert evaluation.lower_bound(0.5) == pytest.approx(evaluation.difference, abs=0.03)
    candidate, champion = evaluation.metrics["candidate"], evaluation.metrics["champion"]
    better = ("average_precision", "roc_auc", "card_precision_at_k", "recall_at_1pct_fpr", "money_saved")
    assert all(candidate[name] > champion[name] for name in better)
    assert (evaluation.first_day, evaluation.last_day) == ("2024-01-01", "2024-01-07")


def test_without_a_champion_the_baseline_is_the_reference() -> None:
    holdout = make_holdout(500)
    assert (
        evaluate(
            FRAUD, holdout, score(holdout, 3), None, score(holdout, 1), AppliedCosts(), k=5, seed=0
        ).reference
        == "baseline"
    )
    alone = evaluate(FRAUD, holdout, score(holdout, 3), None, None, AppliedCosts(), k=5, seed=0)
    assert alone.reference == "none"
    assert math.isnan(alone.difference)
    assert math.isnan(alone.lower_bound(0.9))


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_interval_of_identical_scores_holds_nothing_but_zero(seed: int) -> None:
    holdout = make_holdout(300, seed, share=0.3)  # a draw without any fraud would be NaN, as documented
    scores = score(holdout, 2, seed)
    evaluation = evaluate(
        FRAUD, holdout, scores, scores.copy(), None, AppliedCosts(), k=5, seed=seed, resamples=50
    )
    assert set(evaluation.bootstrap) == {0.0}
    assert evaluation.lower_bound(0.9) == evaluation.difference == 0.0


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 4), st.integers(0, 5)),
        min_size=1,
        max_size=25,
    ).filter(lambda rows: any(row[0] for row in rows)),
    st.integers(0, 3),
)
def test_a_resample_is_average_precision_on_the_customers_drawn(
    rows: list[tuple[bool, int, int, int]], seed: int
) -> None:
    fraud, one, customer, other = (np.array(column) for column in zip(*rows, strict=True))
    codes = np.unique(customer, return_inverse=True)[1]
    count = codes.max() + 1
    draw = np.random.default_rng(seed).integers(0, count, size=count)
    drawn = np.concatenate([np.flatnonzero(codes == c) for c in draw])
    _, (found,) = paired_bootstrap(
        fraud, one.astype(float), other.astype(float), {"customers": codes}, seed, 1
    )
    if not fraud[drawn].any():
        assert math.isnan(found)
    elif fraud[drawn].all():
        assert found == pytest.approx(0)
    else:
        assert found == pytest.approx(
            average_precision(fraud[drawn], one[drawn]) - average_precision(fraud[drawn], other[drawn])
        )


def test_the_same_seed_gives_the_same_interval() -> None:
    holdout = make_holdout(500)
    runs = [
        evaluate(
            FRAUD, holdout, score(holdout, 2), score(holdout, 1), None, AppliedCosts(), k=5, seed=7
        ).bootstrap
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 200


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_class_gives_undefined_metrics_with_their_reason_and_no_zeros(share: float) -> None:
    holdout = make_holdout(100, share=share)
    evaluation = evaluate(
        FRAUD, holdout, score(holdout, 1), score(holdout, 2), None, AppliedCosts(), k=5, seed=0
    )
    assert math.isnan(evaluation.metrics["candidate"]["average_precision"])
    assert (
        evaluation.undefined["candidate.average_precision"] == f"{int(100 * share)} of 100 rows are positive"
    )
    assert math.isnan(evaluation.difference)


def test_an_empty_window_is_described_and_not_a_crash() -> None:
    evaluation = evaluate(FRAUD, make_holdout(0), np.empty(0), np.empty(0), None, AppliedCosts(), k=5, seed=0)
    assert (evaluation.rows, evaluation.positives, evaluation.clusters["customers"]) == (0, 0, 0)
    assert evaluation.undefined["candidate.money_saved"] == "there are no rows"
    assert json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))["difference"] is None


def test_scores_that_are_no_numbers_are_undefined() -> None:
    holdout = make_holdout(100)
    evaluation = evaluate(
        FRAUD, holdout, np.full(100, np.nan), score(holdout, 2), None, AppliedCosts(), k=5, seed=0
    )
    assert all(math.isnan(value) for value in evaluation.metrics["candidate"].values())


def test_scores_for_other_rows_are_refused() -> None:
    holdout = make_holdout(10)
    with pytest.raises(ValueError, match="champion: 9 scores for 10 rows"):
        evaluate(FRAUD, holdout, score(holdout, 1), np.zeros(9), None, AppliedCosts(), k=5, seed=0)


def test_the_slices_cover_every_row_and_say_their_size() -> None:
    holdout = make_holdout(1_000)
    banded = replace(FRAUD, slices=(Bands("amount", (10.0, 10_000.0)),))
    evaluation = evaluate(banded, holdout, score(holdout, 2), None, None, AppliedCosts(), k=5, seed=0)
    assert [s.name for s in evaluation.slices] == [
        "amount under 10",
        "amount from 10 to 10000",
        "amount from 10000",
    ]
    assert sum(s.rows for s in evaluation.slices) == 1_000
    assert sum(s.positives for s in evaluation.slices) == evaluation.positives
    assert (evaluation.slices[2].rows, evaluation.slices[2].candidate, evaluation.slices[0].reference) == (
        0,
        None,
        None,
    )


def test_customers_and_merchants_are_told_apart_by_what_the_training_rows_know_of_them() -> None:
    holdout = make_holdout(6).assign(
        customer_id=["old", "old", "new", "new", "old", "old"],
        merchant_id=["defrauded", "clean", "defrauded", "unseen", "clean", "unseen"],
        is_fraud=[True, False, True, False, True, False],
    )
    train = make_holdout(3).assign(
        customer_id="old", merchant_id=["defrauded", "defrauded", "clean"], is_fraud=[True, False, False]
    )  # a merchant with one fraud among honest payments is one with known fraud
    found = evaluate(
        FRAUD, holdout, score(holdout, 2), score(holdout, 1), None, AppliedCosts(), k=5, seed=0, train=train
    ).slices
    assert {s.name: (s.rows, s.positives) for s in found if not s.name.startswith("amount")} == {
        "known customers": (4, 2),
        "new customers": (2, 1),
        "merchants with known fraud": (2, 2),
        "merchants without known fraud": (2, 1),
        "new merchants": (2, 0),
    }
    assert {s.name for s in found if s.candidate is None and not s.name.startswith("amount")} == {
        "merchants with known fraud",
        "new merchants",
    }


def test_a_slice_is_resampled_by_its_own_customers_and_leaves_out_draws_without_fraud() -> None:
    holdout = make_holdout(2_000).assign(amount=1.0)
    holdout.loc[holdout["is_fraud"], "customer_id"] = "the only victim"
    slices = evaluate(
        FRAUD, holdout, score(holdout, 3), score(holdout, 1), None, AppliedCosts(), k=5, seed=0
    ).slices
    victims = slices[0]
    assert (victims.rows, slices[1].bootstrap) == (2_000, ())
    assert 50 < len(victims.bootstrap) < 200, "about a third of the draws are without the one customer"
    assert victims.bound(0.05) <= victims.bound(0.95)
    assert math.isnan(slices[1].bound(0.05))


@given(st.integers(0, 10_000), st.integers(0, 4))
def test_the_money_of_a_resample_is_what_its_payments_save_at_the_same_capacity(
    seed: int, reviews: int
) -> None:
    random = np.random.default_rng(seed)
    holdout = make_holdout(60, seed, share=0.3)
    codes, scores = pd.factorize(holdout["customer_id"])[0] % 7, random.permutation(60).astype(float)
    days = holdout["event_timestamp"].dt.strftime("%Y-%m-%d")
    costs = AppliedCosts(missed_share=0.5, reviews_per_day=reviews)
    times_drawn = np.bincount(random.integers(0, 7, 7), minlength=7)
    saved = weighted_value_saved(
        holdout["amount"].to_numpy(), holdout["is_fraud"].to_numpy(), scores, days, costs, codes
    )(times_drawn)
    drawn = np.repeat(np.arange(60), times_drawn[codes])
    reviewed = reviewed_at_capacity(scores[drawn], days.iloc[drawn], reviews)
    caught = reviewed & holdout["is_fraud"].to_numpy()[drawn]
    assert saved == pytest.approx(0.5 * holdout["amount"].to_numpy()[drawn][caught].sum())


def test_the_intervals_hold_the_figures_that_they_are_about() -> None:
    holdout = make_holdout()
    evaluation = evaluate(
        FRAUD,
        holdout,
        score(holdout, 3),
        score(holdout, 1),
        None,
        AppliedCosts(reviews_per_day=10),
        k=20,
        seed=0,
    )
    assert set(evaluation.intervals) == {
        f"{who}.{what}"
        for who in ("candidate", "champion", "difference")
        for what in ("average_precision", "money_saved")
    }
    for who in ("candidate", "champion"):
        for metric in ("average_precision", "money_saved"):
            low, high = evaluation.intervals[f"{who}.{metric}"]
            assert low < evaluation.metrics[who][metric] < high
    assert evaluation.intervals["difference.average_precision"][0] == evaluation.lower_bound(0.95) > 0
    assert evaluation.intervals["difference.money_saved"][0] > 0
    alone = evaluate(FRAUD, holdout, score(holdout, 3), None, None, AppliedCosts(), k=20, seed=0)
    assert set(alone.intervals) == {"candidate.average_precision", "candidate.money_saved"}


def test_payments_without_a_verdict_are_counted_and_in_no_figure() -> None:
    holdout = make_holdout(98)
    known = evaluate(FRAUD, holdout, score(holdout, 2), None, None, AppliedCosts(), k=5, seed=0)
    told = evaluate(
        FRAUD,
        holdout,
        score(holdout, 2),
        None,
        None,
        AppliedCosts(),
        k=5,
        seed=0,
        unknown_values=[100.0, 0.25],
    )
    assert (told.unknown_rows, told.unknown_value, told.unknown_share) == (2, 100.25, 0.02)
    assert (known.unknown_rows, known.unknown_share) == (None, None)
    assert (told.metrics, told.rows) == (known.metrics, 98)


def test_amounts_times_a_hundred_are_measured() -> None:
    holdout = make_holdout(1_000)
    train = make_holdout(2_000, seed=3)
    expected = make_holdout(2_000, seed=4)["amount"]
    cents, spoilt = holdout.assign(amount=holdout["amount"] * 100), train.assign(amount=train["amount"] * 100)

    def factor(rows: pd.DataFrame, **known: object) -> float | None:
        return evaluate(
            FRAUD, rows, score(holdout, 2), None, None, AppliedCosts(), k=5, seed=0, **known
        ).value_factor  # type: ignore[arg-type]

    assert factor(holdout) is None
    assert factor(holdout, train=train, expected_values=expected) == pytest.approx(1, abs=0.2)
    assert factor(cents, train=train) == pytest.approx(100, rel=0.2)
    assert factor(holdout, train=spoilt) == pytest.approx(100, rel=0.2)
    assert factor(holdout, train=spoilt, expected_values=expected) == pytest.approx(100, rel=0.2)
    assert factor(cents, train=spoilt, expected_values=expected) == pytest.approx(100, rel=0.2)
    assert math.isnan(factor(holdout, train=train.head(0)) or 0)


def test_to_dict_is_plain_json() -> None:
    holdout = make_holdout(500)
    plain = evaluate(
        FRAUD, holdout, score(holdout, 2), score(holdout, 1), None, AppliedCosts(), k=5, seed=0
    ).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["bootstrap"]["resamples"] == 200
    assert plain["bootstrap"]["q05"] <= plain["bootstrap"]["q95"]


def learnable(count: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    useful = random.normal(size=count)
    rows = pd.DataFrame(
        {
            "useful": useful,
            "empty": np.nan,
            "is_fraud": random.uniform(size=count) < 1 / (1 + np.exp(3 - 2 * useful)),
        }
    )
    rows.loc[::7, "useful"] = np.nan
    return rows


def test_the_baseline_learns_with_nulls_and_repeats_itself(recwarn: pytest.WarningsRecorder) -> None:
    train, holdout = learnable(3_000, 0), learnable(1_000, 1)
    scores = baseline_scores(FRAUD, train, holdout, ["useful", "empty"], seed=0)
    assert average_precision(holdout["is_fraud"], scores) > 2 * holdout["is_fraud"].mean()
    assert (scores == baseline_scores(FRAUD, train, holdout, ["useful", "empty"], seed=0)).all()
    assert [str(w.message) for w in recwarn] == []


def test_a_baseline_of_one_class_is_undefined() -> None:
    with pytest.raises(UndefinedMetric, match="the baseline is undefined: 0 of 50"):
        baseline_scores(FRAUD, learnable(50, 0).assign(is_fraud=False), learnable(10, 1), ["useful"], seed=0)


@pytest.mark.slow
def test_two_hundred_resamples_of_two_hundred_thousand_rows_are_quick() -> None:
    random = np.random.default_rng(0)
    fraud, groups = random.uniform(size=200_000) < 0.01, random.integers(0, 5_000, 200_000)
    started = time.perf_counter()
    paired_bootstrap(
        fraud, random.uniform(size=200_000), random.uniform(size=200_000), {"customers": groups}, 0, 200
    )
    assert time.perf_counter() - started < 20
