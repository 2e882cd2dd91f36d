"""Every scorer keeps the promises of the seam, and the two of them agree on a bundle."""

from __future__ import annotations

import builtins
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_kit import ONNX_FILE as UNREAD
from serving_kit import REFERENCE, tiny_release

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.models.lightgbm_onnx import TOLERANCE, onnx_file
from serving.contract.bundle import BundleError, Release, as_row, load_release, write_release
from serving.contract.golden_rows import check_golden
from serving.contract.scorers.base import Scorer, ScorerError, load_scorer


@pytest.fixture(scope="module")
def release(plan: FeaturePlan) -> Release:
    return tiny_release(plan, trees=30)


@pytest.fixture(scope="module")
def bundle(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "bundle"
    write_release(release, folder, REFERENCE, onnx_file(release, release.subject.score))
    return folder


@pytest.fixture(params=["lightgbm", "onnx"])
def scorer(request: pytest.FixtureRequest, release: Release, bundle: Path) -> Scorer:
    return load_scorer(replace(release, family=request.param), bundle)


@pytest.fixture(scope="module")
def rows(release: Release) -> list[list[float]]:
    return [as_row(vector) for vector in release.golden[0]]


def test_both_scorers_agree_on_every_golden_row(
    release: Release, bundle: Path, rows: list[list[float]]
) -> None:
    ours, onnx = (load_scorer(replace(release, family=name), bundle) for name in ("lightgbm", "onnx"))
    matrix = np.array(rows)
    assert onnx.features == ours.features == release.features
    assert np.abs(onnx.score(matrix) - ours.score(matrix)).max() <= TOLERANCE
    assert len(set(ours.score(matrix).tolist())) > 1


def test_a_row_scores_alike_in_a_batch_and_alone(scorer: Scorer, rows: list[list[float]]) -> None:
    assert scorer.score(np.array(rows)).tolist() == [scorer.score_one(row) for row in rows]
    assert scorer.score(np.empty((0, len(scorer.features)))).shape == (0,)


def test_a_row_of_another_width_is_refused(scorer: Scorer) -> None:
    width = len(scorer.features)
    with pytest.raises(ValueError, match=f"takes {width} features, got {width - 1}"):
        scorer.score_one([0.0] * (width - 1))
    for ask in (scorer.score, scorer.contributions):
        with pytest.raises(ValueError, match=f"takes {width} features, got {width - 1}"):
            ask(np.zeros((2, width - 1)))


def test_contributions_are_one_a_feature_and_say_what_moved_the_score(
    scorer: Scorer, rows: list[list[float]]
) -> None:
    found = scorer.contributions(np.array(rows))
    assert found.shape == (len(rows), len(scorer.features))
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0.01


def test_a_row_has_equal_contributions_in_a_batch_and_alone(scorer: Scorer, rows: list[list[float]]) -> None:
    alone = [scorer.contributions(np.array([row]))[0].tolist() for row in rows]
    assert scorer.contributions(np.array(rows)).tolist() == alone
    assert scorer.contributions(np.empty((0, len(scorer.features)))).shape == (0, len(scorer.features))


def test_onnx_says_what_a_value_changes_compared_with_null(
    release: Release, bundle: Path, rows: list[list[float]]
) -> None:
    scorer = load_scorer(replace(release, family="onnx"), bundle)
    row = rows[0]
    for place, change in enumerate(scorer.contributions(np.array([row]))[0].tolist()):
        without = scorer.score_one([math.nan if n == place else value for n, value in enumerate(row)])
        score = scorer.score_one(row)
        odds = math.log(score / (1 - score)) - math.log(without / (1 - without))
        assert change == pytest.approx(0.0 if math.isnan(row[place]) else odds, abs=1e-9)


def test_a_release_of_the_family_onnx_is_written_checked_and_scored(
    release: Release, bundle: Path, tmp_path: Path
) -> None:
    content = (bundle / "model.onnx").read_bytes()
    scores = load_scorer(replace(release, family="onnx"), bundle)
    vectors = release.golden[0]
    golden = (vectors, [scores.score_one(as_row(vector)) for vector in vectors])
    made = replace(release, family="onnx", model_text="", golden=golden)
    write_release(made, tmp_path / "bundle", REFERENCE, content)
    assert load_release(tmp_path / "bundle") == made
    check_golden(made, tmp_path / "bundle")
    wrong = replace(made, golden=(vectors, [*golden[1][:-1], 0.5]))
    with pytest.raises(BundleError, match=f"golden row {len(vectors) - 1} scores"):
        check_golden(wrong, tmp_path / "bundle")


def test_a_bundle_that_names_no_family_is_of_lightgbm(release: Release, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_release(release, folder, REFERENCE, UNREAD)
    facts = json.loads((folder / "release.json").read_text())
    assert facts.pop("family") == "lightgbm"
    text, digests = json.dumps(facts), json.loads((folder / "digests.json").read_text())
    (folder / "release.json").write_text(text)
    digests["files"]["release.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "digests.json").write_text(json.dumps({**digests, "format": 3}))
    assert load_release(folder) == release


def test_an_unknown_family_is_refused_by_its_name(release: Release, tmp_path: Path) -> None:
    other = replace(release, family="oracle")
    with pytest.raises(BundleError, match="family 'oracle': this platform scores lightgbm and onnx"):
        write_release(other, tmp_path / "bundle", REFERENCE, UNREAD)
    with pytest.raises(ScorerError, match="family 'oracle'"):
        load_scorer(other, tmp_path)


def test_without_onnx_runtime_the_error_names_it_and_how_to_install_it(
    release: Release, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ScorerError, match="pip install onnxruntime"):
        load_scorer(replace(release, family="onnx"), bundle)
    assert load_scorer(release, bundle).features == release.features
