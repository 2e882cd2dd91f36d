"""What every model family promises: equal bytes, one score everywhere, and a file that scores alike."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.learner import Learnable
from mlops_assets.models import UnknownFamily, model_family
from mlops_assets.models.base import ModelFamily
from mlops_assets.models.lightgbm_onnx import score_with_onnx
from serving.contract.before_subjects import BEFORE
from serving.contract.bundle import Release
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator, Scorer

FEATURES = ("size", "age")
RECIPE = Recipe(
    max_rounds=15, legitimate_share=1.0, min_data_in_leaf=10, min_sum_hessian_in_leaf=0.001, num_threads=1
)
CALIBRATOR = Calibrator(1.2, -0.1)


@pytest.fixture(params=["lightgbm"])
def family(request: pytest.FixtureRequest) -> ModelFamily:
    return model_family(request.param)


@pytest.fixture(scope="module")
def rows() -> Learnable:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(800, 2))
    flags = random.uniform(size=800) < 1 / (1 + np.exp(2 - 3 * matrix[:, 0]))
    matrix[random.uniform(size=matrix.shape) < 0.1] = np.nan
    return Learnable(matrix, flags, np.ones(800, dtype=bool))


def half(rows: Learnable, first: bool) -> Any:
    return (np.arange(len(rows.flags)) < 400) == first


def release(rows: Learnable, text: str) -> Release:
    vectors = [[None if v != v else float(v) for v in row] for row in rows.matrix[:3]]
    golden = [float(score) for score in Scorer(text, CALIBRATOR).score(rows.matrix[:3])]
    plan = FeaturePlan("service", (), (), FEATURES)
    return Release(BEFORE, plan, FEATURES, text, CALIBRATOR, Policy(0.5, 0.9), 7.0, {}, (vectors, golden))


def test_equal_rows_give_equal_bytes(family: ModelFamily, rows: Learnable) -> None:
    every = np.ones(800, dtype=bool)
    one, other = (family.fit(rows, every, FEATURES, RECIPE, 5) for _ in range(2))
    assert one.text == other.text
    assert one.text != family.fit(rows, every, FEATURES, replace(RECIPE, seed=1), 5).text


def test_the_rounds_are_the_fewest_within_the_tolerance_of_the_best_loss_on_the_other_rows(
    family: ModelFamily, rows: Learnable
) -> None:
    head, tail = half(rows, True), half(rows, False)
    found = family.choose_rounds(rows, head, tail, FEATURES, RECIPE)
    fits = [family.fit(rows, head, FEATURES, RECIPE, n + 1) for n in range(RECIPE.max_rounds)]
    losses = np.array([log_loss(rows.flags[tail], one.margins(rows.matrix[tail])) for one in fits])
    assert found.loss == pytest.approx(losses.min(), rel=1e-9)
    within = np.flatnonzero(losses <= losses.min() * (1 + RECIPE.tolerance))
    assert found.rounds == within[0] + 1 < RECIPE.max_rounds


def log_loss(flags: Any, margins: Any) -> float:
    return float(np.logaddexp(0, np.where(flags, -margins, margins)).mean())


def test_the_text_scores_as_the_fit(family: ModelFamily, rows: Learnable) -> None:
    fitted = family.fit(rows, half(rows, True), FEATURES, RECIPE, 5)
    assert np.array_equal(Scorer(fitted.text, CALIBRATOR).margins(rows.matrix), fitted.margins(rows.matrix))


def test_contributions_add_up_to_the_margin_but_for_a_constant(family: ModelFamily, rows: Learnable) -> None:
    fitted = family.fit(rows, half(rows, True), FEATURES, RECIPE, 5)
    pushed = family.contributions(release(rows, fitted.text), rows.matrix)
    assert pushed.shape == (800, 2)
    assert fitted.margins(rows.matrix) - pushed.sum(axis=1) == pytest.approx(
        np.full(800, (fitted.margins(rows.matrix) - pushed.sum(axis=1))[0]), abs=1e-9
    )
    assert family.contributions(release(rows, fitted.text), rows.matrix[:0]).shape == (0, 2)
    assert len(fitted.gains()) == 2


def test_the_exported_file_gives_the_services_scores(family: ModelFamily, rows: Learnable) -> None:
    made = release(rows, family.fit(rows, half(rows, True), FEATURES, RECIPE, 5).text)
    expected = Scorer(made.model_text, CALIBRATOR).score(rows.matrix)
    assert score_with_onnx(family.export(made, "score"), rows.matrix) == pytest.approx(expected, abs=1e-6)


def test_what_a_search_chooses_are_values_of_the_recipe(family: ModelFamily) -> None:
    assert family.space
    assert set(family.space) <= set(vars(RECIPE))


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(UnknownFamily, match="no model family 'forest'; there is lightgbm"):
        model_family("forest")
