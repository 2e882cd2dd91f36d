"""What training and serving share: the bundle, the score, the policy."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from serving_kit import ONNX_FILE, REFERENCE, ROOT, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.contract.before_subjects import BEFORE
from serving.contract.bounds import Bounds
from serving.contract.bundle import (
    BundleError,
    Inconclusive,
    Release,
    as_row,
    check_release,
    load_reference,
    load_release,
    verify_digests,
    write_release,
)
from serving.contract.policy import BadPolicy, Policy, decide
from serving.contract.scorers.lightgbm import Calibrator, Scorer


@pytest.fixture(scope="module")
def release(plan: FeaturePlan) -> Release:
    return tiny_release(plan)


@pytest.fixture
def bundle(release: Release, tmp_path: Path) -> Path:
    write_release(release, tmp_path / "bundle", REFERENCE, ONNX_FILE)
    return tmp_path / "bundle"


def test_a_bundle_comes_back_as_it_was_written(release: Release, tmp_path: Path) -> None:
    digest = write_release(release, tmp_path / "bundle", REFERENCE, ONNX_FILE)
    assert load_release(tmp_path / "bundle") == release
    assert load_reference(tmp_path / "bundle").equals(REFERENCE)
    assert verify_digests(tmp_path / "bundle") == digest


def test_a_bundle_carries_the_bounds_of_its_training(release: Release, tmp_path: Path) -> None:
    made = replace(
        release,
        bounds=Bounds(
            highest={"amount": 5e6}, lateness_days=30, ahead_minutes=15, ahead_days=14, label_ahead_days=60
        ),
    )
    write_release(made, tmp_path / "bundle", REFERENCE, ONNX_FILE)
    assert load_release(tmp_path / "bundle").bounds == made.bounds


def test_a_bundle_of_format_2_has_the_bounds_of_its_time(bundle: Path, release: Release) -> None:
    facts = json.loads((bundle / "release.json").read_text())
    del facts["bounds"]
    sealed(bundle, json.dumps(facts), 2)
    old = load_release(bundle)
    assert old == release
    assert old.bounds.range_of(old.subject.event.number("amount")) == (0, 1_000_000)
    assert (old.bounds.lateness_days, old.bounds.ahead_minutes) == (7, 5)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_amount": -1}, "max_amount = -1"),
        ({"ahead_days": 8}, "at most lateness_days = 7"),
        ({"highest": 5}, "highest"),
    ],
)
def test_a_bundle_whose_bounds_cannot_be_meant_is_refused(
    bundle: Path, given: dict[str, float], named: str
) -> None:
    facts = json.loads((bundle / "release.json").read_text())
    sealed(bundle, json.dumps({**facts, "bounds": given}), 3)
    with pytest.raises(BundleError, match=named):
        load_release(bundle)


def sealed(bundle: Path, facts: str, number: int) -> None:
    """The bundle with other facts, under digests of a format that hold."""
    (bundle / "release.json").write_text(facts)
    digests = json.loads((bundle / "digests.json").read_text())
    digests["files"]["release.json"] = hashlib.sha256(facts.encode()).hexdigest()
    (bundle / "digests.json").write_text(json.dumps({**digests, "format": number}))


def test_the_same_release_has_the_same_digest_and_another_model_another(
    release: Release, plan: FeaturePlan, tmp_path: Path
) -> None:
    first = write_release(release, tmp_path / "a", REFERENCE, ONNX_FILE)
    assert write_release(release, tmp_path / "b", REFERENCE, ONNX_FILE) == first
    assert write_release(tiny_release(plan, seed=1), tmp_path / "c", REFERENCE, ONNX_FILE) != first
    assert write_release(release, tmp_path / "d", REFERENCE, ONNX_FILE + b" either") != first


def test_a_bundle_holds_five_plain_files_and_no_pickle(bundle: Path) -> None:
    assert sorted(p.name for p in bundle.iterdir()) == [
        "digests.json",
        "model.onnx",
        "model.txt",
        "reference.parquet",
        "release.json",
    ]
    assert not any(p.read_bytes().startswith(b"\x80") for p in bundle.iterdir())


LOAD_AND_SCORE = """
import sys
from pathlib import Path
from serving.contract.golden_rows import check_golden
from serving.contract.bundle import load_release
directory = Path(sys.argv[1])
check_golden(load_release(directory), directory)
heavy = {"dagster", "feast", "mlflow", "onnx", "onnxruntime", "fastapi"}
print(sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""


@pytest.mark.slow
def test_a_bundle_is_loaded_and_scored_without_mlflow_dagster_or_onnx(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_SCORE, str(bundle)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "model.txt", (bundle / "model.txt").stat().st_size // 2)


def alter(bundle: Path) -> None:
    path = bundle / "model.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))


def loosen(bundle: Path) -> None:
    path = bundle / "release.json"
    path.write_text(path.read_text().replace('"block": 0.9', '"block": 0.99'))


def alter_portable(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"another")


def make_older(bundle: Path) -> None:
    """As the format before this one was: without the ONNX file."""
    (bundle / "model.onnx").unlink()
    digests = json.loads((bundle / "digests.json").read_text())
    del digests["files"]["model.onnx"]
    (bundle / "digests.json").write_text(json.dumps({**digests, "format": 1}))


def add_pickle(bundle: Path) -> None:
    (bundle / "model.pkl").write_bytes(b"\x80\x04.")


def link(bundle: Path) -> None:
    (bundle / "model.txt").rename(bundle.parent / "elsewhere.txt")
    (bundle / "model.txt").symlink_to(bundle.parent / "elsewhere.txt")


def empty_digests(bundle: Path) -> None:
    (bundle / "digests.json").write_text("")


def lose(bundle: Path) -> None:
    (bundle / "reference.parquet").unlink()


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (truncate, "model.txt was altered"),
        (alter, "model.txt was altered"),
        (loosen, "release.json was altered"),
        (alter_portable, "model.onnx was altered"),
        (make_older, "format 1, this platform reads 2 and 3"),
        (add_pickle, "model.pkl does not belong"),
        (link, "model.txt is not a plain file"),
        (empty_digests, "digests.json cannot be read"),
        (lose, "reference.parquet is missing"),
    ],
)
def test_a_damaged_bundle_is_refused_before_anything_is_parsed(
    bundle: Path, spoil: Callable[[Path], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(bundle)
    monkeypatch.setattr("serving.contract.bundle._from_dict", lambda *a: pytest.fail("parsed"))
    for read in (load_release, load_reference, check_release):
        with pytest.raises(BundleError, match=named):
            read(bundle)


def test_another_order_of_features_is_refused_when_written_and_when_read(
    release: Release, tmp_path: Path
) -> None:
    swapped = (release.features[1], release.features[0], *release.features[2:])
    with pytest.raises(BundleError, match=f"'{swapped[0]}' against '{release.features[0]}' at position 0"):
        write_release(replace(release, features=swapped), tmp_path / "a", REFERENCE, ONNX_FILE)
    other_plan = replace(release.plan, features=swapped)
    with pytest.raises(BundleError, match="differ from the model's"):
        write_release(
            replace(release, features=swapped, plan=other_plan), tmp_path / "b", REFERENCE, ONNX_FILE
        )


def test_a_feature_more_than_the_model_has_is_refused(release: Release, tmp_path: Path) -> None:
    more = (*release.features, "one_more")
    with pytest.raises(BundleError, match=f"{len(more)} against {len(release.features)} of them"):
        write_release(
            replace(release, features=more, plan=replace(release.plan, features=more)),
            tmp_path / "a",
            REFERENCE,
            ONNX_FILE,
        )


@pytest.mark.parametrize(
    "function",
    [
        "os:system",
        "feature_repo.store:open_store",
        "feature_repo.fraud.views:transaction_context",
        "feature_repo.fraud.context.sub:transaction_context",
        "feature_repo.context:transaction_context",
        "feature_repo.fraud.context:__builtins__",
        "feature_repo.fraud.context:os.system",
        "feature_repo.fraud.context:transaction_context\n",
    ],
)
def test_a_bundle_cannot_name_code_that_is_no_declared_transform(
    release: Release, tmp_path: Path, function: str
) -> None:
    foreign = replace(release.plan.on_demand[0], function=function)
    with pytest.raises(
        BundleError, match=f"{re.escape(function)} is not a transform of the feature repository"
    ):
        write_release(
            replace(release, plan=replace(release.plan, on_demand=(foreign,))),
            tmp_path / "a",
            REFERENCE,
            ONNX_FILE,
        )


@pytest.mark.slow
def test_golden_rows_pass_in_a_process_of_their_own(bundle: Path) -> None:
    check_release(bundle, 60)


@pytest.mark.slow
def test_a_model_that_scores_otherwise_than_recorded_is_refused(release: Release, tmp_path: Path) -> None:
    vectors, scores = release.golden
    wrong = replace(release, golden=(vectors, [*scores[:-1], math.nextafter(scores[-1], 1)]))
    write_release(wrong, tmp_path / "a", REFERENCE, ONNX_FILE)
    with pytest.raises(BundleError, match="golden row 19 scores"):
        check_release(tmp_path / "a", 60)


def without_last_tree(text: str) -> str:
    """As if the model had one tree less; LightGBM loads it without complaint."""
    trees = text[: text.index("Tree=4")] + text[text.index("end of trees") :]
    sizes = re.search(r"tree_sizes=.*", trees)
    assert sizes is not None
    return trees.replace(sizes[0], sizes[0].rsplit(" ", 1)[0])


@pytest.mark.fault(14)
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "cycle", "index", "no_tree"])
def test_a_model_that_was_damaged_before_it_was_packed_harms_only_the_checking_process(
    release: Release, tmp_path: Path, damage: str
) -> None:
    text = release.model_text
    spoiled = {
        "truncated": text[: len(text) // 2],
        "cycle": text.replace("left_child=1", "left_child=0", 1),
        "index": text.replace("left_child=1", "left_child=99999999", 1),
        "no_tree": without_last_tree(text),
    }[damage]
    assert spoiled != text
    write_release(replace(release, model_text=spoiled), tmp_path / "a", REFERENCE, ONNX_FILE)
    with pytest.raises(BundleError):
        check_release(tmp_path / "a", 6)


@pytest.mark.slow
def test_a_model_that_cannot_be_explained_is_refused(release: Release, tmp_path: Path) -> None:
    spoiled = release.model_text.replace("\ninternal_count=", "\ninternal_other=", 1)
    write_release(replace(release, model_text=spoiled), tmp_path / "a", REFERENCE, ONNX_FILE)
    with pytest.raises(BundleError, match=r"cannot be loaded or scored \(KeyError"):
        check_release(tmp_path / "a", 30)


@pytest.mark.fault(14)
@pytest.mark.slow
def test_a_check_that_takes_too_long_is_ended(bundle: Path) -> None:
    with pytest.raises(Inconclusive, match=r"not scored within 0\.05 s"):
        check_release(bundle, 0.05)


@given(data=st.data())
def test_one_row_scores_the_same_to_the_bit_as_a_batch(scorer: Scorer, data: st.DataObject) -> None:
    values = data.draw(
        hnp.arrays(
            np.float64, (3, len(scorer.features)), elements=st.floats(allow_nan=True, allow_infinity=False)
        )
    )
    assert [scorer.score_one(row) for row in values.tolist()] == scorer.score(values).tolist()


@pytest.fixture(scope="module")
def scorer(release: Release) -> Scorer:
    return Scorer(release.model_text, release.calibrator)


def test_contributions_and_the_constant_add_up_to_the_margin(scorer: Scorer, release: Release) -> None:
    row = as_row(release.golden[0][0])
    constant = float(np.asarray(scorer.booster.predict(np.array([row]), pred_contrib=True))[0, -1])
    assert scorer.contributions(np.array([row])).sum() + constant == pytest.approx(
        float(scorer.margins(np.array([row]))[0])
    )


def test_a_row_of_the_wrong_width_is_refused(scorer: Scorer) -> None:
    width = len(scorer.features)
    with pytest.raises(ValueError, match=f"takes {width} features, got {width - 1}"):
        scorer.score_one([0.0] * (width - 1))
    with pytest.raises(ValueError, match=f"takes {width} features, got {width - 1}"):
        scorer.score(np.zeros((2, width - 1)))


@given(st.floats(-800, 800), st.floats(-5, 5), st.floats(-5, 5))
def test_a_calibrated_score_is_a_probability(margin: float, a: float, b: float) -> None:
    assert 0.0 <= Calibrator(a, b).one(margin) <= 1.0


@pytest.mark.parametrize(
    ("score", "decision"),
    [(0.0, "ALLOW"), (0.4999, "ALLOW"), (0.5, "REVIEW"), (0.8999, "REVIEW"), (0.9, "BLOCK"), (1.0, "BLOCK")],
)
def test_a_score_at_a_threshold_belongs_to_the_stricter_side(score: float, decision: str) -> None:
    assert decide(score, Policy(review=0.5, block=0.9), BEFORE.decisions) == decision


def test_equal_thresholds_leave_no_review() -> None:
    assert [decide(s, Policy(0.5, 0.5), BEFORE.decisions) for s in (0.49, 0.5)] == ["ALLOW", "BLOCK"]


def test_a_score_that_is_no_number_is_never_allowed() -> None:
    with pytest.raises(ValueError, match="not a number"):
        decide(math.nan, Policy(0.5, 0.9), BEFORE.decisions)


@pytest.mark.parametrize(
    ("review", "block"), [(0.9, 0.5), (-0.1, 0.5), (math.nan, 0.5), (0.1, math.nan), (0.1, math.inf)]
)
def test_thresholds_that_cannot_be_meant_are_refused(review: float, block: float) -> None:
    with pytest.raises(BadPolicy):
        Policy(review, block)


def test_release_json_holds_null_and_never_nan(bundle: Path) -> None:
    vectors = json.loads(
        (bundle / "release.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )["golden"]["vectors"]
    assert any(value is None for vector in vectors for value in vector)
