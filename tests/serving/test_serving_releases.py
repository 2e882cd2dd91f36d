"""The follower without a registry: what it tries again, and what it switches off in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from serving_kit import ROOT, START_US, paid, predicted, tiny_release
from shelf_kit import Shelf

from feature_repo.engine.plan import FeaturePlan
from serving.contract import bundle as bundles
from serving.contract.before_subjects import BEFORE
from serving.contract.bundle import BundleError, Inconclusive, as_row
from serving.contract.records import Answer
from serving.data_plane import DataPlane
from serving.store.opening import serving_log, serving_store


@pytest.fixture
def shelf(tmp_path: Path, plan: FeaturePlan, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr("serving.releases.check_release", lambda directory, timeout_s: None)
    return Shelf(tmp_path, plan)


def test_a_state_that_does_not_cover_the_plan_yet_is_asked_again_after_a_minute(shelf: Shelf) -> None:
    shelf.reasons = ["no event of the stream merchants is stored"]
    assert shelf.poll() is None
    assert "refused for 60 s" in shelf.follower.trouble
    shelf.reasons = []
    assert shelf.poll(after_s=59) is None
    assert shelf.outcomes == ["refused"]
    assert shelf.poll(after_s=2) == "1"
    assert shelf.outcomes == ["refused", "swapped"]


def test_a_check_that_took_too_long_is_made_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Path] = []

    def slow_at_first(directory: Path, timeout_s: float) -> None:
        checks.append(directory)
        if len(checks) < 3:
            raise Inconclusive(directory, "its golden rows were not scored within 60 s")

    monkeypatch.setattr("serving.releases.check_release", slow_at_first)
    assert [shelf.poll(after_s=s) for s in (0, 30, 31, 59, 2)] == [None, None, None, None, "1"]
    assert (len(checks), shelf.downloads) == (3, 1)


@pytest.mark.fault(38)
def test_a_release_has_made_its_tables_of_contributions_before_it_serves(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelf.poll() == "1"

    def late(model_text: str, features: int) -> None:
        raise AssertionError("a decision waits for the tables")

    monkeypatch.setattr("serving.contract.scorers.lightgbm.Contributions", late)
    champion = shelf.follower.current
    assert champion is not None
    row = as_row(champion.release.golden[0][0])
    assert champion.scorer.contributions(np.array([row])).shape == (1, len(row))


@pytest.mark.fault(14)
def test_damage_is_remembered_until_the_alias_moves(shelf: Shelf, plan: FeaturePlan) -> None:
    os.truncate(shelf.bundle / "model.txt", 1_000)
    assert [shelf.poll(after_s=s) for s in (0, 61, 100_000)] == [None, None, None]
    assert (shelf.downloads, shelf.outcomes) == (1, ["refused"])
    shelf.named = shelf.put("2", tiny_release(plan, seed=1))
    assert shelf.poll() == "2"


@pytest.mark.fault(14)
def test_a_golden_mismatch_is_remembered_until_the_alias_moves(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(directory: Path, timeout_s: float) -> None:
        raise BundleError(directory, "golden row 0 scores 0.1, recorded 0.2")

    monkeypatch.setattr("serving.releases.check_release", differs)
    assert [shelf.poll(after_s=s) for s in (0, 100_000)] == [None, None]
    assert shelf.outcomes == ["refused"]


@pytest.mark.fault(11)
def test_a_hundred_reloads_under_load_mix_no_generation_in_an_answer_or_in_the_log(
    shelf: Shelf, plan: FeaturePlan
) -> None:
    """Versions differ in their thresholds and in their lists of features."""
    releases = {"1": tiny_release(plan)}
    for seed in (1, 2):
        fewer = replace(plan, features=plan.features[: -10 * seed])
        releases[str(seed + 1)] = tiny_release(fewer, seed=seed)
    named = {"1": shelf.named} | {v: shelf.put(v, made) for v, made in releases.items() if v != "1"}
    assert shelf.poll() == "1"
    database = shelf.settings.database
    plane = DataPlane(
        shelf.settings, serving_store(database), lambda: shelf.follower.current, lambda: START_US
    )
    answers: list[Answer] = []
    stop = threading.Event()

    def load() -> None:
        for number in range(1_000_000):
            if stop.is_set():
                return
            answers.append(predicted(plane, paid(number)))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for swap in range(1, 101):
            version = str(swap % 3 + 1)
            shelf.named = named[version]
            assert shelf.poll() == version
            served = len(answers)
            while thread.is_alive() and len(answers) < served + 3:
                stop.wait(0.001)
    finally:
        stop.set()
        thread.join()
    plane.close()
    logged = serving_log(database).receipts(BEFORE, [answer.prediction_id for answer in answers]).to_pylist()
    assert len(logged) == len(answers) > 300
    versions = []
    for answer, row in zip(answers, logged, strict=True):
        release = releases[answer.model_version]
        assert (answer.threshold, answer.block_threshold) == (release.policy.review, release.policy.block)
        assert (row["model_version"], row["review_threshold"], row["block_threshold"]) == (
            answer.model_version, answer.threshold, answer.block_threshold,
        )  # fmt: skip
        assert tuple(json.loads(row["features"])) == release.features
        versions.append(answer.model_version)
    assert sum(one != other for one, other in pairwise(versions)) >= 100
    assert shelf.outcomes == ["swapped"] * 101


@pytest.mark.parametrize(
    ("code", "conclusive"), [(-9, False), (-15, False), (-11, True), (-6, True), (1, True)]
)
def test_a_check_that_somebody_ended_says_nothing_of_the_bundle(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, code: int, conclusive: bool
) -> None:
    monkeypatch.setattr(
        bundles.subprocess, "run", lambda *a, **o: subprocess.CompletedProcess(a, code, "", "golden row 0")
    )
    with pytest.raises(BundleError) as caught:
        bundles.check_release(shelf.bundle)
    assert isinstance(caught.value, Inconclusive) is not conclusive


@pytest.mark.slow
def test_mlflow_reports_nothing_home() -> None:
    # Without what tells MLflow that it is being tested, which silences it as well.
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "VIRTUAL_ENV")}
    asked = (
        "import serving.releases; from mlflow.telemetry.utils import is_telemetry_disabled as off;"
        " print(off())"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
