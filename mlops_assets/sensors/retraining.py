"""Drift triggers retraining, not a calendar: the sensor that turns failed drift checks into one run of the
model assets.
"""

import json
import platform
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    PartitionsDefinition,
    RunRecord,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    in_process_executor,
    sensor,
)
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from mlops_assets.core.keys import PROMOTED_VERSION
from mlops_assets.resources.processes import HOST, PID, PROCESS, is_gone, process_tags

PAGE = 100
IN_FLIGHT = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
BEGINNING = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING]
START_TIMEOUT = timedelta(seconds=180)  # as run monitoring has it in `instance.py`
TRIGGER, RECORD, DAY = "mlops/trigger", "mlops/check_record", "mlops/drift_day"


@dataclass(frozen=True)
class FailedCheck:
    """One record of a drift check that failed, for an arrival day; None where whoever reported it named none."""

    check: str
    record: int
    day: str | None


@dataclass(frozen=True)
class Seen:
    """Which records of one check were looked at: all up to `through`, and those of `beyond`.

    A record is planned first and decided later under the same id, so that a lower id can fail after a higher
    one was seen.
    """

    through: int = 0
    beyond: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers from tick to tick.

    `last_as_of` is the day of its newest request, whatever became of it.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    last_as_of: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "Cursor":
        values = json.loads(text) if text else {}
        seen = {
            check: Seen(one["through"], tuple(one["beyond"])) for check, one in values.get("seen", {}).items()
        }
        return cls(seen, values.get("last_as_of"))


def retraining_sensor(
    job_name: str,
    assets: Collection[AssetKey],
    as_of_days: PartitionsDefinition[str],
    checks: Sequence[AssetCheckKey],
    cooldown_days: int,
) -> SensorDefinition:
    """The sensor that asks for `job_name` when one of `checks` has failed: one retraining in flight, and
    `cooldown_days` as-of days between two.

    In flight is any unfinished run of `job_name` or of one of its `assets`, however it was started. A
    walk-forward is none: it works for hours, and its runs of the job end before the promotion, so that it
    never touches the champion.
    """

    @sensor(
        name="retrain_on_drift",
        job_name=job_name,
        minimum_interval_seconds=5,
        required_resource_keys={"registry"},
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Requests the model assets when a drift check has failed; each failed record is seen once, and a"
            " cooldown follows."
        ),
    )
    def retrain_on_drift(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        if fail_dead_runs(context.instance):
            context.resources.registry.end_orphans(datetime.now(UTC))  # what they left running in MLflow
        if run := _in_flight(context.instance, job_name, assets):
            return SkipReason(
                f"retraining {run.run_id} is in flight; what failed meanwhile is looked at after it"
            )
        cursor = Cursor.from_json(context.cursor)
        seen, failed = dict(cursor.seen), list[tuple[str, FailedCheck]]()
        for check in checks:
            name = check.to_user_string()
            seen[name], new = failed_checks(context.instance, check, seen.get(name, Seen()))
            for one in new:
                # An error here would come again at each tick, and hold back what can be acted on.
                if one.day is None:
                    context.log.warning(
                        f"{one.check} failed in record {one.record}, which names no arrival day: it asks for"
                        " nothing"
                    )
                elif not as_of_days.has_partition_key(_day_after(one.day)):
                    context.log.warning(
                        f"{one.check} failed on {one.day}, after which there is no as-of day: it asks for"
                        " nothing"
                    )
                else:
                    failed.append((one.day, one))
        if not failed:
            return SensorResult(
                cursor=Cursor(seen, cursor.last_as_of).to_json(),
                skip_reason=SkipReason("no drift check has failed since the last look"),
            )
        day, newest = max(failed, key=lambda one: (one[0], one[1].record))
        as_of = _day_after(day)
        if free := cools_until(cursor.last_as_of, cooldown_days, as_of):
            reason = (
                f"{newest.check} failed on {day}, and the retraining as of {cursor.last_as_of} cools down"
                f" until {free}"
            )
            return SensorResult(
                cursor=Cursor(seen, cursor.last_as_of).to_json(), skip_reason=SkipReason(reason)
            )
        request = RunRequest(
            run_key=f"{newest.check}:{newest.record}",
            partition_key=as_of,
            tags={TRIGGER: newest.check, RECORD: str(newest.record), DAY: day},
        )
        return SensorResult(run_requests=[request], cursor=Cursor(seen, as_of).to_json())

    return retrain_on_drift


def cools_until(last_as_of: str | None, cooldown_days: int, as_of: str) -> str | None:
    """The first as-of day on which a retraining may be asked for again, where `as_of` is still before it;
    None where it is free.
    """
    if last_as_of is None:
        return None
    free = (date.fromisoformat(last_as_of) + timedelta(days=cooldown_days)).isoformat()
    return free if as_of < free else None


def failed_checks(
    instance: DagsterInstance, check: AssetCheckKey, seen: Seen
) -> tuple[Seen, list[FailedCheck]]:
    """The failed records that were not looked at before, the oldest first, and what has been looked at now.

    The storage's own method is used since the public one cannot filter on the sharded default storage. A
    record that is planned, or has failed in a run that still works, holds the mark back until that run has
    ended: what else it makes of the day is what a retraining reads.
    """
    records = []
    before: int | None = None
    while page := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=PAGE, cursor=before
    ):
        records += [record for record in page if record.id > seen.through]
        if page[-1].id <= seen.through:
            break
        before = page[-1].id
    records.sort(key=lambda record: record.id)
    waiting = [r for r in records if r.status in (Status.PLANNED, Status.FAILED) and r.id not in seen.beyond]
    working = {run_id for run_id in {r.run_id for r in waiting} if not _ended(instance, run_id)}
    open_ids = {r.id for r in waiting if r.run_id in working}
    new = [r for r in waiting if r.status == Status.FAILED and r.id not in open_ids]
    through = min(open_ids) - 1 if open_ids else max([r.id for r in records], default=seen.through)
    decided = {r.id for r in records if r.id > through and r.id not in open_ids}
    name = check.to_user_string()
    return Seen(through, tuple(sorted(decided))), [
        FailedCheck(name, record.id, _day(record)) for record in new
    ]


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report as failed every unfinished run whose process on this host is gone; returns their ids.

    Nobody else does: run monitoring does not see a killed process where Dagster launches runs on its own
    host. A run that names no process has not begun to work. After `START_TIMEOUT` what was to begin it is
    gone, too. What waits in the queue may wait.
    """
    dead = []
    for record in instance.get_run_records(RunsFilter(statuses=IN_FLIGHT)):
        run = record.dagster_run
        if run.tags.get(HOST) == platform.node() and is_gone(run.run_id, run.tags):
            why = f"process {run.tags[PID]} on {run.tags[HOST]}, which executed this run, is gone"
        elif run.status in BEGINNING and PROCESS not in run.tags and _age(record) > START_TIMEOUT:
            why = (
                f"it did not begin within {START_TIMEOUT.total_seconds():.0f} s: what was to execute this run"
                " is gone"
            )
        else:
            continue
        if not _ended(instance, run.run_id):
            instance.report_run_failed(run, why)
            dead.append(run.run_id)
    return dead


class _MarkingExecutor(InProcessExecutor):
    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        plan_context.instance.add_run_tags(plan_context.run_id, process_tags(plan_context.run_id))
        yield from super().execute(plan_context, execution_plan)


def _marking(context: InitExecutorContext) -> Executor:
    usual: Any = cast(Any, in_process_executor.executor_creation_fn)(context)
    return _MarkingExecutor(usual.retries, usual.step_dependency_config)


# Dagster's own, which first marks the run with the process that executes it, whoever launched it.
# Another process for every step would import the heavy libraries again.
marking_executor = ExecutorDefinition(
    name=in_process_executor.name,
    config_schema=cast(Any, in_process_executor.config_schema),
    requirements=in_process_executor._requirements_fn,
    executor_creation_fn=_marking,
)


def _in_flight(instance: DagsterInstance, job_name: str, assets: Collection[AssetKey]) -> DagsterRun | None:
    """An unfinished run of the job that may promote, or of any of the assets as when a person materializes
    them in the UI.
    """
    for run in instance.get_runs(RunsFilter(statuses=IN_FLIGHT)):
        selected = run.asset_selection or set()
        if (
            (not selected or AssetKey(PROMOTED_VERSION) in selected)
            if run.job_name == job_name
            else not selected.isdisjoint(assets)
        ):
            return run
    return None


def _age(record: RunRecord) -> timedelta:
    return datetime.now(UTC) - record.update_timestamp.astimezone(UTC)


def _ended(instance: DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def _day_after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _day(record: AssetCheckExecutionRecord) -> str | None:
    """The arrival day that the check was about: its partition, or what its own metadata says.

    Anybody may report a check, and not all name a day.
    """
    evaluation = record.event.asset_check_evaluation if record.event else None
    named = evaluation.metadata.get("day") if evaluation else None
    day = record.partition or (named and named.value)
    try:
        return date.fromisoformat(str(day)).isoformat() if day else None
    except ValueError:
        return None
