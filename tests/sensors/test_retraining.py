"""The retraining sensor, driven through ticks on an on-disk instance: quiet, breach, still red, recovered,
breach again.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    SensorDefinition,
    build_sensor_context,
)
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.test_utils import create_run_for_test

from mlops_assets.core.keys import (
    EVALUATION,
    PROMOTED_VERSION,
    RECIPE,
    TRAINED_MODEL,
    TRAINING_SET,
    WALK_FORWARD,
)
from mlops_assets.graph.checks import DRIFT_CHECKS
from mlops_assets.pipeline import RETRAINING, WALK, build_pipeline
from mlops_assets.resources.config_sections import Retraining
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.processes import PROCESS, process_tags
from mlops_assets.sensors.retraining import RECORD, Cursor, Seen, failed_checks
from mlops_assets.use_cases.fraud.case import FRAUD

DATA, SCORES = DRIFT_CHECKS


class Ticks:
    """The sensor as the daemon runs it: the cursor that a tick returns is what the next one gets."""

    def __init__(self, defs: Definitions, instance: DagsterInstance) -> None:
        self.defs, self.instance, self.cursor = defs, instance, None
        self.sensor: SensorDefinition = (
            defs.resolve_sensor_def("retrain_on_drift")
            if hasattr(defs, "resolve_sensor_def")
            else defs.get_sensor_def("retrain_on_drift")
        )

    def tick(self) -> list[str]:
        """The as-of days that are asked for."""
        resources = dict(self.defs.resources or {})
        with build_sensor_context(
            self.instance, cursor=self.cursor, resources=resources, definitions=self.defs
        ) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        self.keys = [request.run_key for request in data.run_requests or []]
        self.skipped = data.skip_message
        return [str(request.partition_key) for request in data.run_requests or []]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


@pytest.fixture
def ticks(settings: Settings, instance: DagsterInstance) -> Ticks:
    return Ticks(build_pipeline(FRAUD, settings), instance)


def evaluated(instance: DagsterInstance, check: AssetCheckKey, day: str, passed: bool) -> None:
    instance.report_runless_asset_event(
        AssetCheckEvaluation(
            check.asset_key, check.name, passed, {"day": day}, severity=AssetCheckSeverity.WARN
        )
    )


def test_nothing_failed_asks_for_nothing(ticks: Ticks, instance: DagsterInstance) -> None:
    assert ticks.tick() == []
    evaluated(instance, DATA, "2025-03-10", passed=True)
    assert ticks.tick() == []


def test_a_breach_asks_once_for_the_day_after_it(ticks: Ticks, instance: DagsterInstance) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]
    assert ticks.tick() == []


def test_a_breach_that_is_recorded_on_its_partition_needs_no_other_word(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    failed = AssetCheckEvaluation(
        DATA.asset_key, DATA.name, False, severity=AssetCheckSeverity.WARN, partition="2025-03-10"
    )
    instance.report_runless_asset_event(failed)
    assert ticks.tick() == ["2025-03-11"]


def test_still_red_asks_again_after_the_cooldown_and_not_before(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    asked = []
    for day in range(10, 20):
        evaluated(instance, DATA, f"2025-03-{day}", passed=False)
        asked += ticks.tick()
    assert asked == ["2025-03-11", "2025-03-14", "2025-03-17", "2025-03-20"]


def test_recovered_and_breached_again_asks_again(ticks: Ticks, instance: DagsterInstance) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]
    for day in range(11, 20):
        evaluated(instance, DATA, f"2025-03-{day}", passed=True)
        assert ticks.tick() == []
    evaluated(instance, SCORES, "2025-03-20", passed=False)
    assert ticks.tick() == ["2025-03-21"]


def test_two_checks_that_fail_on_one_day_ask_once(ticks: Ticks, instance: DagsterInstance) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    evaluated(instance, SCORES, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]
    assert ticks.tick() == []


def test_what_fails_while_a_retraining_is_in_flight_is_looked_at_after_it(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]
    run = create_run_for_test(instance, job_name=RETRAINING, status=DagsterRunStatus.STARTED)
    evaluated(instance, DATA, "2025-03-20", passed=False)
    assert ticks.tick() == []
    assert "in flight" in str(ticks.skipped)
    instance.report_run_failed(run)
    assert ticks.tick() == ["2025-03-21"]


@pytest.mark.parametrize(("asset", "asked"), [("trained_model", []), ("feature_vectors", ["2025-03-11"])])
def test_model_assets_that_are_materialized_ad_hoc_are_in_flight_too(
    ticks: Ticks, instance: DagsterInstance, asset: str, asked: list[str]
) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    run = create_run_for_test(
        instance,
        job_name="__ASSET_JOB",
        status=DagsterRunStatus.STARTING,
        asset_selection=frozenset({AssetKey(asset)}),
    )
    assert ticks.tick() == asked
    instance.report_run_failed(run)
    assert ticks.tick() == ([] if asked else ["2025-03-11"])


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        (RETRAINING, (TRAINING_SET, RECIPE, TRAINED_MODEL, EVALUATION)),
        (RETRAINING, (EVALUATION,)),
        (WALK, ()),
        (WALK, (WALK_FORWARD,)),
        ("__ASSET_JOB", (WALK_FORWARD,)),
    ],
)
def test_a_walk_forward_never_touches_the_champion_and_keeps_no_retraining_waiting(
    ticks: Ticks, instance: DagsterInstance, job: str, assets: tuple[str, ...]
) -> None:
    selected = frozenset(AssetKey(name) for name in assets) or None
    create_run_for_test(instance, job_name=job, status=DagsterRunStatus.STARTED, asset_selection=selected)
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]


def test_a_training_that_was_cut_off_and_is_finished_is_in_flight(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    rest = frozenset({AssetKey(EVALUATION), AssetKey(PROMOTED_VERSION)})
    create_run_for_test(instance, job_name=RETRAINING, status=DagsterRunStatus.STARTED, asset_selection=rest)
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == []
    assert "in flight" in str(ticks.skipped)


def test_a_daily_run_that_was_killed_is_ended_by_the_sensor_and_what_it_found_is_seen(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    run_id = "11111111-1111-4111-8111-111111111111"
    tags = {**process_tags(run_id), PROCESS: f"{run_id}:1"}
    killed = create_run_for_test(
        instance, run_id=run_id, job_name="daily", status=DagsterRunStatus.STARTED, tags=tags
    )
    planned(instance, killed.run_id, SCORES)
    planned(instance, killed.run_id, DATA)
    decided(instance, killed.run_id, DATA, "2025-03-10")
    assert ticks.tick() == ["2025-03-11"]
    assert all(seen.beyond == () for seen in Cursor.from_json(ticks.cursor).seen.values())
    found = instance.get_run_by_id(run_id)
    assert found is not None
    assert found.status == DagsterRunStatus.FAILURE


def test_the_cooldown_counts_in_as_of_days_and_a_refused_or_failed_retraining_starts_it_too(
    ticks: Ticks, instance: DagsterInstance
) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    ticks.tick()
    run = create_run_for_test(instance, job_name=RETRAINING, status=DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    evaluated(instance, DATA, "2025-03-11", passed=False)
    assert ticks.tick() == []
    assert "cools down until 2025-03-14" in str(ticks.skipped)


@pytest.mark.slow
def test_drift_that_stays_high_for_a_hundred_ticks_trains_one_at_a_time_and_at_most_once_a_day(
    settings: Settings, instance: DagsterInstance
) -> None:
    eager = Ticks(build_pipeline(FRAUD, replace(settings, retraining=Retraining(cooldown_days=1))), instance)
    asked, running = [], None
    for tick in range(100):
        day = date(2025, 3, 10) + timedelta(days=tick // 10)  # ten times a day
        evaluated(instance, DATA, day.isoformat(), passed=False)
        if new := eager.tick():
            assert running is None
            asked += new
            running = create_run_for_test(instance, job_name=RETRAINING, status=DagsterRunStatus.STARTED)
        elif running and tick % 4 == 3:
            instance.report_run_failed(running)
            running = None
    assert asked == [(date(2025, 3, 11) + timedelta(days=n)).isoformat() for n in range(10)]


def test_no_cooldown_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="cooldown_days of 0"):
        Retraining(cooldown_days=0)


def test_a_tick_that_throws_or_is_cut_off_loses_nothing_and_repeats_its_key(
    ticks: Ticks, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    with monkeypatch.context() as broken:
        broken.setattr(type(instance.event_log_storage), "get_asset_check_execution_history", refuse)
        with pytest.raises(OSError, match="the disk is gone"):
            ticks.tick()
    before = ticks.cursor
    assert ticks.tick() == ["2025-03-11"]
    keys = ticks.keys
    ticks.cursor = before  # the daemon died, or gave up waiting, before it had kept the new one
    assert ticks.tick() == ["2025-03-11"]
    assert ticks.keys == keys  # and Dagster launches a key once


@pytest.mark.parametrize("named", [{}, {"day": "yesterday"}])
def test_a_failure_that_names_no_day_asks_for_nothing_and_stops_no_later_one(
    ticks: Ticks, instance: DagsterInstance, named: dict[str, str]
) -> None:
    instance.report_runless_asset_event(
        AssetCheckEvaluation(DATA.asset_key, DATA.name, False, named, severity=AssetCheckSeverity.WARN)
    )
    assert ticks.tick() == []
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]


@pytest.mark.parametrize("day", ["2020-01-01", "2031-01-01", "9999-12-30"])
def test_a_failure_on_a_day_outside_of_the_calendar_asks_for_nothing_and_stops_no_later_one(
    ticks: Ticks, instance: DagsterInstance, day: str
) -> None:
    evaluated(instance, DATA, day, passed=False)
    assert ticks.tick() == []
    evaluated(instance, DATA, "2025-03-10", passed=False)
    assert ticks.tick() == ["2025-03-11"]


def test_the_same_day_evaluated_again_is_another_record(ticks: Ticks, instance: DagsterInstance) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    ticks.tick()
    first = ticks.keys
    evaluated(instance, DATA, "2025-03-13", passed=False)
    assert ticks.tick() == ["2025-03-14"]
    assert ticks.keys != first


def test_more_failures_than_a_page_are_all_seen(instance: DagsterInstance) -> None:
    for number in range(230):
        evaluated(instance, DATA, f"2025-03-{number % 28 + 1:02}", passed=False)
    seen, failed = failed_checks(instance, DATA, Seen())
    assert len(failed) == 230
    assert failed_checks(instance, DATA, seen)[1] == []


def test_a_planned_record_that_fails_after_a_later_one_was_seen_is_not_missed(
    instance: DagsterInstance,
) -> None:
    slow = create_run_for_test(instance, job_name="daily", status=DagsterRunStatus.STARTED)
    planned(instance, slow.run_id, DATA)
    evaluated(instance, DATA, "2025-03-11", passed=False)
    seen, failed = failed_checks(instance, DATA, Seen())
    assert [one.day for one in failed] == ["2025-03-11"]
    decided(instance, slow.run_id, DATA, "2025-03-10")
    seen, failed = failed_checks(instance, DATA, seen)
    assert failed == []  # the run still works: what a retraining would read of its day is not there yet
    instance.report_run_failed(slow)
    seen, failed = failed_checks(instance, DATA, seen)
    assert [one.day for one in failed] == ["2025-03-10"]
    assert failed_checks(instance, DATA, seen)[1] == []


def test_an_orphan_of_a_run_that_ended_does_not_hold_the_mark_back(instance: DagsterInstance) -> None:
    dead = create_run_for_test(instance, job_name="daily", status=DagsterRunStatus.STARTED)
    planned(instance, dead.run_id, DATA)
    evaluated(instance, DATA, "2025-03-11", passed=False)
    seen, _ = failed_checks(instance, DATA, Seen())
    assert seen.beyond
    instance.report_run_failed(dead)
    seen, failed = failed_checks(instance, DATA, seen)
    assert failed == []
    assert seen.beyond == ()


def test_the_cursor_survives_as_text() -> None:
    cursor = Cursor({"data_drift_report:no_data_drift": Seen(7, (9, 12))}, "2025-03-11")
    assert Cursor.from_json(cursor.to_json()) == cursor
    assert Cursor.from_json(None) == Cursor()


def test_the_request_says_which_record_asked(ticks: Ticks, instance: DagsterInstance) -> None:
    evaluated(instance, DATA, "2025-03-10", passed=False)
    context = build_sensor_context(instance, definitions=ticks.defs)
    (request,) = ticks.sensor.evaluate_tick(context).run_requests or []
    record = instance.event_log_storage.get_asset_check_execution_history(DATA, limit=1)[0]
    assert request.tags[RECORD] == str(record.id)


def refuse(*_: object, **__: object) -> None:
    raise OSError("the disk is gone")


def planned(instance: DagsterInstance, run_id: str, check: AssetCheckKey) -> None:
    from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned

    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="daily",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=check.asset_key, check_name=check.name),
    )
    instance.report_dagster_event(event, run_id)


def decided(instance: DagsterInstance, run_id: str, check: AssetCheckKey, day: str) -> None:
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION.value,
        job_name="daily",
        step_key="data_drift_report",
        event_specific_data=AssetCheckEvaluation(
            check.asset_key,
            check.name,
            passed=False,
            metadata={"day": _text(day)},
            severity=AssetCheckSeverity.WARN,
        ),
    )
    instance.report_dagster_event(event, run_id)


def _text(value: str) -> object:
    from dagster import MetadataValue

    return MetadataValue.text(value)
