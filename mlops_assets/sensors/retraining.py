"""Drift triggers retraining, not a calendar: failed drift checks become one run of the model assets."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta

from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    PartitionsDefinition,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from mlops_assets.core.keys import PROMOTED_VERSION
from mlops_assets.graph.unfinished_runs import IN_FLIGHT, ended, fail_dead_runs

PAGE = 100
TRIGGER, RECORD, DAY = "mlops/trigger", "mlops/check_record", "mlops/drift_day"


@dataclass(frozen=True)
class FailedCheck:
    """One record of a drift check that failed.

    `day` is the arrival day that it is about; None where whoever reported it named none.
    """

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
        """As Dagster keeps it from tick to tick."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "Cursor":
        """What `to_json` gave; an empty cursor before the first tick."""
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
    walk-forward is not in flight. It works for hours, and its runs of the job end before the promotion, so
    that it never touches the champion.
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
    """The first as-of day on which a retraining may be asked for again; None: `as_of` is not before it."""
    if last_as_of is None:
        return None
    free = (date.fromisoformat(last_as_of) + timedelta(days=cooldown_days)).isoformat()
    return free if as_of < free else None


def failed_checks(
    instance: DagsterInstance, check: AssetCheckKey, seen: Seen
) -> tuple[Seen, list[FailedCheck]]:
    """What has been looked at now, and the failed records that were not looked at before, the oldest first.

    The storage's own method is used, as the public one cannot filter on the sharded default storage. A record
    that is planned, or has failed in a run that still works, holds the mark back until that run has ended: a
    retraining reads what else that run makes of the day.
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
    working = {run_id for run_id in {r.run_id for r in waiting} if not ended(instance, run_id)}
    open_ids = {r.id for r in waiting if r.run_id in working}
    new = [r for r in waiting if r.status == Status.FAILED and r.id not in open_ids]
    through = min(open_ids) - 1 if open_ids else max([r.id for r in records], default=seen.through)
    decided = {r.id for r in records if r.id > through and r.id not in open_ids}
    name = check.to_user_string()
    return Seen(through, tuple(sorted(decided))), [
        FailedCheck(name, record.id, _day(record)) for record in new
    ]


def _in_flight(instance: DagsterInstance, job_name: str, assets: Collection[AssetKey]) -> DagsterRun | None:
    """An unfinished run of the job that may promote, or of any of the assets.

    A person starts the latter in the UI.
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
