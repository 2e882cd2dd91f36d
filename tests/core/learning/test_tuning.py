"""The search for a recipe: on later days than those learnt from, never on the holdout, and the same wherever
it is made.
"""

import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fits import FEATURES, LEARNER, RECIPE, SPLIT, make_rows

from mlops_assets.core.learning.fits import learnable
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.search_budget import Tuning, TuningError
from mlops_assets.core.learning.splits import Split
from mlops_assets.core.learning.tuning import Fold, Study, Trial, folds_of, search
from mlops_assets.models.lightgbm import SPACE
from mlops_assets.use_cases.fraud.case import FRAUD

TUNING = Tuning(trials=12, folds=2, fold_days=3)  # some of them are given up
WEAK = replace(
    RECIPE, num_leaves=3, learning_rate=0.02, lambda_l2=80.0
)  # within a few trials there is a better one


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows(per_day=300)


@pytest.fixture(scope="module")
def study(rows: pd.DataFrame) -> Study:
    return search(FRAUD, LEARNER, rows, FEATURES, SPLIT, WEAK, TUNING)


@given(training_days=st.integers(1, 120), folds=st.integers(1, 6), fold_days=st.integers(1, 20))
def test_folds_are_the_last_training_days_in_order_without_overlap_and_leave_as_many_to_learn_from(
    training_days: int, folds: int, fold_days: int
) -> None:
    split = Split(date(2024, 6, 1), maturity_days=7, holdout_days=5, train_days=training_days + 5)
    if training_days < (folds + 1) * fold_days:
        with pytest.raises(
            TuningError,
            match=(
                rf"there are {training_days} training days; {folds} folds of {fold_days} days.* need"
                rf" {(folds + 1) * fold_days}"
            ),
        ):
            folds_of(split, Tuning(1, folds, fold_days))
        return
    made = folds_of(split, Tuning(1, folds, fold_days))
    days = [fold.first + timedelta(days=n) for fold in made for n in range((fold.last - fold.first).days + 1)]
    assert days == [split.evaluation_last - timedelta(days=n) for n in reversed(range(folds * fold_days))]
    assert (made[0].first - split.train_first).days >= fold_days


def test_the_holdout_is_not_looked_at(rows: pd.DataFrame, study: Study) -> None:
    spoilt = rows.copy()
    held = spoilt["fold"] == "holdout"
    spoilt.loc[held, "is_fraud"] = ~spoilt.loc[held, "is_fraud"]
    spoilt.loc[held, list(FEATURES)] = 1e9
    assert search(FRAUD, LEARNER, spoilt, FEATURES, SPLIT, WEAK, TUNING) == study
    assert search(FRAUD, LEARNER, rows[~held], FEATURES, SPLIT, WEAK, TUNING) == study


def test_a_fold_is_measured_on_its_days_by_what_learnt_from_the_days_before_it(
    rows: pd.DataFrame, study: Study
) -> None:
    known, days = learnable(FRAUD, rows, FEATURES, WEAK), rows["event_timestamp"].dt.date.to_numpy()
    assert study.folds == (
        Fold(date(2024, 1, 15), date(2024, 1, 17)),
        Fold(date(2024, 1, 18), date(2024, 1, 20)),
    )
    for number, fold in enumerate(study.folds):
        measured = (days >= fold.first) & (days <= fold.last)
        assert (
            study.configured.losses[number]
            == LEARNER.choose_rounds(known, days < fold.first, measured, FEATURES, WEAK).loss
        )


def test_equal_rows_in_any_order_give_the_same_trials(rows: pd.DataFrame, study: Study) -> None:
    assert search(FRAUD, LEARNER, rows.sample(frac=1, random_state=1), FEATURES, SPLIT, WEAK, TUNING) == study


@pytest.mark.slow
def test_another_process_gives_the_same_trials(study: Study) -> None:
    code = (
        "from test_tuning import *\n"
        "print(search(FRAUD, LEARNER, make_rows(per_day=300), FEATURES, SPLIT, WEAK, TUNING))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.strip() == str(study)
    assert done.stderr == "", "Optuna keeps silent"


def test_another_seed_tries_other_recipes(rows: pd.DataFrame, study: Study) -> None:
    other = search(
        FRAUD, LEARNER, rows, FEATURES, SPLIT, replace(WEAK, seed=WEAK.seed + 1), replace(TUNING, trials=2)
    )
    assert other.trials[1].searched != study.trials[1].searched


def test_the_configured_recipe_is_the_first_trial_and_goes_for_a_better_one_only(study: Study) -> None:
    assert study.configured.recipe == WEAK
    assert study.best.loss < study.configured.loss
    assert study.best.loss == min(trial.loss for trial in study.trials if not trial.given_up)
    assert replace(study.best.recipe, **study.configured.searched) == WEAK, (
        "what is not searched is as configured"
    )


def test_of_equal_trials_the_earliest_is_taken() -> None:
    trials = tuple(
        Trial(number, replace(WEAK, num_leaves=number + 2), (0.2, 0.4), False, {}) for number in range(3)
    )
    assert Study((), trials).best == trials[0]


def test_a_trial_that_was_given_up_is_never_the_best() -> None:
    configured, lucky = Trial(0, WEAK, (0.2, 0.4), False, {}), Trial(1, RECIPE, (0.1,), True, {})
    assert Study((), (configured, lucky)).best == configured


def test_a_hopeless_trial_is_given_up_before_its_last_fold(study: Study) -> None:
    given_up = [trial for trial in study.trials if trial.given_up]
    assert given_up
    assert {len(trial.losses) for trial in given_up} == {1}
    assert all(len(trial.losses) == 2 for trial in study.trials if not trial.given_up)
    assert not any(trial.given_up for trial in study.trials[:5]), "the median of fewer says little"


def test_every_trial_but_the_first_is_within_the_ranges_which_hold_the_configured_values(
    study: Study,
) -> None:
    for trial in study.trials[1:]:
        for name, value in trial.searched.items():
            within, configured = SPACE[name], getattr(WEAK, name)
            assert min(within.low, configured) <= value <= max(within.high, configured), name
    assert isinstance(study.trials[1].recipe.num_leaves, int)


def test_each_trial_is_told_with_the_best_so_far(rows: pd.DataFrame, study: Study) -> None:
    told: list[tuple[Trial, Trial]] = []
    search(
        FRAUD, LEARNER, rows, FEATURES, SPLIT, WEAK, TUNING, lambda trial, best: told.append((trial, best))
    )
    assert [trial for trial, _ in told] == list(study.trials)
    assert told[-1][1] == study.best
    assert all(later.loss <= earlier.loss for (_, earlier), (_, later) in pairwise(told))


def test_the_default_recipe_lies_within_the_ranges() -> None:
    for name, within in SPACE.items():
        assert within.low <= getattr(Recipe(), name) <= within.high, name


def test_a_fold_of_one_class_is_named(rows: pd.DataFrame) -> None:
    days = rows["event_timestamp"].dt.date
    quiet = rows.assign(is_fraud=rows["is_fraud"] & ((days < date(2024, 1, 15)) | (days > date(2024, 1, 17))))
    with pytest.raises(
        TuningError, match=r"the days from 2024-01-15 to 2024-01-17 have 0 frauds in \d+ rows"
    ):
        search(FRAUD, LEARNER, quiet, FEATURES, SPLIT, RECIPE, TUNING)
    late = rows.assign(is_fraud=rows["is_fraud"] & (days >= date(2024, 1, 15)))
    with pytest.raises(TuningError, match=r"the training days before 2024-01-15 have 0 frauds in \d+ rows"):
        search(FRAUD, LEARNER, late, FEATURES, SPLIT, RECIPE, TUNING)


def test_a_configured_value_that_a_logarithm_does_not_take_is_named(rows: pd.DataFrame) -> None:
    with pytest.raises(TuningError, match=r"lambda_l2 of 0\.0 in the recipe"):
        search(FRAUD, LEARNER, rows, FEATURES, SPLIT, replace(RECIPE, lambda_l2=0.0), TUNING)


@pytest.mark.parametrize("values", [{"trials": -1}, {"folds": 0}, {"fold_days": 0}])
def test_a_search_that_cannot_be_meant_is_named(values: dict[str, int]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(TuningError, match=f"{name} of {value}"):
        Tuning(**values)
