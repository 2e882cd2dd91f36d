"""The ONNX file scores as the service does, on every row."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.models.lightgbm_onnx import (
    NEARLY_ZERO,
    TOLERANCE,
    OnnxExportError,
    onnx_file,
    score_with_onnx,
    to_onnx,
)
from serving.contract.before_subjects import BEFORE
from serving.contract.bundle import Release
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator, Scorer

FEATURES = ("amount", "fraud_rate", "declines")
CALIBRATOR = Calibrator(1.3, -0.2)
QUIET: dict[str, Any] = {
    "objective": "binary",
    "verbose": -1,
    "num_threads": 1,
    "seed": 3,
    "deterministic": True,
}


def model(
    seed: int = 0,
    trees: int = 10,
    null_share: float = 0.2,
    label: Any = None,
    categories: Any = "auto",
    init_model: Any = None,
    **parameters: Any,
) -> str:
    """Continuous, mostly zero and small whole values, each with and without nulls: what decides how LightGBM
    splits and where nulls go.
    """
    random = np.random.default_rng(seed)
    matrix = np.stack(
        [random.normal(size=400), np.maximum(random.normal(size=400), 0), random.integers(-2, 3, size=400)],
        axis=1,
    )
    target = (matrix.sum(axis=1) + random.normal(size=400) > 1).astype(int) if label is None else label
    matrix[random.random(matrix.shape) < null_share] = np.nan
    data = lightgbm.Dataset(matrix, target, feature_name=list(FEATURES), categorical_feature=categories)
    return str(lightgbm.train({**QUIET, **parameters}, data, trees, init_model=init_model).model_to_string())


def thresholds(text: str) -> list[float]:
    lines = [line.removeprefix("threshold=") for line in text.splitlines() if line.startswith("threshold=")]
    return sorted({float(value) for line in lines for value in line.split()})


def release(text: str) -> Release:
    vectors = [[0.5, 0.0, None], [None, 0.3, -1.0], [None, None, None]]
    scores = Scorer(text, CALIBRATOR).score(np.array(vectors, dtype=np.float64)).tolist()
    plan = FeaturePlan("fraud_v1", (), (), FEATURES)
    return Release(BEFORE, plan, FEATURES, text, CALIBRATOR, Policy(0.5, 0.9), 7.0, {}, (vectors, scores))  # type: ignore[arg-type]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    seed=st.integers(0, 10_000),
    null_share=st.sampled_from([0.0, 0.3]),
    leaves=st.integers(2, 12),
    trees=st.integers(1, 8),
    rules=st.sampled_from([{}, {"zero_as_missing": True}, {"use_missing": False}]),
    calibrator=st.builds(Calibrator, st.floats(0.01, 5), st.floats(-10, 10)),
)
def test_every_row_scores_as_in_the_service(
    data: st.DataObject,
    seed: int,
    null_share: float,
    leaves: int,
    trees: int,
    rules: dict[str, Any],
    calibrator: Calibrator,
) -> None:
    text = model(seed, trees, null_share, num_leaves=leaves, min_data_in_leaf=5, **rules)
    edges = [0.0, NEARLY_ZERO, -NEARLY_ZERO, *thresholds(text)]
    beside = [
        float(value)
        for edge in edges
        for value in (edge, np.nextafter(edge, np.inf), np.nextafter(edge, -np.inf))
    ]
    # A column of all of them for each feature, and rows in which they are mixed.
    every = [
        [value if column == at else np.nan for column in range(3)] for value in beside for at in range(3)
    ]
    mixed = data.draw(
        st.lists(
            st.lists(st.sampled_from(beside) | st.just(np.nan) | st.floats(-4, 4), min_size=3, max_size=3),
            max_size=30,
        )
    )
    rows = np.array([*every, *mixed])
    assert score_with_onnx(to_onnx(text, calibrator, "fraud_score"), rows) == pytest.approx(
        Scorer(text, calibrator).score(rows), rel=0, abs=TOLERANCE
    )


def test_a_value_next_to_a_threshold_goes_the_way_that_it_goes_in_the_service() -> None:
    text = model(trees=1, null_share=0.0, num_leaves=2)
    (edge,) = thresholds(text)
    position = FEATURES.index(
        next(
            name
            for name, gain in zip(
                FEATURES, lightgbm.Booster(model_str=text).feature_importance(), strict=True
            )
            if gain
        )
    )
    rows = np.zeros((2, 3))
    rows[:, position] = edge, np.nextafter(edge, np.inf)
    on, above = score_with_onnx(to_onnx(text, CALIBRATOR, "fraud_score"), rows)
    assert abs(on - above) > 0.01
    assert [on, above] == pytest.approx(Scorer(text, CALIBRATOR).score(rows).tolist(), abs=TOLERANCE)


def test_a_split_of_nulls_from_all_values_holds_for_the_largest_of_them() -> None:
    text = model(seed=1089, trees=5, null_share=0.3, num_leaves=6, min_data_in_leaf=5)
    assert np.inf in thresholds(text)
    rows = np.array(
        [
            [np.nan, np.nan, value]
            for value in (2.0, 1e300, np.nextafter(1e300, np.inf), np.finfo(np.float64).max, np.nan)
        ]
    )
    scores = score_with_onnx(to_onnx(text, CALIBRATOR, "fraud_score"), rows)
    assert scores == pytest.approx(Scorer(text, CALIBRATOR).score(rows), rel=0, abs=TOLERANCE)
    assert len(set(scores.tolist())) == 2


def test_trees_of_one_leaf_add_their_constant() -> None:
    text = model(trees=3, min_data_in_leaf=300)
    assert "num_leaves=1" in text
    rows = np.array([[1.0, 0.0, 2.0], [np.nan] * 3])
    assert score_with_onnx(to_onnx(text, CALIBRATOR, "fraud_score"), rows) == pytest.approx(
        Scorer(text, CALIBRATOR).score(rows), abs=TOLERANCE
    )


def test_the_file_is_valid_and_says_what_it_takes() -> None:
    made = onnx.load_from_string(onnx_file(release(model()), "fraud_score"))
    onnx.checker.check_model(made, full_check=True)
    assert json.loads({entry.key: entry.value for entry in made.metadata_props}["features"]) == list(FEATURES)
    ((given_name, given_type),) = [(value.name, value.type.tensor_type) for value in made.graph.input]
    ((out_name, out_type),) = [(value.name, value.type.tensor_type) for value in made.graph.output]
    assert (given_name, given_type.elem_type, given_type.shape.dim[1].dim_value) == (
        "features",
        onnx.TensorProto.DOUBLE,
        3,
    )
    assert (out_name, out_type.elem_type, len(out_type.shape.dim)) == (
        "fraud_score",
        onnx.TensorProto.DOUBLE,
        1,
    )


def test_equal_models_give_equal_bytes_and_another_calibrator_gives_others() -> None:
    text = model()
    assert to_onnx(text, CALIBRATOR, "fraud_score") == to_onnx(text, CALIBRATOR, "fraud_score")
    assert to_onnx(text, CALIBRATOR, "fraud_score") != to_onnx(
        text, replace(CALIBRATOR, b=0.0), "fraud_score"
    )


def test_a_file_that_scores_a_golden_row_otherwise_is_refused() -> None:
    good = release(model())
    vectors, scores = good.golden
    with pytest.raises(
        OnnxExportError, match=rf"golden row 1 scores 0\.\d+ as ONNX, and {scores[1] + 2e-6!r} in the service"
    ):
        onnx_file(replace(good, golden=(vectors, [scores[0], scores[1] + 2e-6, scores[2]])), "fraud_score")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (
            {"categories": [2], "min_data_per_group": 5},
            r"feature 2 is split by == .*: only a model without categories can be exported",
        ),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "averages its trees"),
        ({"objective": "regression", "linear_tree": True}, "linear functions in its leaves"),
        ({"objective": "multiclass", "num_class": 3, "label": np.arange(400) % 3}, "3 outputs"),
    ],
)
def test_a_model_that_has_no_equal_is_refused(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(OnnxExportError, match=named):
        to_onnx(model(null_share=0.0, **parameters), CALIBRATOR, "fraud_score")


def test_a_feature_that_is_missing_in_two_ways_is_refused() -> None:
    """As in a model whose training was continued by another rule."""
    begun = lightgbm.Booster(model_str=model())
    with pytest.raises(
        OnnxExportError, match=r"feature \d is missing as NaN in one split and as Zero in another"
    ):
        to_onnx(model(zero_as_missing=True, init_model=begun), CALIBRATOR, "fraud_score")
