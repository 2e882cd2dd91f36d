"""The whole loop as a person starts it: `mlops demo`, once, and everything that its summary claims held
against what it left on disk.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import DATA_DRIFT, FEATURE_PARITY, PREDICTION_LOG
from mlops_assets.pipeline import RETRAINING
from mlops_assets.sensors.retraining import TRIGGER

pytestmark = pytest.mark.slow

TIMEOUT_S = 1500.0


@dataclass(frozen=True)
class Played:
    home: Path
    summary: dict[str, Any]
    told: str

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("demo")
    home = folder / "home"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLOPS_HOME", "MLOPS_CONFIG", "DAGSTER_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets", "demo", "--home", str(home), "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in folder.iterdir()) == ["home"], "all state is under the home"
    summary = json.loads((home / "summary.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    return Played(home, summary, done.stdout)


def test_the_summary_has_the_fields_that_were_asked_for(played: Played) -> None:
    assert {
        name: sorted(value) if isinstance(value, dict) else type(value).__name__
        for name, value in played.summary.items()
    } == {
        "days": "int",
        "transactions": "int",
        "drift": ["detected", "injected"],
        "retraining": ["launched_by", "run_id"],
        "versions": ["after", "before"],
        "serving": ["failed", "requests", "swapped_without_restart"],
        "parity": ["compared", "mismatches"],
        "business": ["caught_after", "caught_before", "caught_drifted"],
        "seconds": "float",
    }
    assert played.summary["seconds"] > 0


def test_the_history_is_long_enough_and_in_the_lake(played: Played) -> None:
    days = played.lake.partitions("transactions")
    assert played.summary["days"] == len(days) >= 60
    assert (
        played.summary["transactions"]
        == sum(m.rows for m in played.lake.manifests("transactions", days))
        >= 100_000
    )


def test_drift_is_detected_on_the_day_it_was_injected_or_after_it(played: Played) -> None:
    drift = played.summary["drift"]
    assert date.fromisoformat(drift["detected"]) >= date.fromisoformat(drift["injected"])
    assert played.lake.manifests(DATA_DRIFT, [drift["detected"]])[0].rows > 0
    assert (played.home / "reports" / DATA_DRIFT / f"{drift['detected']}.html").stat().st_size > 1000


def test_the_retraining_was_launched_by_the_sensor_and_succeeded(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    retraining = played.summary["retraining"]
    assert retraining["launched_by"] == "sensor"
    monkeypatch.setenv("DAGSTER_HOME", str(played.home / "dagster"))
    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(retraining["run_id"])
    assert run is not None
    assert (run.job_name, run.status) == (RETRAINING, DagsterRunStatus.SUCCESS)
    assert run.tags["dagster/sensor_name"] == "retrain_on_drift"
    assert run.tags[TRIGGER]
    assert date.fromisoformat(run.tags["dagster/partition"]) > date.fromisoformat(
        played.summary["drift"]["detected"]
    )


def test_the_version_that_serves_at_the_end_is_another_one_that_passed_the_gate(played: Played) -> None:
    versions = played.summary["versions"]
    assert versions["before"] != versions["after"]
    history = [json.loads(line) for line in (played.home / "history.jsonl").read_text().splitlines()]
    promoted = [entry for entry in history if entry["kind"] == "promoted"]
    assert promoted[0]["version"] == versions["before"]
    assert promoted[-1]["version"] == versions["after"], (
        "one in between may have passed on a day that still held the old world"
    )
    assert promoted[-1]["run"] == played.summary["retraining"]["run_id"]


def test_no_request_failed_and_the_service_swapped_while_it_ran(played: Played) -> None:
    serving = played.summary["serving"]
    assert serving["failed"] == 0
    assert serving["swapped_without_restart"] is True
    log = played.lake.read(
        PREDICTION_LOG, played.lake.partitions(PREDICTION_LOG), ["model_version", "degraded"]
    )
    assert serving["requests"] >= log.num_rows > 0
    assert set(log.column("model_version").to_pylist()) >= set(played.summary["versions"].values())
    assert not any(log.column("degraded").to_pylist())


def test_every_served_vector_is_the_one_computed_offline(played: Played) -> None:
    parity = played.summary["parity"]
    assert parity["compared"] > 0
    assert parity["mismatches"] == 0
    reports = played.lake.manifests(FEATURE_PARITY, played.lake.partitions(FEATURE_PARITY))
    assert parity["compared"] == sum(m.metadata["compared"] for m in reports)
    assert all(m.validated for m in reports)


def test_the_new_version_catches_more_than_the_old_one_did_in_the_new_world(played: Played) -> None:
    business = played.summary["business"]
    assert business["caught_after"] > business["caught_drifted"]
    assert all(0.0 <= share <= 1.0 for share in business.values())


def test_a_person_is_told_where_to_look(played: Played) -> None:
    assert str(played.home / "summary.json") in played.told
    assert "caught" in played.told


def test_a_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets", "demo", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert (
        line
        == f"mlops: {tmp_path} is not a folder that the demo made, so it is not emptied; name another with"
        " --home"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
