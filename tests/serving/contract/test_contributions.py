"""Contributions from tables equal LightGBM's own, for every model that the tables know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.contract.scorers import contributions
from serving.contract.scorers.contributions import LONGEST, Contributions
from serving.contract.scorers.leaf_paths import BELOW_ZERO, ZERO, UnknownShape, classes_of, read_trees
from serving.contract.scorers.lightgbm import Calibrator, Scorer

Matrix = npt.NDArray[np.float64]

QUIET = {"verbosity": -1, "num_threads": 1, "deterministic": True}
ODD = (0.0, -0.0, math.nan, math.inf, -math.inf, ZERO, -ZERO, BELOW_ZERO, ZERO / 2, 2 * ZERO, 1.0, 2.0)


def fitted(
    rows: Matrix, target: Matrix, rounds: int = 1, categories: Sequence[int] = (), **parameters: Any
) -> str:
    """The text of a model that follows the target as closely as its parameters allow."""
    told = {"objective": "regression", "min_data_in_leaf": 1, "min_data_in_bin": 1, **QUIET, **parameters}
    learnt = lightgbm.Dataset(rows, target, params=told, categorical_feature=list(categories))
    booster = lightgbm.train(told, learnt, num_boost_round=rounds)
    return str(booster.model_to_string(num_iteration=-1))


def scorer_of(text: str) -> Scorer:
    return Scorer(text, Calibrator(1.0, 0.0))


def own(text: str, rows: Matrix) -> Matrix:
    """LightGBM's contributions, the constant in the last column."""
    return np.asarray(lightgbm.Booster(model_str=text).predict(rows, pred_contrib=True, num_threads=1))


def places_of_interest(text: str, rows: Matrix, seed: int) -> Matrix:
    """Rows made of thresholds, their neighbours, odd values, and what the model has seen."""
    chance = np.random.default_rng(seed)
    columns = [rows[:, n] for n in range(rows.shape[1])]
    for feature, classes in classes_of(read_trees(text)).items():
        at = np.array(classes.thresholds)
        columns[feature] = np.concatenate(
            [columns[feature], at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf)]
        )
    return np.column_stack([chance.choice(np.concatenate([column, ODD]), 40) for column in columns])


def assert_equal(text: str, rows: Matrix) -> None:
    tables, expected = Contributions(text, rows.shape[1]), own(text, rows)
    found = tables.of(rows)
    margins = scorer_of(text).margins(rows)
    largest = np.abs(expected[:, :-1]).max(axis=1)
    assert (np.abs(found - expected[:, :-1]).max(axis=1) <= 1e-9 * largest).all()
    assert found.sum(axis=1) + expected[:, -1] == pytest.approx(margins, rel=1e-9, abs=1e-9)


def a_chain(features: int) -> str:
    """One tree, whose longest path splits once on each of the features."""
    rows = np.random.default_rng(3).random((4_000, features))
    return fitted(rows, 1.3 ** (rows > 0.1).cumprod(axis=1).sum(axis=1), num_leaves=features + 1)


@pytest.mark.fault(38)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_contributions_equal_lightgbms_own(data: st.DataObject, seed: int) -> None:
    chance = np.random.default_rng(seed)
    shape = data.draw(st.integers(20, 300)), data.draw(st.integers(1, 8))
    rows = chance.normal(size=shape)
    if data.draw(st.booleans(), label="ties"):
        rows = np.round(rows)
    rows[chance.random(shape) < data.draw(st.sampled_from([0.0, 0.3]), label="zeros")] = 0.0
    rows[chance.random(shape) < data.draw(st.sampled_from([0.0, 0.3]), label="missing")] = math.nan
    target = np.nansum(rows * chance.normal(size=shape[1]), axis=1) ** 2 + chance.normal(size=shape[0])
    text = fitted(
        rows,
        target,
        data.draw(st.integers(1, 6), label="rounds"),
        num_leaves=data.draw(st.integers(2, 40), label="leaves"),
        max_depth=data.draw(st.sampled_from([-1, 1, 3, 12]), label="depth"),
        min_data_in_leaf=data.draw(st.sampled_from([1, 5]), label="least"),
        use_missing=data.draw(st.booleans(), label="use_missing"),
        zero_as_missing=data.draw(st.booleans(), label="zero_as_missing"),
    )
    assume("\nsplit_feature=\n" not in text)  # LightGBM found nothing to learn
    assert_equal(text, places_of_interest(text, rows, seed))


@pytest.mark.parametrize("features", [11, LONGEST, LONGEST + 1, LONGEST + 2])
def test_a_path_with_many_features_is_exact(features: int) -> None:
    text = a_chain(features)
    assert max(len(leaf.steps) for leaf in leaves(text)) == features
    chance = np.random.default_rng(4)
    assert_equal(text, chance.random((60, features)) * chance.choice([0.11, 1.0], (60, features)))


def leaves(text: str) -> list[Any]:
    trees = read_trees(text)
    classes = classes_of(trees)
    return [leaf for tree in trees for leaf in tree.leaves(classes)]


@pytest.fixture(scope="module")
def beside() -> tuple[list[Contributions], Matrix]:
    """Models with short, wide and very long paths, and rows with missing values."""
    chance = np.random.default_rng(14)
    rows = chance.normal(size=(3_000, LONGEST + 2))
    rows[chance.random(rows.shape) < 0.1] = math.nan
    usual = fitted(rows, np.nansum(rows, axis=1) + chance.normal(size=len(rows)), 20, num_leaves=31)
    texts = usual, a_chain(LONGEST), a_chain(LONGEST + 2)
    return [Contributions(text, rows.shape[1]) for text in texts], rows


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(
    beside: tuple[list[Contributions], Matrix], data: st.DataObject
) -> None:
    models, rows = beside
    tables = data.draw(st.sampled_from(models))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=40))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(chosen) - 1) if len(chosen) > 1 else st.nothing())))
    alone = [tables.of(rows[[n]]).tobytes() for n in chosen]
    groups = [rows[some] for some in np.split(np.array(chosen), cuts)]
    assert b"".join(tables.of(group).tobytes() for group in groups) == b"".join(alone)
    assert tables.of(np.asfortranarray(rows[chosen])).tobytes() == b"".join(alone)


def test_no_rows_have_no_contributions(beside: tuple[list[Contributions], Matrix]) -> None:
    models, rows = beside
    assert {tables.of(rows[:0]).shape for tables in models} == {(0, rows.shape[1])}


def test_a_feature_that_a_path_splits_on_again_is_one_step() -> None:
    rows = np.random.default_rng(5).normal(size=(400, 1))
    text = fitted(rows, np.sin(3 * rows[:, 0]), num_leaves=20)
    assert {len(leaf.steps) for leaf in leaves(text)} == {1}
    assert_equal(text, rows[:50])


def test_a_tree_of_one_leaf_adds_nothing() -> None:
    rows = np.random.default_rng(6).normal(size=(60, 2))
    constant = lightgbm.Booster(model_str=fitted(rows, np.ones(60)))
    learnt = lightgbm.Dataset(rows, rows[:, 0] ** 2)
    more = lightgbm.train({"num_leaves": 4, **QUIET}, learnt, 3, init_model=constant)
    text = more.model_to_string()
    assert text.count("\nTree=") == 4
    assert text.count("num_leaves=1\n") == 1
    assert_equal(text, rows)


@pytest.mark.fault(38)
def test_the_strongest_three_reasons_and_their_digits_are_lightgbms() -> None:
    chance = np.random.default_rng(7)
    rows = chance.normal(size=(3_000, 12))
    rows[chance.random(rows.shape) < 0.1] = math.nan
    target = (np.nansum(rows[:, :6], axis=1) + chance.normal(size=len(rows)) > 1).astype(float)
    text = fitted(rows, target, 40, objective="binary", num_leaves=31, min_data_in_leaf=20)
    tables = Contributions(text, 12)
    pairs = zip(tables.of(rows[:500]).tolist(), own(text, rows[:500])[:, :-1].tolist(), strict=True)
    for found, expected in pairs:
        assert [round(value, 6) for value in found] == [round(value, 6) for value in expected]
        assert np.argsort(found)[-3:].tolist() == np.argsort(expected)[-3:].tolist()


def test_a_feature_that_no_tree_splits_on_adds_nothing() -> None:
    rows = np.random.default_rng(8).normal(size=(200, 3))
    rows[:, 2] = 1.0
    found = scorer_of(fitted(rows, rows[:, 0])).contributions(np.array([[1.0, 0.0, 5.0]]))
    assert found[0, 0] > 0.0 == found[0, 2]


def unknown(name: str) -> str:
    rows = np.random.default_rng(9).normal(size=(300, 3))
    rows[:, 1] = np.abs(np.round(rows[:, 1]))
    target = rows[:, 0] + (rows[:, 1] == 1)
    if name == "categorical":
        return fitted(rows, target, 3, [1], min_data_per_group=1, cat_smooth=0.0)
    if name == "random forest":
        return fitted(rows, target, 3, boosting="rf", bagging_freq=1, bagging_fraction=0.5)
    if name == "no split":
        return fitted(rows[:10], target[:10], min_data_in_leaf=20)
    return a_chain(LONGEST + 5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("categorical", "categorical splits"),
        ("random forest", "not simply added up"),
        ("no split", "no tree has a split"),
        ("long paths", "6 leaves with long paths"),
    ],
)
def test_a_model_of_another_shape_is_left_to_lightgbm(name: str, why: str) -> None:
    text = unknown(name)
    scorer = scorer_of(text)
    with pytest.raises(UnknownShape, match=why):
        Contributions(text, len(scorer.features))
    rows = np.random.default_rng(10).random((3, len(scorer.features)))
    assert scorer.contributions(rows).tolist() == own(text, rows)[:, :-1].tolist()
    assert scorer.contributions(rows[:0]).shape == (0, len(scorer.features))


def test_linear_leaves_and_several_classes_are_unknown() -> None:
    rows = np.random.default_rng(11).normal(size=(300, 2))
    with pytest.raises(UnknownShape, match="linear leaves"):
        read_trees(fitted(rows, rows[:, 0], linear_tree=True, num_leaves=3))
    with pytest.raises(UnknownShape, match="not simply added up"):
        read_trees(fitted(rows, np.arange(300.0) % 3, objective="multiclass", num_class=3))


def test_a_leaf_without_training_rows_is_unknown() -> None:
    rows = np.random.default_rng(12).normal(size=(300, 2))
    lines = fitted(rows, rows[:, 0], num_leaves=3).split("\n")
    text = "\n".join("leaf_count=0 100 200" if line.startswith("leaf_count=") else line for line in lines)
    with pytest.raises(UnknownShape, match="no training row"):
        read_trees(text)


@pytest.mark.parametrize("most", [2_000_000, 600_000, 400_000, 250_000])
def test_a_model_with_less_room_has_smaller_tables_and_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    rows = np.random.default_rng(15).normal(size=(2_000, 10))
    text = fitted(rows, rows.sum(axis=1), 6, num_leaves=31)
    monkeypatch.setattr(contributions, "MOST_BYTES", most)
    assert_equal(text, rows[:50])


def test_a_model_whose_tables_are_too_large_is_left_to_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contributions, "MOST_BYTES", 1_000)
    rows = np.random.default_rng(13).normal(size=(300, 5))
    text = fitted(rows, rows.sum(axis=1), 5, num_leaves=31)
    with pytest.raises(UnknownShape, match="bytes, more than 1,000"):
        Contributions(text, 5)
    assert scorer_of(text).contributions(rows[:1]).tolist() == own(text, rows[:1])[:, :-1].tolist()
