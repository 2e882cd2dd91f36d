"""The graph as a person finds it: what there is, how it hangs together, and that loading it needs nothing."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    TimeWindowPartitionMapping,
)

from mlops_assets.pipeline import RETRAINING, WALK, build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.provenance import ingested
from mlops_assets.use_cases.fraud.case import FRAUD

GROUPS = {
    "ingest": {
        "raw_transactions",
        "raw_labels",
        "transactions",
        "labels",
        "quarantined_transactions",
        "quarantined_labels",
        "verdicts",
    },
    "features": {"customer_stats", "merchant_stats", "merchant_activity", "feature_vectors", "online_store"},
    "model": {"training_set", "recipe", "trained_model", "evaluation", "promoted_version", "walk_forward"},
    "monitoring": {
        "prediction_log",
        "feature_parity",
        "data_drift_report",
        "prediction_drift_report",
        "business_report",
    },
}
CHECKS = {
    "transactions": {"schema", "counts", "volume"},
    "labels": {"schema", "counts", "volume", "ids_match", "known_later"},
    "raw_transactions": {"nothing_left_behind"},
    "raw_labels": {"nothing_left_behind"},
    "feature_vectors": {"null_rates", "ranges", "no_look_ahead"},
    "training_set": {"enough_positives"},
    "evaluation": {"gate"},
    "prediction_log": {"not_degraded"},
    "online_store": {"fresh"},
    "feature_parity": {"no_unexplained_mismatch"},
    "data_drift_report": {"enough_predictions", "no_data_drift"},
    "prediction_drift_report": {"enough_predictions", "no_prediction_drift"},
    "business_report": {"fraud_caught"},
}
BLOCKING = {
    ("transactions", "schema"),
    ("transactions", "counts"),
    ("labels", "schema"),
    ("labels", "counts"),
    ("training_set", "enough_positives"),
}


@pytest.fixture
def defs(settings: Settings) -> Definitions:
    return build_pipeline(FRAUD, settings)


def test_a_code_server_can_load_all_of_it(defs: Definitions) -> None:
    """More than to make the definitions: names that are taken twice are found here alone."""
    defs.get_repository_def().load_all_definitions()


def test_the_assets_are_those_of_the_design(defs: Definitions) -> None:
    found: dict[str, set[str]] = {}
    for spec in defs.resolve_all_asset_specs():
        found.setdefault(str(spec.group_name), set()).add(spec.key.to_user_string())
    assert found == GROUPS


def test_every_asset_says_what_it_is_whose_it_is_and_of_what_kind(defs: Definitions) -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners == ["team:fraud-ml"], spec.key
        assert spec.kinds, spec.key


def test_only_checks_on_data_block(defs: Definitions) -> None:
    found: dict[str, set[str]] = {}
    blocking = set()
    for node in defs.resolve_asset_graph().asset_check_keys:
        found.setdefault(node.asset_key.to_user_string(), set()).add(node.name)
        if defs.resolve_asset_graph().get_check_spec(node).blocking:
            blocking.add((node.asset_key.to_user_string(), node.name))
    assert found == CHECKS
    assert blocking == BLOCKING


def test_the_assets_of_labels_have_the_name_that_the_use_case_declares(settings: Settings) -> None:
    case = replace(FRAUD, labels=replace(FRAUD.labels, dataset="reports"))
    graph = build_pipeline(case, settings).resolve_asset_graph()
    checks = {key.name for key in graph.asset_check_keys if key.asset_key == AssetKey("reports")}
    assert checks == CHECKS["labels"]
    assert AssetKey("reports") in graph.get(AssetKey("verdicts")).parent_keys
    assert AssetKey("labels") not in graph.get_all_asset_keys()
    assert {"raw_reports", "reports"} < set(ingested(case))


def test_a_retraining_stands_downstream_of_the_drift_reports(defs: Definitions) -> None:
    graph = defs.resolve_asset_graph()
    parents = {key.to_user_string() for key in graph.get(AssetKey("training_set")).parent_keys}
    assert {
        "data_drift_report",
        "prediction_drift_report",
        "feature_parity",
        "feature_vectors",
        "verdicts",
    } == parents


def test_the_model_group_is_made_anew_by_no_automation_condition(defs: Definitions) -> None:
    for spec in defs.resolve_all_asset_specs():
        if spec.group_name == "model":
            assert spec.automation_condition is None, spec.key


def test_the_sensors_run_by_themselves_and_the_schedules_wait_for_a_person(defs: Definitions) -> None:
    sensors = {one.name: one.default_status for one in defs.sensors or []}
    assert sensors == dict.fromkeys(["retrain_on_drift", "guard_champion"], DefaultSensorStatus.RUNNING)
    assert {one.default_status for one in defs.schedules or []} == {DefaultScheduleStatus.STOPPED}


def test_a_retraining_makes_no_report_of_a_walk_and_a_walk_trains_nothing(defs: Definitions) -> None:
    made = {
        name: {key.to_user_string() for key in defs.resolve_job_def(name).asset_layer.executable_asset_keys}
        for name in (RETRAINING, WALK)
    }
    assert made == {RETRAINING: GROUPS["model"] - {"walk_forward"}, WALK: {"walk_forward"}}


def test_an_as_of_day_looks_at_the_arrival_days_before_it_only(defs: Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for asset in ("training_set", "business_report"):
        for parent in graph.get(AssetKey(asset)).parent_keys:
            mapping = graph.get(AssetKey(asset)).partition_mappings[parent]
            assert isinstance(mapping, TimeWindowPartitionMapping)
            assert mapping.end_offset == -1, (asset, parent)


def test_todays_as_of_day_exists_and_today_has_not_arrived() -> None:
    from datetime import UTC, date, datetime

    from mlops_assets.graph.partitions import arrival_days, as_of_days

    today = datetime.now(UTC).date().isoformat()
    assert as_of_days(date(2026, 1, 1), None).get_last_partition_key() == today
    assert today not in arrival_days(date(2026, 1, 1), None).get_partition_keys()


def test_as_of_days_end_with_the_day_after_the_last_arrival_day() -> None:
    from datetime import date

    from mlops_assets.graph.partitions import arrival_days, as_of_days

    assert arrival_days(date(2025, 3, 1), date(2025, 3, 31)).get_last_partition_key() == "2025-03-31"
    assert as_of_days(date(2025, 3, 1), date(2025, 3, 31)).get_last_partition_key() == "2025-04-01"
    assert as_of_days(date(2025, 3, 1), date(2025, 3, 31)).get_first_partition_key() == "2025-03-02"


def test_the_code_location_loads_offline_without_secrets_and_without_a_heavy_import(tmp_path: Path) -> None:
    script = """
import socket
def refuse(*_): raise OSError("the network was touched while definitions loaded")
socket.socket.connect = refuse
import sys
from mlops_assets.definitions import defs
defs.resolve_asset_graph()
heavy = {"mlflow", "feast", "evidently", "lightgbm", "optuna", "sklearn", "pandera", "fastapi"}
heavy &= set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [], "loading definitions made something"
