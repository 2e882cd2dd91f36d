import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.engine.plan import Aggregate, FeaturePlan, OnDemandPlan, ViewPlan
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict, decide
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.measuring.baseline import baseline_scores
from mlops_assets.core.judging.measuring.bootstrap import calibration_by_chance, clusters, paired_bootstrap
from mlops_assets.core.judging.measuring.measures import Scores, relative_calibration_error
from mlops_assets.core.judging.servable import lacking
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.core.learning.fits import TrainedModel, TrainingError, train
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.splits import Split
from mlops_assets.models import model_family
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.scorers.lightgbm import Scorer
from serving.contract.subject import Bands, Subject

BOUNDS = (0.05, 0.95)
FEATURES = ("amount", "amount_ratio", "fraud_rate")


def make_holdout(count: int = 4_000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": random.lognormal(3, 1, count).round(2),
            "is_fraud": random.uniform(size=count) < 0.05,
            "customer_id": random.integers(0, 400, count).astype(str),
            "merchant_id": "m",
            "event_timestamp": pd.Timestamp("2024-01-01", tz="UTC")
            + pd.to_timedelta(random.integers(0, 7 * 24, count), unit="h"),
        }
    )


def score(holdout: pd.DataFrame, skill: float, seed: int = 1) -> Scores:
    """The probability of fraud, of 5 %, given a noisy look at it: calibrated by construction."""
    seen = skill * holdout["is_fraud"].to_numpy() + np.random.default_rng(seed).normal(size=len(holdout))
    return 1 / (1 + np.exp(-(skill * seen - skill**2 / 2 + np.log(0.05 / 0.95))))


def judge(evaluation: Evaluation, subject: Subject = FRAUD, **changes: object) -> Verdict:
    agreed = {"candidate_features": FEATURES, "champion_features": FEATURES, "missing": (), "unproven": ()}
    given_as: dict[str, object] = {"gate": Gate(), **agreed, **changes}
    return decide(subject, evaluation, **given_as)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def better() -> Evaluation:
    holdout = make_holdout()
    return evaluate(FRAUD, holdout, score(holdout, 3), score(holdout, 1), None, AppliedCosts(), k=20, seed=0)


def test_a_proven_better_candidate_is_promoted_with_figures(better: Evaluation) -> None:
    verdict = judge(better)
    assert verdict.promote
    assert any(
        "average precision" in reason and f"{better.difference:+.4f}" in reason for reason in verdict.reasons
    )
    assert any("at 100 reviews a day it saves" in reason for reason in verdict.reasons)


def test_what_nobody_can_rebuild_is_refused_for_everybody_outside_of_demonstrations(
    better: Evaluation,
) -> None:
    why = "nobody can rebuild it: the tree was dirty"
    verdict = judge(better, unreproducible=why)
    assert (verdict.promote, verdict.reasons, verdict.barred) == (False, (why,), (why,))
    allowed = decide(
        FRAUD,
        better,
        Gate(allow_dirty=True),
        candidate_features=FEATURES,
        champion_features=FEATURES,
        missing=(),
        unproven=(),
        unreproducible=why,
    )
    assert allowed.promote
    assert f"{why}, which is allowed here" in allowed.reasons
    assert "it can be rebuilt from its commit" in judge(better).reasons


def test_a_worse_candidate_is_refused_with_figures() -> None:
    holdout = make_holdout()
    verdict = judge(
        evaluate(
            FRAUD,
            holdout,
            score(holdout, 1),
            score(holdout, 3),
            None,
            AppliedCosts(reviews_per_day=10),
            k=20,
            seed=0,
        )
    )
    assert not verdict.promote
    assert any("not proven to be more than 0" in reason for reason in verdict.reasons)
    assert any("more than 2% less" in reason for reason in verdict.reasons)


@settings(max_examples=20)
@given(st.integers(0, 1_000))
def test_the_champion_itself_is_never_promoted_over_itself(seed: int) -> None:
    holdout = make_holdout(2_000, seed)
    scores = score(holdout, 2, seed)
    assert not judge(
        evaluate(FRAUD, holdout, scores, scores, None, AppliedCosts(), k=20, seed=seed, resamples=50)
    ).promote


@pytest.mark.parametrize(
    "metric",
    [
        "average_precision",
        "roc_auc",
        "card_precision_at_k",
        "recall_at_1pct_fpr",
        "money_saved",
        "calibration_error",
        "relative_calibration_error",
    ],
)
@pytest.mark.parametrize("who", ["candidate", "champion"])
def test_any_metric_that_is_no_number_is_a_refusal(better: Evaluation, metric: str, who: str) -> None:
    metrics = {**better.metrics, who: {**better.metrics[who], metric: math.nan}}
    verdict = judge(replace(better, metrics=metrics))
    assert not verdict.promote
    assert any(f"{metric} of the {who} is undefined" in reason for reason in verdict.reasons)


def test_a_resample_that_is_no_number_is_a_refusal(better: Evaluation) -> None:
    assert not judge(replace(better, bootstrap=(*better.bootstrap[1:], math.nan))).promote


def test_a_share_or_a_factor_that_is_no_number_is_a_refusal(better: Evaluation) -> None:
    assert not judge(replace(better, value_factor=math.nan)).promote
    assert not judge(replace(better, train_positive_share=math.nan)).promote


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        (FEATURES, "those that the service computes, in order"),
        (("amount", "fraud_rate", "amount_ratio"), "in another order"),
        (("amount", "amount_ratio"), "with fraud_rate besides"),
        ((*FEATURES, "hour"), "without hour"),
        (("amount", "amount_ratio", "hour"), "without hour and with fraud_rate besides"),
    ],
)
def test_another_vector_that_the_service_can_compute_is_promotable_and_said(
    better: Evaluation, serving: tuple[str, ...], message: str
) -> None:
    verdict = judge(better, champion_features=serving)
    assert verdict.promote
    assert [reason for reason in verdict.reasons if message in reason]


@pytest.mark.parametrize("serving", [FEATURES, None])
def test_what_the_service_lacks_is_a_refusal(better: Evaluation, serving: tuple[str, ...] | None) -> None:
    verdict = judge(better, champion_features=serving, missing=["the stream devices (for device_stats)"])
    why = ("the service cannot compute its features: it lacks the stream devices (for device_stats)",)
    assert verdict == Verdict(False, why, barred=why)


COLUMNS = {"transactions": ("customer_id", "amount", "is_declined"), "verdicts": ("merchant_id", "is_fraud")}


def view(name: str, stream: str, *features: tuple[str, str, str], entity: str = "customer_id") -> ViewPlan:
    return ViewPlan(
        name,
        entity,
        stream,
        0,
        tuple(Aggregate(feature, column, function, 86_400_000_000) for feature, column, function in features),
    )


def plan(*views: ViewPlan, inputs: tuple[str, ...] = ("amount", "event_time_us")) -> FeaturePlan:
    context = OnDemandPlan("context", "feature_repo.fraud.context:transaction_context", inputs, ("hour",))
    return FeaturePlan("v", views, (context,), (*(a.name for v in views for a in v.aggregates), "hour"))


SERVING = plan(
    view("customer_stats", "transactions", ("spent", "amount", "sum"), ("count", "transaction_id", "count"))
)


def test_a_candidate_with_one_more_feature_of_a_stream_that_is_served_lacks_nothing() -> None:
    more = view(
        "customer_stats",
        "transactions",
        ("spent", "amount", "sum"),
        ("declines", "is_declined", "sum"),
        ("age", "event_timestamp", "seconds_since_last"),
    )
    assert lacking(FRAUD, plan(more), SERVING, COLUMNS) == []
    assert lacking(FRAUD, SERVING, plan(more), COLUMNS) == []
    assert lacking(FRAUD, SERVING, None, COLUMNS) == []


def test_a_candidate_on_a_stream_a_column_or_a_field_that_serving_does_not_have_lacks_it() -> None:
    merchants = view("merchant_stats", "verdicts", ("rate", "is_fraud", "avg"), entity="merchant_id")
    assert lacking(FRAUD, plan(merchants), SERVING, COLUMNS) == ["the stream verdicts (for merchant_stats)"]
    assert lacking(FRAUD, plan(merchants), None, COLUMNS) == []
    devices = view("device_stats", "devices", ("seen", "device_id", "count"))
    assert lacking(FRAUD, plan(devices), plan(devices), COLUMNS) == ["the stream devices (for device_stats)"]
    tips = view(
        "customer_stats", "transactions", ("tips", "tip", "sum"), ("newest", "event_timestamp", "max")
    )
    missing = [
        "the column transactions.event_timestamp (for customer_stats)",
        "the column transactions.tip (for customer_stats)",
    ]
    assert lacking(FRAUD, plan(tips), SERVING, COLUMNS) == missing
    assert lacking(FRAUD, plan(*SERVING.views, inputs=("amount", "channel")), SERVING, COLUMNS) == [
        "the request's channel"
    ]


def test_served_days_without_a_proof_of_parity_are_a_refusal_that_names_them(better: Evaluation) -> None:
    verdict = judge(
        better,
        unproven=[
            "2025-04-01 was served and not recomputed offline",
            *(f"2025-04-{n}" for n in range(10, 15)),
        ],
    )
    assert not verdict.promote
    assert verdict.reasons == (
        "training and serving are not proven to see the same features: "
        "2025-04-01 was served and not recomputed offline, 2025-04-10, 2025-04-11 and 3 days more",
    )


def test_an_objection_is_the_first_reason_of_a_refusal_and_no_reason_for_promotion_stands_beside_it(
    better: Evaluation,
) -> None:
    assert judge(better, objections=["the champion needs hour"]) == Verdict(
        False, ("the champion needs hour",)
    )


def test_too_few_frauds_prove_nothing(better: Evaluation) -> None:
    verdict = judge(replace(better, positives=49))
    assert not verdict.promote
    assert "has 49 frauds in 4,000 rows: at least 50 are needed" in verdict.reasons[0]


def test_a_first_version_must_beat_the_baseline() -> None:
    holdout = make_holdout()
    good, poor = score(holdout, 3), score(holdout, 1)
    first = evaluate(FRAUD, holdout, good, None, poor, AppliedCosts(), k=20, seed=0)
    assert judge(first, champion_features=None).promote
    assert not judge(
        evaluate(FRAUD, holdout, poor, None, good, AppliedCosts(), k=20, seed=0), champion_features=None
    ).promote
    assert not judge(
        evaluate(FRAUD, holdout, good, None, None, AppliedCosts(), k=20, seed=0), champion_features=None
    ).promote


def test_an_empty_window_is_a_refusal_that_says_so() -> None:
    verdict = judge(
        evaluate(FRAUD, make_holdout(0), np.empty(0), np.empty(0), None, AppliedCosts(), k=5, seed=0)
    )
    assert not verdict.promote
    assert "the holdout has 0 frauds in 0 rows" in verdict.reasons[0]
    assert any("there are no rows" in reason for reason in verdict.reasons)


def test_a_better_ranking_that_loses_money_is_refused(better: Evaluation) -> None:
    candidate = {
        **better.metrics["candidate"],
        "money_saved": 0.97 * better.metrics["champion"]["money_saved"],
    }
    assert not judge(replace(better, metrics={**better.metrics, "candidate": candidate})).promote


def test_a_candidate_that_gains_on_the_whole_and_loses_a_slice_is_refused_as_a_matter_of_judgement() -> None:
    holdout = make_holdout()
    candidate = np.where(holdout["amount"] >= 30, score(holdout, 0.5, seed=2), score(holdout, 3))
    evaluation = evaluate(
        replace(FRAUD, slices=(Bands("amount", (30.0,)),)),
        holdout,
        candidate,
        score(holdout, 1.5),
        None,
        AppliedCosts(reviews_per_day=1_000),
        k=20,
        seed=0,
    )
    verdict = judge(evaluation)
    assert not verdict.promote
    assert verdict.barred == ()
    (reason,) = verdict.reasons
    assert reason.startswith("amount from 30, ")
    assert (
        f"at 95% confidence it loses at least {-evaluation.slices[1].bound(0.95):.4f}, more than 0.05"
        in reason
    )
    assert judge(evaluation, gate=Gate(max_slice_loss=0.9)).promote
    assert judge(evaluation, gate=Gate(min_slice_positives=200)).promote, (
        "too few frauds to judge the slice by"
    )


def test_slices_that_are_no_worse_hardly_ever_veto_by_chance() -> None:
    """Candidate and champion are equally good in every slice: with eight slices a draw, a loss that is merely
    seen would be found all the time.
    """
    seen = proven = 0
    for seed in range(10):
        holdout = make_holdout(2_000, seed)
        bands = Bands("amount", (10.0, 15.0, 20.0, 30.0, 40.0, 60.0))
        evaluation = evaluate(
            replace(FRAUD, slices=(bands,)),
            holdout,
            score(holdout, 2, seed=1),
            score(holdout, 2, seed=2),
            None,
            AppliedCosts(),
            k=20,
            seed=seed,
            resamples=100,
        )
        losses = [
            one
            for one in evaluation.slices
            if one.positives >= 5 and one.difference is not None and one.difference < -0.05
        ]
        seen += bool(losses)
        proven += any(
            "more than 0.05" in reason and "loses" in reason for reason in judge(evaluation).reasons
        )
    assert seen >= 8
    assert proven <= 1


@pytest.mark.parametrize("factor", [1 / 3, 1 / 2, 2, 3])
def test_scores_off_by_a_factor_are_refused_and_calibrated_ones_of_a_small_holdout_pass(
    factor: float,
) -> None:
    for seed in range(3):
        holdout = make_holdout(2_000, seed)
        scores, champion = score(holdout, 2, seed), score(holdout, 0.2, seed)
        verdict = judge(
            evaluate(FRAUD, holdout, scores, champion, None, AppliedCosts(), k=20, seed=0, resamples=50)
        )
        assert verdict.promote, verdict.reasons
        verdict = judge(
            evaluate(
                FRAUD,
                holdout,
                np.clip(scores * factor, 0, 1),
                champion,
                None,
                AppliedCosts(),
                k=20,
                seed=0,
                resamples=50,
            )
        )
        assert (verdict.promote, verdict.barred) == (False, ())
        (reason,) = verdict.reasons
        assert reason.startswith("its scores are off from the observed shares of fraud by "), reason


def in_bursts(seed: int, frauds: int, burst: int, entity: str) -> tuple[pd.DataFrame, Scores, Scores]:
    """Payments of which 1 % are frauds that come in bursts, of one customer or of one merchant, and two equal
    models that look at each burst independently of each other.

    The scores of both are calibrated.
    """
    random = np.random.default_rng(seed)
    count, share, skill = frauds * 100, 0.01 / burst, 2
    fraud = random.uniform(size=count) < share
    rows = np.repeat(np.arange(count), np.where(fraud, burst, 1))
    scores = []
    for _ in range(2):
        seen = skill * fraud + random.normal(size=count)
        scores.append(
            1 / (1 + np.exp(-(skill * seen - skill**2 / 2 + np.log(burst * share / (1 - share)))))[rows]
        )
    drawn = {
        name: random.integers(0, size, len(rows))
        for name, size in (("customer_id", 1_000), ("merchant_id", 500))
    }
    drawn[entity] = drawn[entity][np.searchsorted(rows, rows)]
    first = pd.Timestamp("2024-01-01", tz="UTC")
    holdout = pd.DataFrame({**drawn, "is_fraud": fraud[rows], "amount": random.lognormal(3, 1, len(rows))})
    return (
        holdout.assign(event_timestamp=first + pd.to_timedelta(random.integers(0, 168, len(rows)), unit="h")),
        scores[0],
        scores[1],
    )


def off_beyond_the_limit_and_chance(
    entity: str, seeds: range, change: Callable[[Scores], Scores] = lambda scores: scores
) -> tuple[int, int]:
    """Of holdouts with about fifty frauds in bursts of four: how often the error is above the gate's limit,
    and how often it is above what chance comes to as well.
    """
    above = refused = 0
    for seed in seeds:
        holdout, scores, _ = in_bursts(seed, 50, 4, entity)
        fraud, scores = holdout["is_fraud"].to_numpy(), change(scores)
        error = relative_calibration_error(fraud, scores)
        above += error > Gate().max_calibration_error
        by_chance = calibration_by_chance(fraud, scores, clusters(FRAUD, holdout).values(), seed)
        refused += error > max(Gate().max_calibration_error, np.quantile(by_chance, Gate().confidence))
    return above, refused


@pytest.mark.parametrize("entity", ["customer_id", "merchant_id"])
def test_calibrated_scores_are_hardly_ever_found_off_beyond_chance_where_fifty_frauds_come_in_bursts(
    entity: str,
) -> None:
    above, refused = off_beyond_the_limit_and_chance(entity, range(60))
    assert above >= 15, "by the limit alone a third would be refused"
    assert refused <= 5


@pytest.mark.parametrize(
    "change", [lambda s: np.clip(3 * s, 0, 1), lambda s: s / 3, lambda s: 1 / (1 + (1 / s - 1) * np.exp(-2))]
)
def test_scores_that_are_far_off_are_found_to_be_also_where_fifty_frauds_come_in_bursts(
    change: Callable[[Scores], Scores],
) -> None:
    assert off_beyond_the_limit_and_chance("customer_id", range(20), change)[1] >= 16


def test_the_verdict_on_calibration_says_the_error_the_limit_and_what_chance_comes_to() -> None:
    ends = set()
    for seed in range(8):
        holdout, candidate, _ = in_bursts(seed, 50, 4, "customer_id")
        evaluation = evaluate(
            FRAUD, holdout, candidate, 1 - candidate, None, AppliedCosts(), k=20, seed=seed, resamples=100
        )
        verdict = judge(evaluation, gate=Gate(min_positives=1))
        (reason,) = [reason for reason in verdict.reasons if reason.startswith("its scores are off")]
        error, (low, high) = (
            evaluation.metrics["candidate"]["relative_calibration_error"],
            np.quantile(evaluation.calibration_by_chance, BOUNDS),
        )
        figures = f"its scores are off from the observed shares of fraud by {error:.0%} (at most 50%)"
        assert reason.startswith(
            f"{figures}; scores of a calibrated model are off by {low:.0%} to {high:.0%} by chance"
        )
        ends.add(
            (bool(error <= 0.5), bool(error <= high), verdict.promote, reason.rpartition(" by chance")[2])
        )
    assert ends == {(True, True, True, ""), (False, True, True, ": this may be chance")}


def test_an_error_of_calibration_above_the_limit_with_no_draws_to_compare_it_with_is_a_refusal(
    better: Evaluation,
) -> None:
    candidate = {**better.metrics["candidate"], "relative_calibration_error": 0.51}
    spoilt = replace(better, metrics={**better.metrics, "candidate": candidate})
    assert not judge(replace(spoilt, calibration_by_chance=())).promote
    assert judge(replace(spoilt, calibration_by_chance=(0.4,) * 90 + (0.6,) * 10)).promote


@pytest.mark.parametrize(("entity", "by"), [("customer_id", "customers"), ("merchant_id", "merchants")])
def test_an_equal_candidate_is_hardly_ever_proven_better_whatever_makes_the_frauds_come_in_bursts(
    entity: str, by: str
) -> None:
    """By customers alone, a third of them would be where ten frauds of a merchant come together."""
    proven = torn_apart = 0
    for seed in range(60):
        holdout, one, other = in_bursts(seed, 200, 10, entity)
        flags, groups = holdout["is_fraud"].to_numpy(), clusters(FRAUD, holdout)
        found, differences = paired_bootstrap(flags, one, other, groups, seed, 100)
        assert found == by
        proven += np.quantile(differences, 0.05) > 0
        wrong = {name: codes for name, codes in groups.items() if name != by}
        torn_apart += np.quantile(paired_bootstrap(flags, one, other, wrong, seed, 100)[1], 0.05) > 0
    assert torn_apart >= 15
    assert proven <= 7


def test_frauds_of_two_merchants_prove_nothing_and_a_person_may_say_otherwise() -> None:
    holdout = make_holdout()
    holdout["merchant_id"] = np.where(
        holdout["is_fraud"], holdout["customer_id"].astype(int) % 2, 2 + np.arange(len(holdout)) % 500
    ).astype(str)
    verdict = judge(
        evaluate(FRAUD, holdout, score(holdout, 3), score(holdout, 1), None, AppliedCosts(), k=20, seed=0)
    )
    assert not verdict.promote
    assert len(verdict.reasons) == 1
    assert (
        "some of 200 resamples of 502 merchants have no fraud at all: nothing is proven" in verdict.reasons[0]
    )
    assert verdict.barred == ()


# The whole way, from spoilt rows to the verdict.

SPLIT = Split(date(2024, 2, 1), maturity_days=7, holdout_days=5, train_days=20)
RECIPE = Recipe(max_rounds=60, learning_rate=0.2, patience=10, num_threads=1)


def history(seed: int = 0, per_day: int = 250) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    count = SPLIT.train_days * per_day
    ratio, rate = random.lognormal(size=count), random.uniform(size=count)
    time = pd.Timestamp(SPLIT.train_first, tz="UTC") + pd.to_timedelta(
        np.sort(random.uniform(0, SPLIT.train_days * 24 * 60 - 1, count)), unit="min"
    )
    rows = pd.DataFrame(
        {
            "transaction_id": [f"t{i:05}" for i in range(count)],
            "event_timestamp": time.floor("us"),
            "customer_id": random.integers(0, 300, count).astype(str),
            "merchant_id": "m",
            "amount": (ratio * 40).round(2),
            "amount_ratio": ratio,
            "fraud_rate": rate,
            "is_fraud": random.uniform(size=count)
            < 1 / (1 + np.exp(8 - 1.5 * np.minimum(ratio, 3) - 3.5 * rate)),
        }
    )
    return rows.assign(fold=SPLIT.label(rows["event_timestamp"]))


def whole_way(rows: pd.DataFrame, champion: TrainedModel | None, known_amounts: pd.Series) -> Verdict:
    model = train(FRAUD, model_family(), rows, FEATURES, SPLIT, RECIPE, AppliedCosts())
    held, fit = rows[rows["fold"] == "holdout"], rows[rows["fold"] == "train"]
    matrix = held[list(FEATURES)].to_numpy(dtype=np.float64)
    own = Scorer(model.evaluation_text, model.evaluation_calibrator).score(matrix)
    other = None if champion is None else Scorer(champion.evaluation_text, champion.calibrator).score(matrix)
    baseline = baseline_scores(FRAUD, fit, held, FEATURES, seed=0) if champion is None else None
    evaluation = evaluate(
        FRAUD,
        held,
        own,
        other,
        baseline,
        AppliedCosts(),
        k=20,
        seed=0,
        train=fit,
        expected_values=known_amounts,
    )
    return judge(evaluation, champion_features=None if champion is None else FEATURES)


@pytest.fixture(scope="module")
def champion() -> TrainedModel:
    return train(FRAUD, model_family(), history(), FEATURES, SPLIT, RECIPE, AppliedCosts())


def flip(rows: pd.DataFrame, where: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    hit = where(rows) & (np.random.default_rng(9).uniform(size=len(rows)) < 0.3)
    return rows.assign(is_fraud=rows["is_fraud"] ^ hit)


def times_a_hundred(rows: pd.DataFrame, where: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    factor = np.where(where(rows), 100.0, 1.0)
    return rows.assign(amount=rows["amount"] * factor, amount_ratio=rows["amount_ratio"] * factor)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["train", "holdout", "train holdout"])
@pytest.mark.parametrize("spoil", [flip, times_a_hundred])
@pytest.mark.parametrize("first_version", [False, True])
def test_spoilt_rows_are_refused(
    champion: TrainedModel,
    spoil: Callable[[pd.DataFrame, Callable[[pd.DataFrame], pd.Series]], pd.DataFrame],
    where: str,
    first_version: bool,
) -> None:
    spoilt = spoil(history(seed=1), lambda rows: rows["fold"].isin(where.split()))
    verdict = whole_way(spoilt, None if first_version else champion, history()["amount"])
    assert not verdict.promote
    assert any("believable" in reason for reason in verdict.reasons), verdict.reasons


def test_one_class_never_becomes_a_candidate() -> None:
    with pytest.raises(TrainingError, match="one class only"):
        whole_way(history(per_day=20).assign(is_fraud=False), None, history(per_day=20)["amount"])
