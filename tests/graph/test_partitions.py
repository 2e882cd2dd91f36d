"""A range of days in one run is recorded as days: each partition has its own rows and its own checks, and
none stays open.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.instance import RANGE_END, RANGE_START
from mlops_assets.pipeline import BACKFILL, build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.use_cases.fraud.case import FRAUD

DAYS = ["2025-03-01", "2025-03-02", "2025-03-03"]
SCHEMA, COUNTS = (AssetCheckKey(AssetKey("transactions"), name) for name in ("schema", "counts"))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def backfill(defs: Definitions, instance: DagsterInstance) -> ExecuteInProcessResult:
    tags = {RANGE_START: DAYS[0], RANGE_END: DAYS[-1]}
    return defs.resolve_job_def(BACKFILL).execute_in_process(
        instance=instance, tags=tags, raise_on_error=False
    )


def records(instance: DagsterInstance, key: AssetCheckKey) -> list[AssetCheckExecutionRecord]:
    return list(instance.event_log_storage.get_asset_check_execution_history(key, limit=100))


def rows_of(instance: DagsterInstance, key: AssetKey) -> dict[str | None, object]:
    found = instance.fetch_materializations(
        AssetRecordsFilter(asset_key=key, asset_partitions=DAYS), limit=10
    ).records
    return {
        r.partition_key: r.asset_materialization.metadata["dagster/row_count"].value
        for r in found
        if r.asset_materialization
    }


@pytest.mark.slow
def test_each_partition_of_a_backfill_has_its_own_rows_and_an_evaluation_of_each_check(
    settings: Settings, instance: DagsterInstance
) -> None:
    defs = build_pipeline(FRAUD, settings)
    assert backfill(defs, instance).success
    lake, job = Lake(settings.lake_root), defs.resolve_job_def(BACKFILL)
    made = job.asset_layer.executable_asset_keys
    assert len(made) == 12
    assert len({m.rows for m in lake.manifests("transactions", DAYS)}) > 1, "equal days would show nothing"
    for key in made:
        assert rows_of(instance, key) == {
            m.partition: m.rows for m in lake.manifests(key.to_user_string(), DAYS)
        }, key
    checks = [key for key in defs.resolve_asset_graph().asset_check_keys if key.asset_key in made]
    assert len(checks) == 14
    for check in checks:
        assert [r.partition for r in records(instance, check)] == DAYS[::-1], check
        assert {r.status for r in records(instance, check)} <= {Status.SUCCEEDED, Status.FAILED}, check
    newest = records(instance, COUNTS)[0].evaluation
    latest = instance.fetch_materializations(
        AssetRecordsFilter(asset_key=AssetKey("transactions"), asset_partitions=DAYS[-1:]), limit=1
    )
    assert newest is not None
    assert newest.target_materialization_data is not None
    assert newest.target_materialization_data.storage_id == latest.records[0].storage_id


def test_a_day_that_blocks_stops_the_backfill_and_is_told_apart_from_the_days_that_do_not(
    settings: Settings, instance: DagsterInstance, tmp_path: Path
) -> None:
    lines = [
        f"{day}-{n},{day}T10:00:00Z,c1,m1,{'x' if day == DAYS[1] and n else 5}"
        for day in DAYS
        for n in range(4)
    ]
    (tmp_path / "paid.csv").write_text(
        "\n".join(["transaction_id,event_timestamp,customer_id,merchant_id,amount", *lines, ""])
    )
    defs = build_pipeline(
        FRAUD, replace(settings, source={"kind": "files", "path": str(tmp_path / "paid.csv")})
    )
    outcome = backfill(defs, instance)
    assert not outcome.success
    assert {r.partition: r.status for r in records(instance, SCHEMA)} == dict(
        zip(DAYS, (Status.SUCCEEDED, Status.FAILED, Status.SUCCEEDED), strict=True)
    )
    assert rows_of(instance, AssetKey("transactions")) == dict(zip(DAYS, (4, 1, 4), strict=True))
    assert rows_of(instance, AssetKey("quarantined_transactions")) == dict(zip(DAYS, (0, 3, 0), strict=True))
    assert rows_of(instance, AssetKey("customer_stats")) == {}, "nothing downstream was made"


def test_a_single_day_is_recorded_on_its_partition(settings: Settings, instance: DagsterInstance) -> None:
    defs = build_pipeline(FRAUD, settings)
    ingest = [AssetKey(name) for name in ("raw_transactions", "transactions", "quarantined_transactions")]
    job = defs.resolve_job_def(BACKFILL)
    assert job.execute_in_process(instance=instance, partition_key=DAYS[0], asset_selection=ingest).success
    assert [(r.partition, r.status) for r in records(instance, COUNTS)] == [(DAYS[0], Status.SUCCEEDED)]


def test_every_check_has_the_partitions_of_its_asset(settings: Settings) -> None:
    graph = build_pipeline(FRAUD, settings).resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get(key).partitions_def == graph.get(key.asset_key).partitions_def, key
