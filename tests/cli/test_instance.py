"""Runs of this process and those that Dagster launches: who is dead, what waits in the queue, and what does
not.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    asset,
    define_asset_job,
    in_process_executor,
    materialize,
)
from dagster._core.instance.config import PoolGranularity
from dagster._core.test_utils import create_run_for_test

from mlops_assets.cli.instance import RunFailed, give_way, prepare_instance, run_job
from mlops_assets.errors import told
from mlops_assets.graph import unfinished_runs
from mlops_assets.graph.checks import DRIFT_CHECKS
from mlops_assets.graph.executor import marking_executor
from mlops_assets.graph.unfinished_runs import fail_dead_runs
from mlops_assets.pipeline import ONLINE, RETRAINING, build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.processes import HOST, PID, PROCESS, process_tags
from mlops_assets.use_cases.fraud.case import FRAUD

KILLED = """
import sys, time
from pathlib import Path
from dagster import DagsterInstance, Definitions, asset, define_asset_job, in_process_executor
import mlops_assets.definitions
from mlops_assets.cli.instance import prepare_instance, run_job
from mlops_assets.graph.console import story_logger

@asset
def endless():
    Path(sys.argv[1]).touch()
    time.sleep(600)

mlops_assets.definitions.defs = Definitions(
    assets=[endless],
    jobs=[define_asset_job("retraining", [endless])],
    loggers={"story": story_logger},
    executor=in_process_executor,
)
prepare_instance(Path(sys.argv[2]))
with DagsterInstance.get() as instance:
    run_job("retraining", instance)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(
        "DAGSTER_HOME", str(tmp_path / "home" / "dagster")
    )  # so that what prepare_instance sets is taken back
    return tmp_path / "home"


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    prepare_instance(home)
    with DagsterInstance.get() as made:
        yield made


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_reported_failed_and_the_sensor_goes_on(
    settings: Settings, instance: DagsterInstance, home: Path
) -> None:
    started = home / "started"
    words = [sys.executable, "-c", KILLED, str(started), str(home)]
    with subprocess.Popen(
        words, cwd=home, env={**os.environ, "DAGSTER_HOME": str(home / "dagster")}, stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 90
        while not started.exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < until
            time.sleep(0.1)
        (run,) = instance.get_runs()
        assert run.status == DagsterRunStatus.STARTED
        assert run.tags[PID] == str(process.pid)
        assert fail_dead_runs(instance) == []  # it lives
        check = DRIFT_CHECKS[0]
        instance.report_runless_asset_event(
            AssetCheckEvaluation(
                check.asset_key, check.name, False, {"day": "2025-03-10"}, severity=AssetCheckSeverity.WARN
            )
        )
        assert ticked(settings, instance) == []
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until it is waited for
        assert ticked(settings, instance) == ["2025-03-11"]
    (run,) = instance.get_runs()
    assert run.status == DagsterRunStatus.FAILURE
    assert fail_dead_runs(instance) == []


def ticked(settings: Settings, instance: DagsterInstance) -> list[str]:
    from dagster import build_sensor_context

    defs = build_pipeline(FRAUD, settings)
    with build_sensor_context(instance, resources=dict(defs.resources or {}), definitions=defs) as context:
        data = defs.resolve_sensor_def("retrain_on_drift").evaluate_tick(context)
    return [str(request.partition_key) for request in data.run_requests or []]


def started_run(instance: DagsterInstance, run_id: str, **tags: str) -> str:
    run = create_run_for_test(
        instance, run_id=run_id, job_name=RETRAINING, status=DagsterRunStatus.STARTED, tags=tags
    )
    return run.run_id


ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def test_a_process_id_that_was_given_out_again_is_another_process(instance: DagsterInstance) -> None:
    mine = process_tags(ONE)
    started_run(instance, ONE, **{**mine, PROCESS: f"{ONE}:1"})
    assert fail_dead_runs(instance) == [ONE]


def test_runs_of_this_process_of_another_host_and_re_executions_are_left_alone(
    instance: DagsterInstance,
) -> None:
    started_run(instance, ONE, **process_tags(ONE))
    started_run(instance, TWO, **{HOST: "elsewhere", PID: "999999999", PROCESS: f"{TWO}:1"})
    copied = started_run(
        instance,
        "33333333-3333-4333-8333-333333333333",
        **{**process_tags(ONE), PID: "999999999", PROCESS: f"{ONE}:1"},
    )
    launched = started_run(instance, "44444444-4444-4444-8444-444444444444")
    assert fail_dead_runs(instance) == []
    for run_id in (ONE, TWO, copied, launched):
        found = instance.get_run_by_id(run_id)
        assert found is not None
        assert found.status == DagsterRunStatus.STARTED


def test_a_run_that_never_began_is_ended_after_three_minutes_and_one_that_waits_in_the_queue_is_not(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = create_run_for_test(instance, run_id=ONE, job_name=RETRAINING, status=DagsterRunStatus.STARTING)
    queued(instance, TWO)
    assert fail_dead_runs(instance) == []
    monkeypatch.setattr(unfinished_runs, "START_TIMEOUT", timedelta(0))
    assert fail_dead_runs(instance) == [began.run_id]


def test_a_run_is_marked_with_the_process_that_executes_it_whoever_launched_it(
    instance: DagsterInstance,
) -> None:
    """The job is executed as a run worker of Dagster does it, and not in a call of ours."""
    run = instance.create_run_for_job(
        marked_job().get_definition(), tags={**process_tags(TWO), PID: "999999999"}
    )
    from dagster._core.execution.api import execute_run

    assert execute_run(marked_job(), run, instance).success
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.tags[PROCESS].startswith(f"{run.run_id}:")
    assert found.tags[PID] == str(os.getpid())


@pytest.mark.fault(25)
def test_records_that_cannot_be_written_are_told_with_their_place(
    instance: DagsterInstance, home: Path
) -> None:
    with sqlite3.connect(home / "dagster" / "history" / "runs.db") as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON runs BEGIN INSERT INTO gone VALUES (1); END"
        )
    with pytest.raises(RunFailed) as caught:
        run_job(ONLINE, instance)
    line = (
        f"Dagster's records in {home / 'dagster'} cannot be written: is the disk full? (no such table:"
        " main.gone)"
    )
    assert told(caught.value) == line


def test_at_most_two_launched_runs_and_one_of_the_model_group_and_none_for_ever(
    instance: DagsterInstance,
) -> None:
    limits = instance.get_concurrency_config()
    queue = limits.run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 2
    assert limits.pool_config.default_pool_limit == 1
    assert limits.pool_config.pool_granularity == PoolGranularity.RUN
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == 86_400


def test_the_assets_of_the_model_group_are_one_pool(settings: Settings) -> None:
    graph = build_pipeline(FRAUD, settings).resolve_asset_graph()
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.materializable_asset_keys}
    assert {name for name, found in pools.items() if found} == {
        "training_set",
        "recipe",
        "trained_model",
        "evaluation",
        "promoted_version",
    }
    assert set().union(*pools.values()) == {"model"}


def test_the_queue_holds_a_second_run_of_the_pool_back_also_where_it_was_asked_for_ad_hoc(
    instance: DagsterInstance,
) -> None:
    from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
    from dagster._core.storage.dagster_run import RunOpConcurrency, RunsFilter

    pooled = RunOpConcurrency(
        all_pools={"model"}, root_key_counts={"model": 1}, has_unconstrained_root_nodes=False
    )
    working = pooled_job().execute_in_process(instance=instance, run_id=ONE).dagster_run
    assert working.run_op_concurrency == pooled  # a run of this process counts, too
    create_run_for_test(instance, run_id=TWO, job_name="__ASSET_JOB", status=DagsterRunStatus.STARTED)
    instance.event_log_storage.initialize_concurrency_limit_to_default("model")
    counter = GlobalOpConcurrencyLimitsCounter(
        instance,
        runs=[working],
        in_progress_run_records=[
            record._replace(dagster_run=record.dagster_run._replace(run_op_concurrency=pooled))
            for record in instance.get_run_records(RunsFilter(run_ids=[TWO]))
        ],
        concurrency_keys=instance.event_log_storage.get_concurrency_keys(),
        pool_limits=instance.event_log_storage.get_pool_limits(),
        pool_granularity=instance.get_concurrency_config().pool_config.pool_granularity,
    )
    assert counter.is_blocked(working)


def test_a_run_in_this_process_does_not_wait_for_a_slot_that_another_holds(instance: DagsterInstance) -> None:
    instance.event_log_storage.initialize_concurrency_limit_to_default("model")
    claim = instance.event_log_storage.claim_concurrency_slot("model", "another-run", "training_set")
    assert claim.is_claimed
    began = time.monotonic()
    assert pooled_job().execute_in_process(instance=instance).success
    assert materialize([in_pool], instance=instance).success
    assert time.monotonic() - began < 30


def queued(instance: DagsterInstance, run_id: str) -> DagsterRun:
    """A run of the pool that waits for the daemon."""
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__").get_job_origin(
        "pooled"
    )
    return instance.create_run_for_job(
        job_def=pooled_job(), run_id=run_id, status=DagsterRunStatus.QUEUED, remote_job_origin=origin
    )


def test_a_row_of_runs_gives_way_to_what_waits_for_their_pool_until_it_was_launched(
    instance: DagsterInstance,
) -> None:
    waiting = queued(instance, ONE)
    launch = threading.Timer(0.5, instance.report_run_canceled, [waiting])
    launch.start()
    began = time.monotonic()
    give_way(instance, "model", patience_s=60)
    launch.join()
    assert 0.4 < time.monotonic() - began < 30


def test_nobody_gives_way_to_another_pool_or_for_ever(instance: DagsterInstance) -> None:
    queued(instance, ONE)
    began = time.monotonic()
    give_way(instance, "features", patience_s=60)
    assert time.monotonic() - began < 30
    give_way(instance, "model", patience_s=0.3)  # there is no daemon
    assert time.monotonic() - began < 30


@asset(pool="model")
def in_pool() -> None: ...


def pooled_job():  # type: ignore[no-untyped-def]
    defs = Definitions(
        assets=[in_pool],
        jobs=[define_asset_job("pooled", [AssetKey("in_pool")])],
        executor=in_process_executor,
    )
    return defs.resolve_job_def("pooled")


def marked():  # type: ignore[no-untyped-def]
    defs = Definitions(
        assets=[in_pool], jobs=[define_asset_job("pooled", [AssetKey("in_pool")])], executor=marking_executor
    )
    return defs.resolve_job_def("pooled")


def marked_job():  # type: ignore[no-untyped-def]
    from dagster import reconstructable

    return reconstructable(marked)
