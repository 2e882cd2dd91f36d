"""The follower without a registry: what it tries again, and what it switches off in MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving_kit import ONNX_FILE, REFERENCE, ROOT, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.champion_registry import Named
from serving.contract import bundle as bundles
from serving.contract.bundle import BundleError, Inconclusive, as_row, write_release
from serving.releases import Follower
from serving.settings import ServingSettings


class Shelf:
    """A registry of one bundle, that counts how often it is fetched; and the world around the follower, as
    the test sets it.
    """

    def __init__(self, tmp_path: Path, plan: FeaturePlan) -> None:
        self.bundle, self.downloads = tmp_path / "shelf" / "bundle", 0
        self.named = Named("1", "run", write_release(tiny_release(plan), self.bundle, REFERENCE, ONNX_FILE))
        self.reasons: list[str] = []
        self.seconds = 1_000.0
        self.outcomes: list[str] = []
        settings = ServingSettings(tmp_path / "home")
        self.follower = Follower(
            settings, self, lambda plan: self.reasons, self.outcomes.append, lambda: self.seconds
        )

    def champion(self) -> Named:
        return self.named

    def download(self, named: Named, into: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copytree(self.bundle, into / "bundle"))

    def poll(self, after_s: float = 0) -> str | None:
        self.seconds += after_s
        self.follower.poll()
        return self.follower.current.version if self.follower.current else None


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
    assert len(champion.scorer.contributions(row)) == len(row)


@pytest.mark.fault(14)
def test_damage_is_remembered_until_the_alias_moves(shelf: Shelf, tmp_path: Path, plan: FeaturePlan) -> None:
    os.truncate(shelf.bundle / "model.txt", 1_000)
    assert [shelf.poll(after_s=s) for s in (0, 61, 100_000)] == [None, None, None]
    assert (shelf.downloads, shelf.outcomes) == (1, ["refused"])
    shutil.rmtree(shelf.bundle)
    shelf.named = Named(
        "2", "run", write_release(tiny_release(plan, seed=1), shelf.bundle, REFERENCE, ONNX_FILE)
    )
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
