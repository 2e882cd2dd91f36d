"""A training that fails is FAILED in MLflow with its reason, whoever launched it and in whichever process it
ran; so is one that was killed.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from banks import TINY_BANK
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
)
from dagster_kit import ask, tool, wait_until_loaded

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port, running
from mlops_assets.cli.instance import RANGE_END, RANGE_START, prepare_instance
from mlops_assets.core.keys import FEATURE_VECTORS, TRAINED_MODEL, TRAINING_SET
from mlops_assets.graph.checks import DRIFT_CHECKS
from mlops_assets.pipeline import BACKFILL, RETRAINING, build_pipeline
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.processes import HOST, PID, PROCESS, process_tags
from mlops_assets.resources.registry import ModelRegistry, registry_of
from mlops_assets.sensors.retraining import TRIGGER
from mlops_assets.use_cases.fraud.case import FRAUD

pytestmark = pytest.mark.slow

LOG = logging.getLogger("test")
FIRST, CLEAN, POISONED, BEFORE, AS_OF = "2025-03-01", "2025-03-22", "2025-03-22", "2025-03-24", "2025-03-25"
FEATURE = "txn_amount"
REASON = f"infinite values in {FEATURE}"

ENDLESS = TINY_BANK.replace("max_rounds = 30", "max_rounds = 100000000\npatience = 100000000")
RUNS_TIMEOUT_S = 240.0
# The platform of somebody who wants a process for every step: Dagster's own default, which a run may turn
# off.
FANNED_OUT = """
from dagster import Definitions, multi_or_in_process_executor
from mlops_assets import definitions as the

defs = Definitions(
    assets=the.defs.assets, jobs=the.defs.jobs, sensors=the.defs.sensors,
    resources=the.defs.resources, executor=multi_or_in_process_executor
)
"""
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


@dataclass(frozen=True)
class Machine:
    """A home on which every training as of AS_OF fails, and what was in it before."""

    folder: Path
    registry: ModelRegistry
    known: frozenset[str]  # MLflow runs and Dagster runs that earlier tests left

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def trainings(self) -> list[Any]:
        """The MLflow runs that this test made."""
        client = self.registry.client()
        experiment = client.get_experiment_by_name(self.registry.name)
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        return [run for run in found if run.info.run_id not in self.known]

    def runs(self, instance: DagsterInstance) -> dict[str, DagsterRun]:
        return {run.run_id: run for run in instance.get_runs() if run.run_id not in self.known}

    def has_failed(self, count: int = 1) -> list[DagsterRun]:
        """`count` Dagster runs have failed, each with one MLflow run of its own that says so and why; nothing
        came of them, and nothing runs.
        """
        with DagsterInstance.get() as instance:
            runs = self.runs(instance)
        assert [run.status for run in runs.values()] == [DagsterRunStatus.FAILURE] * count
        assert {run.tags["dagster/partition"] for run in runs.values()} == {AS_OF}
        trainings = self.trainings()
        assert {run.data.tags["dagster_run_id"] for run in trainings} == set(runs)
        assert [(run.info.status, run.data.tags["error"]) for run in trainings] == [
            ("FAILED", REASON)
        ] * count
        assert all(run.info.end_time for run in trainings)
        assert self.registry.client().search_model_versions() == []
        assert Lake(self.home / "lake").manifest(TRAINED_MODEL, AS_OF) is None
        return list(runs.values())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of which one feature of one day is infinite, which the checks of the feature assets would have
    stopped.
    """
    folder = tmp_path_factory.mktemp("failing")
    (folder / "mlops.toml").write_text(TINY_BANK)
    (folder / "fanned_out.py").write_text(FANNED_OUT)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLOPS_HOME", str(folder / "home"))
        environment.setenv("MLOPS_CONFIG", str(folder / "mlops.toml"))
        environment.setenv("DAGSTER_HOME", str(folder / "home" / "dagster"))
        prepare_instance(folder / "home")
        settings = load_settings()
        defs = build_pipeline(FRAUD, settings)
        days = {RANGE_START: FIRST, RANGE_END: BEFORE}
        with DagsterInstance.get() as instance:
            assert defs.resolve_job_def(BACKFILL).execute_in_process(instance=instance, tags=days).success
            poison(Lake(settings.lake_root))
            job, only = defs.resolve_job_def(RETRAINING), [AssetKey(TRAINING_SET)]
            assert job.execute_in_process(
                instance=instance, partition_key=AS_OF, asset_selection=only
            ).success
        registry_of(settings).end_orphans(datetime.now(UTC))  # makes MLflow's database
    return folder


def poison(lake: Lake) -> None:
    rows = lake.read(FEATURE_VECTORS, [POISONED])
    field = rows.schema.field(FEATURE)
    infinite = pa.array([float("inf")] * rows.num_rows, field.type)
    lake.write(
        FEATURE_VECTORS,
        POISONED,
        rows.set_column(rows.column_names.index(FEATURE), field, infinite),
        validated=True,
    )


@pytest.fixture
def platform(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    home = prepared / "home"
    for name, value in {
        "MLOPS_HOME": home,
        "MLOPS_CONFIG": prepared / "mlops.toml",
        "DAGSTER_HOME": home / "dagster",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(prepared), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    seen = Machine(prepared, registry_of(load_settings()), frozenset())
    with DagsterInstance.get() as instance:
        return Machine(
            seen.folder,
            seen.registry,
            frozenset([*seen.runs(instance), *(run.info.run_id for run in seen.trainings())]),
        )


def test_a_training_that_the_command_launched(platform: Machine) -> None:
    done = tool("mlops", "train", "--as-of", AS_OF, cwd=platform.folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"mlops: {TRAINED_MODEL}: {REASON}"
    platform.has_failed()


@pytest.mark.parametrize("location", ["mlops_assets.definitions", "fanned_out"])
def test_one_that_dagster_asset_materialize_launched_in_one_process_or_in_several(
    platform: Machine, location: str
) -> None:
    done = tool(
        "dagster",
        "asset",
        "materialize",
        "-m",
        location,
        "--select",
        TRAINED_MODEL,
        "--partition",
        AS_OF,
        cwd=platform.folder,
    )
    assert done.returncode != 0
    assert ("Launching subprocess" in done.stdout + done.stderr) == (location == "fanned_out")
    platform.has_failed()


def test_those_that_the_ui_launched_in_one_process_and_in_several_and_that_of_the_sensor(
    platform: Machine,
) -> None:
    port, logs = free_port(), platform.folder / "logs"
    location = ["-m", "fanned_out"]
    with (
        running(
            "the webserver",
            ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *location],
            logs / "webserver.log",
        ) as webserver,
        running("the Dagster daemon", ["dagster._daemon", "run", *location], logs / "daemon.log") as daemon,
        DagsterInstance.get() as instance,
    ):
        wait_until_loaded(port, webserver, logs / "webserver.log", [TRAINED_MODEL])
        asked = {
            launch(port, {"execution": {"config": {executor: {}}}})
            for executor in ("in_process", "multiprocess")
        }
        check = DRIFT_CHECKS[0]
        failed = AssetCheckEvaluation(
            check.asset_key, check.name, False, {"day": BEFORE}, severity=AssetCheckSeverity.WARN
        )
        instance.report_runless_asset_event(failed)

        def all_ended() -> bool:
            assert daemon.poll() is None, (logs / "daemon.log").read_text()[-3000:]
            made = platform.runs(instance).values()
            return len(made) == 3 and all(run.is_finished for run in made)

        wait_until(all_ended, RUNS_TIMEOUT_S)
    runs = platform.has_failed(3)
    (of_sensor,) = [run for run in runs if run.run_id not in asked]
    assert of_sensor.tags[TRIGGER] == check.to_user_string()
    assert of_sensor.tags["dagster/sensor_name"] == "retrain_on_drift"


def test_one_that_was_killed_is_ended_by_the_next_training_and_not_before_it_is_dead(
    platform: Machine, tmp_path: Path
) -> None:
    (tmp_path / "endless.toml").write_text(ENDLESS)
    words = [sys.executable, "-m", "mlops_assets", "train", "--as-of", CLEAN]
    environment = {**os.environ, "MLOPS_CONFIG": str(tmp_path / "endless.toml")}
    with (
        (tmp_path / "train.log").open("w+") as log,
        subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=log) as process,
    ):

        def trains() -> bool:
            said = (tmp_path / "train.log").read_text()
            assert process.poll() is None, said
            return "round 50: " in said

        try:
            wait_until(trains, 120)
            assert platform.registry.end_orphans(datetime.now(UTC)) == []
        finally:
            process.send_signal(signal.SIGKILL)
    (left,) = platform.trainings()
    assert left.info.status == "RUNNING"
    assert left.data.tags[PID] == str(process.pid)
    with platform.registry.training_run("the next", "next", LOG, {}, {}):
        pass
    ended = platform.registry.client().get_run(left.info.run_id)
    assert ended.info.status == "FAILED"
    assert (
        ended.data.tags["error"]
        == f"process {process.pid} on {ended.data.tags[HOST]}, which trained this, is gone"
    )
    assert {run.info.status for run in platform.trainings()} == {"FAILED", "FINISHED"}


def test_one_of_another_host_is_left_alone_for_a_day(platform: Machine) -> None:
    client = platform.registry.client()
    experiment = client.get_experiment_by_name(platform.registry.name).experiment_id
    elsewhere = {"dagster_run_id": "r", HOST: "elsewhere", PID: "999999999", PROCESS: "r:1"}
    other = client.create_run(experiment, tags=elsewhere).info.run_id
    mine = client.create_run(experiment, tags={"dagster_run_id": "r", **process_tags("r")}).info.run_id
    now = datetime.now(UTC)
    assert platform.registry.end_orphans(now) == []
    assert platform.registry.end_orphans(now + timedelta(hours=23)) == []
    assert set(platform.registry.end_orphans(now + timedelta(hours=25))) == {other, mine}
    assert "did not end within a day" in client.get_run(other).data.tags["error"]
    assert client.get_run(other).info.status == "FAILED"


def launch(port: int, config: dict[str, Any]) -> str:
    """Materialize the asset as the UI does it for one partition; the run's id."""
    params = {
        "selector": {
            "repositoryLocationName": "fanned_out",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [TRAINED_MODEL]}],
            "assetCheckSelection": [],
        },
        "mode": "default",
        "runConfigData": config,
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": AS_OF}]},
    }
    launched = ask(port, LAUNCH, {"params": params})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def wait_until(done: Callable[[], bool], timeout: float) -> None:
    until = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < until, f"not within {timeout:.0f} s"
        time.sleep(0.5)
