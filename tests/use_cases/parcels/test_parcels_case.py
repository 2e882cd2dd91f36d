"""The second use case in the graph: its declarations alone make its assets, its days and its features."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from feature_repo.lake.datasets import Lake
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.use_cases import USE_CASES

ROOT = Path(__file__).parents[3]
FIRST, LAST = "2026-01-01", "2026-01-08"
CONFIG = (ROOT / "docs" / "parcels.toml").read_text().replace("parcels_per_day = 400", "parcels_per_day = 60")


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


@pytest.mark.slow
def test_features_are_what_brute_force_finds(lake: Lake) -> None:
    vectors, parcels = frame(lake, "feature_vectors"), frame(lake, "parcels")
    verdicts, roads = frame(lake, "verdicts"), frame(lake, "road_conditions")
    of_parcel = parcels.set_index("parcel_id")
    hour = pd.Timedelta(hours=1)
    for row in vectors.sample(60, random_state=1).to_dict("records"):
        parcel = of_parcel.loc[row["parcel_id"]]
        at = parcel["event_timestamp"]
        reports = roads[(roads["depot"] == parcel["origin"]) & (roads["created_timestamp"] <= at)]
        known = reports[(reports["event_timestamp"] < at) & (reports["event_timestamp"] >= at - 6 * hour)]
        expected = None if known.empty else known.sort_values("event_timestamp")["congestion"].iloc[-1]
        assert (None if pd.isna(row["congestion_now"]) else row["congestion_now"]) == expected
        begin = (at - pd.Timedelta(days=7)).floor("h")
        seen = verdicts[(verdicts["carrier"] == parcel["carrier"]) & (verdicts["event_timestamp"] < at)]
        seen = seen[seen["event_timestamp"] >= begin]
        assert row["carrier_num_verdicts_7d"] == len(seen)
        if len(seen):
            assert row["carrier_late_rate_7d"] == pytest.approx(seen["is_late"].mean(), rel=1e-12)
