"""The Dagster instance of a home, and runs of jobs in this process."""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dagster import (
    AssetCheckSeverity,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    ExecuteInProcessResult,
    RunsFilter,
)
from dagster._core.execution import compute_logs
from dagster._utils.error import SerializableErrorInfo
from sqlalchemy.exc import DBAPIError

from feature_repo.lake.files import write_whole
from mlops_assets.errors import PlatformError, is_interrupted, told
from mlops_assets.graph.unfinished_runs import fail_dead_runs
from mlops_assets.resources.home import bring_up, preparing, write_layout
from mlops_assets.resources.processes import process_tags

# Runs that the UI, a sensor or a schedule launches wait in a queue. Two run at a time, and one of the model
# group, which is a pool. Limits count runs. Limits that count steps would also hold up a run in this process.
# No run takes a day, so a longer one is dead.
INSTANCE_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 2
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: run
    default_limit: 1
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  max_runtime_seconds: 86400
"""
DATABASES = ("history", "schedules")  # Dagster's own folders
GIVEN_S = 10.0  # The daemon looks at its queue a few times in so long
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


class RunFailed(PlatformError):
    """A run failed. The message names the step and what was wrong, in one line."""


def prepare_instance(home: Path) -> Path:
    """Make Dagster's folder with settings for one machine, and return it.

    DAGSTER_HOME names the folder. By default it is `dagster` under `home`. A home of an older format is
    rewritten. A prepared folder is recognized without a lock.
    """
    bring_up(home)
    folder = Path(os.environ.get("DAGSTER_HOME") or home / "dagster")
    os.environ["DAGSTER_HOME"] = str(folder)
    if _lacking(folder):
        with preparing(home):
            if _lacking(folder):
                _make_databases(folder)
            write_layout(home)
    return folder


def _lacking(folder: Path) -> bool:
    return not all((folder / name).exists() for name in ("dagster.yaml", *DATABASES))


def _make_databases(folder: Path) -> None:
    """Make Dagster's databases, then its settings. Each is moved to its place when it is whole.

    Existing files stay unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, beside = folder / "dagster.yaml", folder / ".preparing"
    if place.exists():  # Settings of a person, which may keep the records elsewhere
        _open_storages(folder)
        return
    shutil.rmtree(beside, ignore_errors=True)  # The folder of a process that was killed at this point
    beside.mkdir()
    write_whole(beside / place.name, INSTANCE_SETTINGS.encode())
    _open_storages(beside)
    for name in (*DATABASES, place.name):
        if not (folder / name).exists():
            (beside / name).rename(folder / name)
    shutil.rmtree(beside)


def _open_storages(folder: Path) -> None:
    """Open all storages. Dagster makes the databases that it does not find."""
    with DagsterInstance.from_config(str(folder)) as instance:
        _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage


def run_job(
    name: str,
    instance: DagsterInstance,
    *,
    day: str | None = None,
    days: tuple[str, str] | None = None,
    select: Any = None,
    config: Mapping[str, Any] | None = None,
) -> ExecuteInProcessResult:
    """Run a job for one partition, or for a range of arrival days, in a single run.

    `select` names assets of the job, `config` holds the configuration of each asset by name. The run's tags
    name this process, so that the run fails when the process is killed. Raises `RunFailed` for a failure and
    `KeyboardInterrupt` for Ctrl-C.
    """
    from mlops_assets.definitions import defs

    run_id = str(uuid.uuid4())
    span = {RANGE_START: days[0], RANGE_END: days[1]} if days else {}
    with _helpers_apart(), _records_told(instance):
        fail_dead_runs(instance)
        result = defs.resolve_job_def(name).execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=day,
            tags={**span, **process_tags(run_id)},
            raise_on_error=False,
            run_config={
                "loggers": {"story": {}},
                "ops": {asset: {"config": values} for asset, values in (config or {}).items()},
            },
            asset_selection=select,
        )
    if not result.success:
        failures = [_error(event) for event in result.all_events if event.is_step_failure]
        if any(map(is_interrupted, failures)):
            raise KeyboardInterrupt  # Dagster has turned it into a failure of the step
        failed = RunFailed(_why(result))
        for failure in failures:
            failed.add_note(failure.to_string())  # A traceback shows the notes
        raise failed
    return result


@contextmanager
def _records_told(instance: DagsterInstance) -> Iterator[None]:
    """Name the file where Dagster cannot write its records. Dagster's own error names no file."""
    try:
        yield
    except DBAPIError as error:
        raise RunFailed(
            f"Dagster's records in {instance.root_directory} cannot be written: is the disk full?"
        ) from error


@contextmanager
def _helpers_apart() -> Iterator[None]:
    """Start Dagster's helper processes, which copy the output of the steps, in sessions of their own.

    A terminal would send Ctrl-C to them as well, and each would print a traceback.
    """
    dagsters: Any = compute_logs
    dagsters.subprocess = SimpleNamespace(Popen=partial(subprocess.Popen, start_new_session=True))
    try:
        yield
    finally:
        dagsters.subprocess = subprocess


def give_way(instance: DagsterInstance, pool: str, patience_s: float = GIVEN_S) -> None:
    """Wait until no run is queued for the pool, at most `patience_s`, because there may be no daemon.

    A run in this process takes a place of the pool without queueing. Several such runs in a row would hold up
    the queued runs until the last has ended.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until and any(
        _wants(run, pool) for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
    ):
        time.sleep(0.2)


def _wants(run: DagsterRun, pool: str) -> bool:
    return run.run_op_concurrency is not None and pool in (run.run_op_concurrency.all_pools or ())


def _why(result: ExecuteInProcessResult) -> str:
    """The blocking check that stopped the run, with its metadata, or the error of the first failed step."""
    for event in result.all_events:
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == AssetCheckSeverity.ERROR:
                found = ", ".join(
                    f"{name}: {value.value}"
                    for name, value in check.metadata.items()
                    if isinstance(value.value, str | int | float)
                )
                place = f"{check.asset_key.to_user_string()}: the check {check.check_name} failed"
                return f"{place} ({' '.join(found.split())}); nothing downstream was made"
    for event in result.all_events:
        if event.is_step_failure:
            return f"{event.step_key}: {told(_error(event))}"
    return next((e.message or "failed" for e in result.all_events if e.is_failure), "failed")


def _error(failure: DagsterEvent) -> SerializableErrorInfo:
    return failure.step_failure_data.error or SerializableErrorInfo("failed", [], None)
