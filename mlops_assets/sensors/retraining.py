"""Failed drift checks ask for a retraining: one run of the model assets. No calendar does."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime

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
from mlops_assets.resources.lake import shift

PAGE = 100
TRIGGER, RECORD, DAY = "mlops/trigger", "mlops/check_record", "mlops/drift_day"


@dataclass(frozen=True)
class FailedCheck:
    """One failed record of a drift check.

    `day` is the arrival day of the checked data; None where the record names no day.
    """

    check: str
    record: int
    day: str | None


@dataclass(frozen=True)
class Seen:
    """The records of one check that the sensor has looked at: all ids up to `through`, and those in `beyond`.

    A record keeps its id from planning to outcome. A lower id can therefore fail after a higher one.
    """

    through: int = 0
    beyond: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers from tick to tick.

    `last_as_of` is the as-of day of its newest request, whatever the outcome.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    last_as_of: str | None = None

    def to_json(self) -> str:
        """The text that Dagster stores."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "Cursor":
        """The cursor from the text of `to_json`. Before the first tick it is empty."""
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
    """The sensor that requests `job_name` when one of `checks` has failed.

    One retraining is in flight at a time, and `cooldown_days` as-of days lie between two. In flight is any
    unfinished run of `job_name` or of one of its `assets`, whoever started it. The runs of a walk-forward do
    not count: they take hours, and they end before the promotion, so they never change the champion.
    """

    @sensor(
        name="retrain_on_drift",
        job_name=job_name,
        minimum_interval_seconds=5,
        required_resource_keys={"registry"},
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Requests the model assets when a drift check has failed. Each failed record counts once, and a"
            " cooldown follows each request."
        ),
    )
    def retrain_on_drift(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        if fail_dead_runs(context.instance):
            context.resources.registry.end_orphans(datetime.now(UTC))  # the MLflow runs of the dead runs
        if run := _in_flight(context.instance, job_name, assets):
            return SkipReason(
                f"retraining {run.run_id} is in flight; checks that fail meanwhile are looked at after it"
            )
        cursor = Cursor.from_json(context.cursor)
        seen, failed = dict(cursor.seen), list[FailedCheck]()
        for check in checks:
            name = check.to_user_string()
            seen[name], new = failed_checks(context.instance, check, seen.get(name, Seen()))
            failed += [one for one in new if _asks_for_retraining(context, one, as_of_days)]
        found = _request(failed, cursor, cooldown_days)
        if isinstance(found, str):
            return SensorResult(
                cursor=Cursor(seen, cursor.last_as_of).to_json(), skip_reason=SkipReason(found)
            )
        return SensorResult(run_requests=[found], cursor=Cursor(seen, found.partition_key).to_json())

    return retrain_on_drift


def _asks_for_retraining(
    context: SensorEvaluationContext, failed: FailedCheck, as_of_days: PartitionsDefinition[str]
) -> bool:
    """Whether a retraining can follow the failure. A failure that asks for nothing is logged.

    An error would come again at each tick, and would hold back the other failures.
    """
    if failed.day is None:
        context.log.warning(
            f"{failed.check} failed in record {failed.record}, which names no arrival day: it asks for"
            " nothing"
        )
        return False
    if not as_of_days.has_partition_key(shift(failed.day, 1)):
        context.log.warning(
            f"{failed.check} failed on {failed.day}, after which there is no as-of day: it asks for nothing"
        )
        return False
    return True


def _request(failed: Sequence[FailedCheck], cursor: Cursor, cooldown_days: int) -> RunRequest | str:
    """The run that the newest failure asks for, or why there is none."""
    if not failed:
        return "no drift check has failed since the last look"
    newest = max(failed, key=lambda one: (str(one.day), one.record))
    day = str(newest.day)
    as_of = shift(day, 1)
    if free := cools_until(cursor.last_as_of, cooldown_days, as_of):
        return (
            f"{newest.check} failed on {day}, and the retraining as of {cursor.last_as_of} cools down until"
            f" {free}"
        )
    return RunRequest(
        run_key=f"{newest.check}:{newest.record}",
        partition_key=as_of,
        tags={TRIGGER: newest.check, RECORD: str(newest.record), DAY: day},
    )


def cools_until(last_as_of: str | None, cooldown_days: int, as_of: str) -> str | None:
    """The first as-of day after the cooldown. None where `as_of` is not before that day."""
    if last_as_of is None:
        return None
    free = shift(last_as_of, cooldown_days)
    return free if as_of < free else None


def failed_checks(
    instance: DagsterInstance, check: AssetCheckKey, seen: Seen
) -> tuple[Seen, list[FailedCheck]]:
    """The records that are looked at now, and the new failed records, the oldest first.

    Dagster's public method cannot filter on the sharded default storage, so this calls the storage itself. A
    record of an unfinished run, planned or failed, waits until the run has ended. A retraining also reads the
    other assets of that run.
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
    """An unfinished run of the job that may promote, or a run of any of the assets from the UI."""
    for run in instance.get_runs(RunsFilter(statuses=IN_FLIGHT)):
        selected = run.asset_selection or set()
        if (
            (not selected or AssetKey(PROMOTED_VERSION) in selected)
            if run.job_name == job_name
            else not selected.isdisjoint(assets)
        ):
            return run
    return None


def _day(record: AssetCheckExecutionRecord) -> str | None:
    """The arrival day of the checked data, from the record's partition or its metadata.

    None where the record names no day. A person can report a check without one.
    """
    evaluation = record.event.asset_check_evaluation if record.event else None
    named = evaluation.metadata.get("day") if evaluation else None
    day = record.partition or (named and named.value)
    try:
        return date.fromisoformat(str(day)).isoformat() if day else None
    except ValueError:
        return None
