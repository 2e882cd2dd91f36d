"""What a version takes as normal: which payments, scored by which fit, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from world import at

from feature_repo.lake.datasets import Lake, MissingPartitions
from mlops_assets.core.learning.fits import TrainedModel
from mlops_assets.core.watching.drift_thresholds import DriftThresholds
from mlops_assets.resources.config_sections import Verdicts
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, shift, to_frame, to_table
from mlops_assets.steps.monitoring.drift_reference import MOST_ROWS, evaluation_reference, release_reference
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator, Scorer

AS_OF, M = "2025-04-10", "2025-04-07"  # with a maturity of 2 days
FEATURES = ("amount", "age")


@cache
def fitted(seed: int) -> str:
    """A few trees that rank by both features."""
    import lightgbm

    rows = np.random.default_rng(seed).uniform(0, 100, (400, 2))
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, "seed": seed}
    data = lightgbm.Dataset(
        rows, label=rows.sum(axis=1) > 150, feature_name=list(FEATURES), params=parameters
    )
    return str(lightgbm.train(parameters, data, num_boost_round=3).model_to_string())


@pytest.fixture
def model() -> TrainedModel:
    calibrator = Calibrator(0.8, -0.5)
    return TrainedModel(
        fitted(1), fitted(2), 3, calibrator, Calibrator(1.0, 0.0), Policy(0.5, 0.9), FEATURES, {}, {}, {}, 0.0
    )


def payments(day: str, count: int, seed: int = 0) -> pd.DataFrame:
    """Spread over the day, in no order."""
    drawn = np.random.default_rng([seed, int(day.replace("-", ""))])
    moments = [at(day, 0) + timedelta(seconds=86_400 * n / count) for n in range(count)]
    rows = pd.DataFrame(
        {
            "transaction_id": [f"{day} {n:05}" for n in range(count)],
            "event_timestamp": pd.to_datetime(moments),
        }
    )
    rows = rows.assign(
        created_timestamp=rows["event_timestamp"],
        amount=drawn.uniform(1, 99, count),
        age=drawn.uniform(0, 100, count),
    )
    return rows.sample(frac=1.0, random_state=1)


def arrive(lake: Lake, day: str, rows: pd.DataFrame, sound: bool = True) -> None:
    lake.write("transactions", day, to_table(rows[["transaction_id"]]), validated=sound)
    if sound:
        lake.write("feature_vectors", day, to_table(rows), validated=True)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """300 payments a day, some days before M and after D too."""
    made = Lake(settings.lake_root)
    for day in day_range("2025-04-07", "2025-04-11"):
        arrive(made, day, payments(day, 300))
    return made


def test_it_holds_every_payment_of_the_days_after_the_training_and_no_other_scored_by_the_fit_that_serves(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    found = release_reference(FRAUD, lake, settings, AS_OF, model)
    assert found is not None
    assert found.facts == {"fit": "release", "first": "2025-04-08", "last": "2025-04-09", "rows": 600}
    rows = pd.concat([payments(day, 300) for day in ("2025-04-08", "2025-04-09")]).sort_values(
        "event_timestamp"
    )
    table = to_frame(found.table)
    assert list(table) == ["amount", "age", "fraud_score"]
    assert table["amount"].tolist() == rows["amount"].tolist()
    scores = Scorer(model.release_text, model.calibrator).score(rows[list(FEATURES)].to_numpy())
    assert table["fraud_score"].tolist() == scores.tolist()
    assert len(set(scores)) > 5


def test_a_late_payment_of_a_day_that_was_trained_on_is_not_among_them(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    late = payments(M, 50, seed=7).assign(amount=1_000.0)
    arrive(lake, "2025-04-08", pd.concat([payments("2025-04-08", 300), late]))
    found = release_reference(FRAUD, lake, settings, AS_OF, model)
    assert found is not None
    assert found.table.num_rows == 600
    assert max(found.table.column("amount").to_pylist()) < 100


def test_a_day_that_did_not_pass_its_checks_is_left_out(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    arrive(lake, "2025-04-09", payments("2025-04-09", 300).assign(amount=1e6), sound=False)
    found = release_reference(FRAUD, lake, settings, AS_OF, model)
    assert found is not None
    assert (found.first, found.last, found.table.num_rows) == ("2025-04-08", "2025-04-08", 300)
    arrive(lake, "2025-04-08", payments("2025-04-08", 300), sound=False)
    assert release_reference(FRAUD, lake, settings, AS_OF, model) is None


def test_a_day_that_was_never_materialized_is_named(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    with pytest.raises(MissingPartitions, match="feature_vectors: nothing materialized for 2025-04-12"):
        release_reference(FRAUD, lake, settings, "2025-04-13", model)


def test_without_enough_payments_after_the_training_there_is_none(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    assert (
        release_reference(FRAUD, lake, replace(settings, verdicts=Verdicts(maturity_days=0)), AS_OF, model)
        is None
    )
    assert (
        release_reference(FRAUD, lake, replace(settings, drift=DriftThresholds(min_rows=600)), AS_OF, model)
        is not None
    )
    assert (
        release_reference(FRAUD, lake, replace(settings, drift=DriftThresholds(min_rows=601)), AS_OF, model)
        is None
    )
    for day in ("2025-04-08", "2025-04-09"):
        arrive(lake, day, payments(day, 0))
    assert (
        release_reference(FRAUD, lake, replace(settings, drift=DriftThresholds(min_rows=1)), AS_OF, model)
        is None
    )


def test_of_many_payments_some_are_taken_evenly_and_the_same_each_time(
    lake: Lake, settings: Settings, model: TrainedModel
) -> None:
    for day in ("2025-04-08", "2025-04-09"):
        rows = payments(day, 4_500)
        moments = rows["event_timestamp"].dt
        arrive(lake, day, rows.assign(amount=moments.hour + 24.0 * moments.day))
    found = release_reference(FRAUD, lake, settings, AS_OF, model)
    assert found is not None
    assert found.table.num_rows == MOST_ROWS
    hours = to_frame(found.table)["amount"]
    assert hours.is_monotonic_increasing
    assert set(hours.value_counts()) <= {103, 104, 105}, "each of the 48 hours"
    for day in ("2025-04-08", "2025-04-09"):
        table = lake.read("feature_vectors", [day])
        lake.write("feature_vectors", day, table.take(list(range(table.num_rows))[::-1]), validated=True)
    again = release_reference(FRAUD, lake, settings, AS_OF, model)
    assert again is not None
    assert again.table.equals(found.table)


def test_the_evaluation_fit_has_a_reference_of_its_own_on_the_holdout(model: TrainedModel) -> None:
    folds = [payments(day, 100).assign(fold=fold) for day, fold in ((shift(M, -1), "train"), (M, "holdout"))]
    found = evaluation_reference(FRAUD, pd.concat(folds), model)
    assert found.facts == {"fit": "evaluation", "first": M, "last": M, "rows": 100}
    rows = folds[1].sort_values("event_timestamp")
    scores = Scorer(model.evaluation_text, model.calibrator).score(rows[list(FEATURES)].to_numpy())
    assert to_frame(found.table)["fraud_score"].tolist() == scores.tolist()
