"""Unfinished runs, and the end of runs whose process is dead."""

import platform
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter

from mlops_assets.resources.processes import HOST, PID, PROCESS, is_gone

IN_FLIGHT = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
BEGINNING = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING]
START_TIMEOUT = timedelta(seconds=180)  # the timeout of run monitoring in `instance.py`


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report every unfinished run as failed whose process on this host is dead. Returns the ids.

    Dagster's run monitoring does not see a killed process on its own host. A run without a process has not
    begun. After `START_TIMEOUT` its launcher counts as dead too. Queued runs may wait.
    """
    dead = []
    for record in instance.get_run_records(RunsFilter(statuses=IN_FLIGHT)):
        run = record.dagster_run
        if run.tags.get(HOST) == platform.node() and is_gone(run.run_id, run.tags):
            why = f"process {run.tags[PID]} on {run.tags[HOST]}, which executed this run, is gone"
        elif run.status in BEGINNING and PROCESS not in run.tags and _age(record) > START_TIMEOUT:
            why = (
                f"it did not begin within {START_TIMEOUT.total_seconds():.0f} s: the process that should"
                " execute this run is gone"
            )
        else:
            continue
        if not ended(instance, run.run_id):
            instance.report_run_failed(run, why)
            dead.append(run.run_id)
    return dead


def ended(instance: DagsterInstance, run_id: str) -> bool:
    """Whether the run has finished, or is no longer on record."""
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _age(record: RunRecord) -> timedelta:
    return datetime.now(UTC) - record.update_timestamp.astimezone(UTC)
