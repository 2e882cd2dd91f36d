"""The Dagster instance under MLOPS_HOME: its settings file, and running a job of the code location in this
process.
"""

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

from mlops_assets.errors import is_interrupted, told
from mlops_assets.graph.unfinished_runs import fail_dead_runs
from mlops_assets.resources.home import bring_up, preparing, write_layout, write_whole
from mlops_assets.resources.processes import process_tags

# What the UI, the sensor and the schedule launch waits in a queue: two processes at a time, and one of the
# model group, which is a pool. Limits go by the run: those by the step would keep a run in this process
# waiting for its slot, too. Nothing here takes a day: a run that does is dead.
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
DATABASES = ("history", "schedules")  # folders of Dagster's own
GIVEN_S = 10.0  # a few looks of the daemon at its queue
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


class RunFailed(Exception):
    """A run ended in failure; the message names the step and what was wrong, in one line."""


def prepare_instance(home: Path) -> Path:
    """Make the folder that DAGSTER_HOME names, under `home` unless the person has one, with settings that
    suit one machine.

    A home of before is brought up to the layout of now. A folder that is prepared is found so without a lock.
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
    """Dagster's databases and its settings, each moved into its place when it is whole; what is there is left
    alone.

    The settings come last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, beside = folder / "dagster.yaml", folder / ".preparing"
    if place.exists():  # a person's own, which may keep its records elsewhere
        _open_storages(folder)
        return
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed here
    beside.mkdir()
    write_whole(beside / place.name, INSTANCE_SETTINGS)
    _open_storages(beside)
    for name in (*DATABASES, place.name):
        if not (folder / name).exists():
            (beside / name).rename(folder / name)
    shutil.rmtree(beside)


def _open_storages(folder: Path) -> None:
    """Dagster makes what it does not find of its databases."""
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
    """Run a job for one partition, or for a range of arrival days in a single run; a failure is `RunFailed`,
    Ctrl-C is `KeyboardInterrupt`.

    `config` is by asset.

    The run carries the process that it is executed in, so that one which is killed does not count as working
    for ever.
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
            raise KeyboardInterrupt  # Dagster has made a failure of the step out of it
        failed = RunFailed(_why(result))
        for failure in failures:
            failed.add_note(failure.to_string())  # a traceback shows them
        raise failed
    return result


@contextmanager
def _records_told(instance: DagsterInstance) -> Iterator[None]:
    """What Dagster cannot record ends a run outside of its steps, with an error that names no file."""
    try:
        yield
    except DBAPIError as error:
        raise RunFailed(
            f"Dagster's records in {instance.root_directory} cannot be written: is the disk full?"
        ) from error


@contextmanager
def _helpers_apart() -> Iterator[None]:
    """Dagster copies what steps print with processes beside this one.

    A terminal would send them Ctrl-C, too, and each would print a traceback.
    """
    dagsters: Any = compute_logs
    dagsters.subprocess = SimpleNamespace(Popen=partial(subprocess.Popen, start_new_session=True))
    try:
        yield
    finally:
        dagsters.subprocess = subprocess


def give_way(instance: DagsterInstance, pool: str, patience_s: float = GIVEN_S) -> None:
    """Wait until nothing is queued for the pool, and not longer than `patience_s`, for there may be no
    daemon.

    Runs in this process hold the pool for the queue, and do not ask for it themselves: of a row of them it
    would wait for the end.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until and any(
        _wants(run, pool) for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
    ):
        time.sleep(0.2)


def _wants(run: DagsterRun, pool: str) -> bool:
    return run.run_op_concurrency is not None and pool in (run.run_op_concurrency.all_pools or ())


def _why(result: ExecuteInProcessResult) -> str:
    """The blocking check that stopped the run, with what it found, or the error of the first failed step."""
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
