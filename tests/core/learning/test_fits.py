import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.learning.fits import (
    IDENTITY,
    TrainedModel,
    TrainingError,
    learnable,
    platt,
    train,
)
from mlops_assets.core.learning.hyperparameters import BadRecipe, Recipe
from mlops_assets.core.learning.splits import Split
from mlops_assets.models import model_family
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.scorers.lightgbm import Scorer

LEARNER = model_family()
FEATURES = ("amount_ratio", "fraud_rate")
SPLIT = Split(date(2024, 2, 1), maturity_days=7, holdout_days=4, train_days=14)
# Two threads wait for each other on rows this few, and leaves have to be smaller than those of a bank.
RECIPE = Recipe(
    max_rounds=60,
    learning_rate=0.3,
    patience=5,
    min_data_in_leaf=10,
    min_sum_hessian_in_leaf=0.001,
    lambda_l2=5.0,
    num_threads=1,
)


def make_rows(per_day: int = 60, seed: int = 0) -> pd.DataFrame:
    """Fourteen days on which a high ratio and a high rate mean fraud, mostly; a tenth of the rates is
    unknown.
    """
    random = np.random.default_rng(seed)
    count = SPLIT.train_days * per_day
    time = pd.Timestamp(SPLIT.train_first, tz="UTC") + pd.to_timedelta(
        np.sort(random.uniform(0, SPLIT.train_days * 24 * 60 - 1, count)), unit="min"
    )
    ratio, rate = random.lognormal(size=count), random.uniform(size=count)
    fraud = random.uniform(size=count) < 1 / (1 + np.exp(-(ratio + 3 * rate - 5.5)))
    rows = pd.DataFrame(
        {
            "transaction_id": [f"t{i:05}" for i in range(count)],
            "event_timestamp": time.floor("us"),
            "customer_id": random.integers(0, 50, count).astype(str),
            "amount": (ratio * 40).round(2),
            "is_fraud": fraud,
            "amount_ratio": ratio,
            "fraud_rate": np.where(random.uniform(size=count) < 0.1, np.nan, rate),
        }
    )
    return rows.assign(fold=SPLIT.label(rows["event_timestamp"]))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows()


@pytest.fixture(scope="module")
def model(rows: pd.DataFrame) -> TrainedModel:
    return train(FRAUD, LEARNER, rows, FEATURES, SPLIT, RECIPE, AppliedCosts())


def test_equal_rows_in_any_order_give_equal_bytes(rows: pd.DataFrame, model: TrainedModel) -> None:
    again = train(
        FRAUD, LEARNER, rows.sample(frac=1, random_state=1), FEATURES, SPLIT, RECIPE, AppliedCosts()
    )
    assert again.release_text == model.release_text
    assert replace(again, seconds=0) == replace(model, seconds=0)


@pytest.mark.slow
def test_another_process_gives_equal_bytes(model: TrainedModel) -> None:
    code = (
        "from test_fits import *\n"
        "m = train(FRAUD, LEARNER, make_rows(), FEATURES, SPLIT, RECIPE, AppliedCosts())\n"
        "print(m.digests['evaluation'], m.digests['release'], m.calibrator, m.policy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert (
        done.stdout.strip()
        == f"{model.digests['evaluation']} {model.digests['release']} {model.calibrator} {model.policy}"
    )


def test_the_digests_are_those_of_the_texts(model: TrainedModel) -> None:
    texts = {"evaluation": model.evaluation_text, "release": model.release_text}
    assert dict(model.digests) == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()
    }


def test_the_evaluation_fit_never_saw_the_holdout(rows: pd.DataFrame, model: TrainedModel) -> None:
    spoilt = rows.copy()
    held = spoilt["fold"] == "holdout"
    spoilt.loc[held, "is_fraud"] = ~spoilt.loc[held, "is_fraud"]
    other = train(FRAUD, LEARNER, spoilt, FEATURES, SPLIT, RECIPE, AppliedCosts())
    assert other.evaluation_text == model.evaluation_text
    assert (other.rounds, other.evaluation_calibrator) == (model.rounds, model.evaluation_calibrator)
    assert other.release_text != model.release_text


def test_the_release_fit_is_the_same_recipe_and_rounds_on_all_rows(model: TrainedModel) -> None:
    evaluation, release = (
        Scorer(text, model.calibrator).booster for text in (model.evaluation_text, model.release_text)
    )
    assert evaluation.num_trees() == release.num_trees() == model.rounds
    assert model.rounds < RECIPE.max_rounds, "the rounds were chosen, and are not the limit"
    parameters = [text[text.index("parameters:") :] for text in (model.evaluation_text, model.release_text)]
    assert parameters[0] == parameters[1]


def test_the_model_takes_the_features_in_order_and_ranks_fraud_first(
    rows: pd.DataFrame, model: TrainedModel
) -> None:
    assert Scorer(model.release_text, model.calibrator).features == model.features == FEATURES
    assert model.metrics["roc_auc"] > 0.6
    held = rows[rows["fold"] == "holdout"]
    assert model.metrics["holdout_rows"] == len(held)
    assert model.metrics["holdout_positives"] == held["is_fraud"].sum()
    assert set(model.metrics) >= {
        "average_precision",
        "card_precision_at_k",
        "recall_at_1pct_fpr",
        "calibration_error",
    }
    assert sum(model.importance.values()) == pytest.approx(1)


def test_a_calibrator_keeps_the_order(model: TrainedModel) -> None:
    assert model.calibrator.a > 0
    assert model.evaluation_calibrator.a > 0


def test_progress_is_told(rows: pd.DataFrame) -> None:
    said: list[str] = []
    train(FRAUD, LEARNER, rows, FEATURES, SPLIT, RECIPE, AppliedCosts(), said.append)
    assert [line.split(":")[0].split(" on ")[0] for line in said if not line.startswith("round ")] == [
        "choosing the number of rounds",
        "evaluation fit",
        "release fit",
    ]


def train_fold(rows: pd.DataFrame) -> pd.Series:
    return rows["fold"] == "train"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.iloc[:0], "the training period from 2024-01-11 to 2024-01-20 has no rows"),
        (lambda r: r[train_fold(r)], "the holdout from 2024-01-21 to 2024-01-24 has no rows"),
        (
            lambda r: r.assign(is_fraud=r["is_fraud"] & ~train_fold(r)),
            "the training period .* one class only: all .* rows are legitimate",
        ),
        (
            lambda r: r.assign(is_fraud=r["is_fraud"] | train_fold(r)),
            "the training period .* one class only: all .* rows are fraud",
        ),
        (
            lambda r: r.assign(is_fraud=r["is_fraud"] & train_fold(r)),
            "the holdout .* one class only: all .* rows are legitimate",
        ),
        (lambda r: r.assign(fraud_rate=np.nan), "null in every row of the training period: fraud_rate"),
        (
            lambda r: r.assign(amount_ratio=np.nan, fraud_rate=np.nan),
            "null in every row of the training period: amount_ratio, fraud_rate",
        ),
        (lambda r: r.assign(amount_ratio=np.inf), "infinite values in amount_ratio"),
        (lambda r: r.drop(columns="fraud_rate"), "has no column fraud_rate"),
        (
            lambda r: r.assign(is_fraud=r["is_fraud"].astype("boolean").where(r.index > 2)),
            "3 of 840 rows have no verdict",
        ),
        (lambda r: pd.concat([r, r.head(1)]), "transaction t00000 is in the training set more than once"),
        (lambda r: r.assign(fold="train"), "is marked 'train', which is not its fold as of 2024-02-01"),
        (
            lambda r: r.assign(
                is_fraud=r["is_fraud"] & (~train_fold(r) | (r["event_timestamp"].dt.day == 12))
            ),
            "the training period has fraud from 2024-01-12 to 2024-01-12 only",
        ),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_named(
    rows: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(FRAUD, LEARNER, spoil(rows), FEATURES, SPLIT, RECIPE, AppliedCosts())


def test_a_row_that_is_not_mature_is_refused(rows: pd.DataFrame) -> None:
    early = rows.head(1).assign(
        transaction_id="early", event_timestamp=pd.Timestamp("2024-01-30", tz="UTC"), is_fraud=True
    )
    with pytest.raises(
        TrainingError, match=r"transaction early of 2024-01-30 .* not its fold as of 2024-02-01"
    ):
        train(FRAUD, LEARNER, pd.concat([rows, early]), FEATURES, SPLIT, RECIPE, AppliedCosts())


def test_a_training_period_whose_last_days_hold_no_fraud_still_finds_a_tail(rows: pd.DataFrame) -> None:
    quiet = rows.assign(
        is_fraud=rows["is_fraud"] & ((rows["event_timestamp"].dt.day < 16) | ~train_fold(rows))
    )
    assert train(FRAUD, LEARNER, quiet, FEATURES, SPLIT, RECIPE, AppliedCosts()).rounds >= 1


def test_a_row_is_drawn_by_its_id_alone_and_every_fraud_is(rows: pd.DataFrame) -> None:
    known = learnable(FRAUD, rows, FEATURES, RECIPE)
    legitimate = ~known.flags
    assert known.drawn[known.flags].all()
    assert known.drawn[legitimate].mean() == pytest.approx(RECIPE.legitimate_share, abs=0.03)
    part = rows.sample(frac=0.5, random_state=1)
    assert (
        dict(zip(part["transaction_id"], learnable(FRAUD, part, FEATURES, RECIPE).drawn, strict=True)).items()
        <= dict(zip(rows["transaction_id"], known.drawn, strict=True)).items()
    )
    other = learnable(FRAUD, rows, FEATURES, replace(RECIPE, seed=RECIPE.seed + 1))
    assert (other.drawn[legitimate] != known.drawn[legitimate]).any()
    assert learnable(FRAUD, rows, FEATURES, replace(RECIPE, legitimate_share=1.0)).drawn.all()


def test_rows_that_were_not_drawn_are_counted_by_the_weights_of_the_others(rows: pd.DataFrame) -> None:
    recipe = replace(RECIPE, legitimate_share=0.3)
    model = train(FRAUD, LEARNER, rows, FEATURES, SPLIT, recipe, AppliedCosts())
    learnt = rows[train_fold(rows)]
    margins = Scorer(model.evaluation_text, IDENTITY).score(learnt[list(FEATURES)].to_numpy("float64"))
    assert margins.mean() == pytest.approx(learnt["is_fraud"].mean(), rel=0.25)  # not three times as much


def test_rounds_are_the_fewest_within_the_tolerance_of_the_best(rows: pd.DataFrame) -> None:
    known, train_days = learnable(FRAUD, rows, FEATURES, RECIPE), train_fold(rows).to_numpy()
    tail = train_days & (rows["event_timestamp"].dt.day >= 18).to_numpy()
    recipe = replace(RECIPE, tolerance=0.05)
    chosen = LEARNER.choose_rounds(known, train_days & ~tail, tail, FEATURES, recipe)
    booster, rounds, best = chosen.fitted.booster, chosen.rounds, chosen.loss

    def loss(count: int) -> float:
        return float(log_loss(known.flags[tail], booster.predict(known.matrix[tail], num_iteration=count)))

    losses = [loss(count) for count in range(1, booster.num_trees() + 1)]
    assert best == pytest.approx(min(losses))
    assert rounds == next(count for count, value in enumerate(losses, 1) if value <= min(losses) * 1.05)
    exact = replace(recipe, tolerance=0.0)
    assert rounds < LEARNER.choose_rounds(known, train_days & ~tail, tail, FEATURES, exact).rounds


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"legitimate_share": 0.0}, "legitimate_share of 0.0"),
        ({"legitimate_share": 1.1}, "legitimate_share of 1.1"),
        ({"tolerance": -0.1}, "tolerance of -0.1"),
        ({"tail_days": 0}, "tail_days of 0"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        replace(RECIPE, **wrong)  # type: ignore[arg-type]


@settings(max_examples=10)
@given(st.floats(0.5, 3), st.floats(-3, 3), st.integers(0, 100))
def test_platt_finds_the_line_that_the_labels_were_drawn_from(a: float, b: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    margins = random.normal(0, 2, 5_000)
    found = platt(margins, random.uniform(size=5_000) < 1 / (1 + np.exp(-(a * margins + b))))
    assert found.a == pytest.approx(a, abs=0.5)
    assert found.b == pytest.approx(b, abs=0.5)


def test_platt_never_turns_a_ranking_round() -> None:
    assert platt(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False])) == IDENTITY
