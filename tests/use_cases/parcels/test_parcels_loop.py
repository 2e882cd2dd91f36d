"""The whole loop on late deliveries: history, a first version, a service that answers over HTTP, roads and
carriers that change, a retraining that the sensor asks for, and a version that knows the new world.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pandas as pd
import pytest
from dagster import (
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    RunRequest,
    build_sensor_context,
)
from parcel_network import Home, Traffic, network_toml

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port, wait_until_ready
from mlops_assets.core.keys import DATA_DRIFT, FEATURE_PARITY
from mlops_assets.core.watching.drift import DriftThresholds
from mlops_assets.graph.checks import DRIFT_CHECKS
from mlops_assets.pipeline import RETRAINING, build_pipeline
from mlops_assets.sensors.retraining import DAY, TRIGGER
from mlops_assets.use_cases import USE_CASES
from mlops_assets.use_cases.parcels.simulator import DeliveryNetwork, NetworkConfig

pytestmark = pytest.mark.slow

FIRST, BEFORE, CHANGED, LAST, AFTER = (f"2026-01-{day:02}" for day in (1, 18, 19, 23, 24))
# The platform's own source knows nothing of the change: all that it learns of it comes over HTTP.
CONFIG = network_toml()
CHANGES = [{"kind": kind, "from": CHANGED, "to": "2026-03-31"} for kind in ("winter", "network")]
SWAP_TIMEOUT_S = 60.0
# What is null of a vehicle that has no history; counts are 0.
EMPTY = {
    "vehicle_late_rate_28d",
    "vehicle_seconds_since_last_late",
    "vehicle_max_distance_km_7d",
    "vehicle_seconds_since_last_parcel",
}


@dataclass(frozen=True)
class Played:
    """The loop as it went, and the home that it left."""

    home: Home
    first: dict[str, Any]  # what the first training said
    asked: tuple[RunRequest, ...]  # by the sensor, once the changed days were taken in
    asked_again: tuple[RunRequest, ...]  # by its next tick
    launched: ExecuteInProcessResult
    answers: dict[str, dict[str, Any]]  # of the service, by parcel
    went_on: bool  # whether one process of the service answered all

    @property
    def lake(self) -> Lake:
        return Lake(str(self.home.path / "lake"))

    def rows(self, dataset: str, *days: str) -> pd.DataFrame:
        return self.lake.read(dataset, days or self.lake.between(dataset, CHANGED, AFTER)).to_pandas()

    def decisions(self) -> list[dict[str, Any]]:
        """The history of what was promoted and refused, the oldest first."""
        return [json.loads(line) for line in (self.home.path / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    home = Home(tmp_path_factory.mktemp("parcels")).configure(CONFIG)
    source = {**tomllib.loads(CONFIG)["source"], "scenarios": CHANGES}
    home.mlops("backfill", "--from", FIRST, "--to", BEFORE)
    first = home.mlops("train", "--as-of", CHANGED)
    with serving(home) as (process, client):
        traffic = Traffic(DeliveryNetwork(NetworkConfig.model_validate(source)), client)
        traffic.send(CHANGED, LAST)
        take_in(home, CHANGED, LAST)
        with DagsterInstance.from_config(str(home.path / "dagster")) as instance:
            defs = build_pipeline(USE_CASES["parcels"], home.settings)
            asked, cursor = tick(defs, instance, None)
            launched = launch(defs, instance, asked[0])
            asked_again, _ = tick(defs, instance, cursor)
        wait_for_version(client, "2")
        traffic.send(AFTER, AFTER)
        went_on = process.poll() is None
        take_in(home, AFTER, AFTER)
    return Played(home, first, asked, asked_again, launched, traffic.answers, went_on)


@contextmanager
def serving(home: Home) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`mlops serve` on the network's own time, as a process of its own."""
    port, log = free_port(), home.folder / "serving.log"
    words = [sys.executable, "-m", "mlops_assets", "serve", "--port", str(port), "--clock", "event"]
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=home.folder, env=home.environment, stdout=output, stderr=output)
    try:
        wait_until_ready(process, port, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait(30)


def take_in(home: Home, first: str, last: str) -> None:
    """The served days come into the lake, and each is compared with what the champion learnt from."""
    home.mlops("backfill", "--from", first, "--to", last)
    home.mlops("backfill", "--from", first, "--to", last, "--group", "monitoring")


def tick(
    defs: Definitions, instance: DagsterInstance, cursor: str | None
) -> tuple[tuple[RunRequest, ...], str | None]:
    """What the retraining sensor asks for, and its cursor."""
    resources = dict(defs.resources or {})
    with build_sensor_context(instance, cursor=cursor, resources=resources, definitions=defs) as context:
        found = defs.resolve_sensor_def("retrain_on_drift").evaluate_tick(context)
    return tuple(found.run_requests or ()), found.cursor


def launch(defs: Definitions, instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    """The run that the sensor asks for."""
    return defs.resolve_job_def(RETRAINING).execute_in_process(
        instance=instance, partition_key=request.partition_key, tags=dict(request.tags)
    )


def wait_for_version(client: httpx.Client, version: str) -> None:
    until = time.monotonic() + SWAP_TIMEOUT_S
    while client.get("/health").json()["model_version"] != version:
        assert time.monotonic() < until, f"the service did not swap to version {version}"
        time.sleep(0.2)


def lowest(reason: str) -> float:
    """The gain that the gate holds for proven."""
    (found,) = re.findall(r"at 95% confidence it is at least ([+-]\d\.\d+)", reason)
    return float(found)


def test_the_first_version_passes_the_gate_by_evidence(played: Played) -> None:
    assert played.first["verdict"] == "promoted", played.first["reasons"]
    (gain,) = [reason for reason in played.first["reasons"] if "of the baseline, a difference" in reason]
    assert lowest(gain) > 0.03, gain
    assert any("late parcels" in reason for reason in played.first["reasons"])


def test_the_changed_world_fails_the_drift_check_of_each_day(played: Played) -> None:
    reports = played.lake.manifests(DATA_DRIFT, played.lake.between(DATA_DRIFT, CHANGED, LAST))
    assert len(reports) == 5
    assert all(report.metadata["drifted"] for report in reports)
    index = played.rows(DATA_DRIFT, CHANGED).set_index("column")["value"]
    assert set(index[index > 1.0].index) >= {"congestion_now", "temperature_c_now", "snow_cm_now"}
    assert index["parcel_distance_km"] < DriftThresholds().psi


def test_the_sensor_asks_for_the_model_assets_once(played: Played) -> None:
    (request,) = played.asked
    assert (request.partition_key, request.tags[DAY]) == (AFTER, LAST)
    assert request.tags[TRIGGER] in {check.to_user_string() for check in DRIFT_CHECKS}
    assert played.asked_again == ()
    made = {event.asset_key.to_user_string() for event in played.launched.get_asset_materialization_events()}
    assert made == {"training_set", "recipe", "trained_model", "evaluation", "promoted_version"}


def test_the_retrained_version_is_better_in_the_new_world_and_on_record(played: Played) -> None:
    first, second = played.decisions()
    assert (first["kind"], first["version"]) == ("promoted", "1")
    assert (second["kind"], second["version"], second["champion"]) == ("promoted", "2", "1"), second
    assert second["run"] == played.launched.run_id
    (gain,) = [reason for reason in second["reasons"] if "of the champion, a difference" in reason]
    assert lowest(gain) > 0.05, gain


def test_the_running_service_answers_by_the_new_version(played: Played) -> None:
    assert played.went_on
    parcels = played.rows("parcels")
    assert set(played.answers) == set(parcels["parcel_id"])
    versions = parcels["parcel_id"].map(lambda name: played.answers[name]["model_version"])
    assert set(versions[parcels["created_timestamp"] < f"{AFTER}T00:00Z"]) == {"1"}
    assert set(versions[parcels["created_timestamp"] >= f"{AFTER}T00:00Z"]) == {"2"}
    decisions = {answer["decision"] for answer in played.answers.values()}
    assert decisions == {"ON_TIME", "WARN"}
    assert not any(answer["degraded"] for answer in played.answers.values())


def test_what_came_over_http_is_in_the_lake_and_not_what_the_source_has(played: Played) -> None:
    roads = played.rows("road_conditions", AFTER)
    assert len(roads) == 8 * 24
    assert roads["snow_cm"].median() > 0
    labels = played.rows("labels")
    assert labels["is_late"].astype(bool).mean() > 0.3
    assert set(labels["parcel_id"]) & set(played.answers)


def test_every_served_vector_is_the_one_computed_offline(played: Played) -> None:
    reports = played.lake.manifests(FEATURE_PARITY, played.lake.between(FEATURE_PARITY, CHANGED, AFTER))
    found = [report.metadata for report in reports]
    assert sum(one["compared"] for one in found) == len(played.answers) > 1_500
    assert sum(one["mismatches"] + one["missing"] for one in found) == 0


def test_a_parcel_without_vehicle_has_the_same_empty_history_online_and_offline(played: Played) -> None:
    log = played.rows("prediction_log")
    none = log[log["vehicle_id"].isna()].set_index("prediction_id")
    offline = played.rows("feature_vectors").set_index("parcel_id").loc[none.index]
    assert len(none) > 200
    for name, features in none["features"].items():
        served = json.loads(features)
        assert served["vehicle_num_parcels_1d"] == served["vehicle_num_verdicts_28d"] == 0
        assert {one for one in served if served[one] is None} >= EMPTY
        assert served["congestion_now"] is not None
        row = offline.loc[name, list(served)]
        assert served == pytest.approx({one: None if pd.isna(row[one]) else row[one] for one in served})
