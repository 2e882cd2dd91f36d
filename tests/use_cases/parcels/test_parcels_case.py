"""The second use case in the graph: its declarations alone make its assets, its days and its features."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow.compute as pc
import pytest
from parcel_kit import parcels_plan, parcels_release
from stores import ListStore

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import to_us
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.steps.features.joined_views import SAMPLE, recount
from mlops_assets.use_cases import USE_CASES
from serving.app import create_app
from serving.contract.scorers.lightgbm import Scorer
from serving.releases import Champion
from serving.settings import ServingSettings

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


@pytest.mark.slow
def test_the_recount_finds_null_keys_without_events_and_a_wrong_count_of_one(
    lake: Lake, tmp_path: Path
) -> None:
    plan, case = parcels_plan(), USE_CASES["parcels"]
    vectors = lake.read("feature_vectors", [LAST])
    nobody = vectors.filter(vectors["vehicle_id"].is_null())
    assert 0 < nobody.num_rows < SAMPLE
    shutil.copytree(lake.root, tmp_path / "lake")
    other = Lake(str(tmp_path / "lake"))
    other.write("feature_vectors", LAST, nobody, validated=True)
    assert recount(case, other, plan, LAST) == (nobody.num_rows, [])
    feature = "vehicle_num_parcels_1d"
    place = nobody.column_names.index(feature)
    one_more = nobody.set_column(place, feature, pc.add(nobody[feature], 1.0))
    other.write("feature_vectors", LAST, one_more, validated=True)
    counted, wrong = recount(case, other, plan, LAST)
    assert (counted, len(wrong)) == (nobody.num_rows, nobody.num_rows)
    assert wrong[0] == f"{feature} of {nobody['parcel_id'][0]}: 1.0, counted 0"


@pytest.mark.slow
def test_the_rebuilt_online_state_is_that_of_the_same_events_over_http(lake: Lake, tmp_path: Path) -> None:
    """Both answer alike for every key, a null vehicle among them, from the lake's last day on.

    The rebuild loads only what a window can still reach on that day.
    """
    plan, parcels, last = parcels_plan(), frame(lake, "parcels"), pd.Timestamp(LAST, tz="UTC")
    played = play(plan, lake, tmp_path)
    rebuilt = Path(lake.root).parent / "serving" / "serving.db"
    keys = parcels[["carrier", "origin", "route", "vehicle_id"]].sample(60, random_state=2)
    keys = keys.assign(depot=keys["origin"])  # A view of roads is asked by its own name of the depot.
    asked: list[dict[str, str | None]] = [
        {str(name): value if isinstance(value, str) else None for name, value in row.items()}
        for row in keys.to_dict("records")
    ]
    assert any(row["vehicle_id"] is None for row in asked)
    with closing(sqlite3.connect(rebuilt)) as one, closing(sqlite3.connect(played)) as other:
        of_lake, live = SqliteOnlineState(one, plan), SqliteOnlineState(other, plan)
        for stream in ("parcels", "verdicts", "road_conditions"):
            newest = of_lake.ids(stream, to_us(last), to_us(last + pd.Timedelta(days=9)))
            assert sorted(newest) == sorted(live.ids(stream, to_us(last), to_us(last + pd.Timedelta(days=9))))
            assert len(newest) > 10
        roads = 0
        for moment in pd.date_range(last, periods=18, freq="2h"):
            for row in asked:
                values = of_lake.aggregates(row, to_us(moment))
                assert live.aggregates(row, to_us(moment)) == values
                roads += values["congestion_now"] is not None
        assert roads > 100


def play(plan: FeaturePlan, lake: Lake, home: Path) -> Path:
    """Send the lake's rows over HTTP in the order in which they became known. The service's database."""
    settings = ServingSettings(home, use_case="parcels", clock="event")
    app = create_app(settings)
    release = replace(parcels_release(plan), subject=USE_CASES["parcels"].subject)
    scorer = Scorer(release.model_text, release.calibrator)
    app.service.follower.current = Champion("1", "d" * 64, release, scorer)
    messages: list[tuple[datetime, str, dict[str, Any]]] = []
    for dataset, known, path, wrap in (
        ("road_conditions", "created_timestamp", "/streams/road_conditions", lambda row: {"events": [row]}),
        ("labels", "label_timestamp", "/labels", lambda row: {"labels": [row]}),
        ("parcels", "created_timestamp", "/predict", lambda row: {"parcel": row}),
    ):
        for row in lake.read(dataset, lake.partitions(dataset)).to_pylist():
            body = {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}
            messages.append((row[known], path, wrap(body)))

    async def sent() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _, path, body in sorted(messages, key=lambda one: one[0]):
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text

    asyncio.run(sent())
    app.service.plane.close()
    return settings.database
