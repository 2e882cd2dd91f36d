"""The second use case in the graph: its declarations alone make its assets, its days and its features."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stores import ListStore

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import to_us
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.use_cases import USE_CASES

ROOT = Path(__file__).parents[3]
FIRST, LAST = "2026-01-01", "2026-01-08"
WINTER = """
[[source.scenarios]]
kind = "winter"
from = 2026-01-05
to = 2026-03-31

[verdicts]"""
CONFIG = (
    (ROOT / "docs" / "parcels.toml")
    .read_text()
    .replace("parcels_per_day = 400", "parcels_per_day = 60\ntold_late = 0.05")
    .replace("[verdicts]", WINTER)
)


def test_the_graph_has_the_streams_and_views_of_the_use_case(settings: Settings) -> None:
    source = {"kind": "simulator", "start": date(2026, 1, 1)}
    defs = build_pipeline(USE_CASES["parcels"], replace(settings, use_case="parcels", source=source))
    names = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    streams = {"parcels", "labels", "road_conditions"}
    assert {f"{stage}{name}" for name in streams for stage in ("", "raw_", "quarantined_")} <= names
    assert {"carrier_stats", "route_stats", "vehicle_stats", "vehicle_load", "depot_conditions"} <= names
    assert not {name for name in names if "transaction" in name or "merchant" in name}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Eight days of a small network, made by the command."""
    folder = tmp_path_factory.mktemp("parcels")
    (folder / "parcels.toml").write_text(CONFIG)
    environment = {
        **os.environ,
        "MLOPS_HOME": str(folder / "home"),
        "MLOPS_CONFIG": str(folder / "parcels.toml"),
    }
    words = ["backfill", "--from", FIRST, "--to", LAST]
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Lake(str(folder / "home" / "lake"))


def frame(lake: Lake, dataset: str) -> pd.DataFrame:
    return lake.read(dataset, lake.partitions(dataset)).to_pandas()


@pytest.mark.slow
def test_every_parcel_has_its_vector_and_only_labels_are_verdicts(lake: Lake) -> None:
    vectors, parcels, labels = (frame(lake, name) for name in ("feature_vectors", "parcels", "labels"))
    assert len(vectors) == len(parcels) > 300
    verdicts = frame(lake, "verdicts")
    assert 0 < len(verdicts) <= len(labels)
    assert set(verdicts["parcel_id"]) <= set(labels["parcel_id"])


@pytest.mark.slow
def test_a_parcel_without_vehicle_has_an_empty_history(lake: Lake) -> None:
    vectors = frame(lake, "feature_vectors").merge(
        frame(lake, "parcels")[["parcel_id", "vehicle_id"]], on="parcel_id", suffixes=("", "_of_parcel")
    )
    none = vectors[vectors["vehicle_id"].isna()]
    assert len(none) > 10
    assert (none["vehicle_num_parcels_1d"] == 0).all()
    assert none["vehicle_late_rate_28d"].isna().all()
    assert vectors.loc[vectors["vehicle_id"].notna(), "vehicle_num_parcels_1d"].max() > 0


@dataclass(frozen=True)
class Arrived:
    """An event of the lake."""

    stream: str
    event_us: int
    created_us: int
    columns: dict[str, Any]


def arrived(lake: Lake, plan: FeaturePlan) -> list[Arrived]:
    """The events of all streams that the plan reads, in the order in which they became known."""
    found = []
    for stream in sorted({view.stream for view in plan.views}):
        for row in lake.read(stream, lake.partitions(stream)).to_pylist():
            times = to_us(row["event_timestamp"]), to_us(row["created_timestamp"])
            found.append(Arrived(stream, *times, row))
    return sorted(found, key=lambda one: one.created_us)


@pytest.mark.slow
def test_every_feature_of_a_parcel_is_what_brute_force_finds_offline_and_online(
    lake: Lake, tmp_path: Path
) -> None:
    case = USE_CASES["parcels"]
    plan = feature_store_of(Settings(home=tmp_path), case).plan(case.feature_service)
    vectors = lake.read("feature_vectors", lake.partitions("feature_vectors")).to_pylist()
    offline = {row["parcel_id"]: {name: row[name] for name in plan.features} for row in vectors}
    parcels = [one for one in arrived(lake, plan) if one.stream == "parcels"]
    told_late = [one for one in parcels if one.created_us > one.event_us]
    on_foot = [one for one in parcels if one.columns["vehicle_id"] is None]
    asked = {one.columns["parcel_id"]: one for one in (*parcels[::9], *told_late[:15], *on_foot[::6])}
    assert len(told_late) >= 15
    assert len(on_foot) >= 60

    definition, online = ListStore(plan), state_in_memory(plan)
    waiting = arrived(lake, plan)
    found: dict[str, set[bool]] = {name: set() for name in plan.features}
    for name, parcel in sorted(asked.items(), key=lambda one: one[1].event_us):
        while waiting and waiting[0].created_us <= parcel.event_us:
            event = waiting.pop(0)
            event_id = plan.event_id(event.stream, event.columns, event.event_us)
            for store in (definition, online):
                store.push(event.stream, event_id, event.columns, event.event_us, event.created_us)
        keys = {key: parcel.columns[key] for key in plan.keys}
        request = {**parcel.columns, "event_time_us": parcel.event_us}
        expected = definition.vector(keys, parcel.event_us, request)
        assert online.vector(keys, parcel.event_us, request) == expected
        assert offline[name] == expected
        for feature, value in expected.items():
            found[feature].add(value is not None and value != 0)
    assert all(True in values for values in found.values()), "each feature says something of some parcel"


def state_in_memory(plan: FeaturePlan) -> SqliteOnlineState:
    connection = sqlite3.connect(":memory:")
    SqliteOnlineState.create_tables(connection)
    return SqliteOnlineState(connection, plan)
