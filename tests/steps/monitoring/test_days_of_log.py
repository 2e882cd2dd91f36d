"""Decisions whose events are in the service's log alone, and what each decision had read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from parcel_kit import condition, parcel, parcels_plan, parcels_release
from serving_kit import MINUTE_US, START_US, Bench

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.times import from_us
from mlops_assets.core.watching.parity import equal
from mlops_assets.resources.config_sections import Time
from mlops_assets.resources.environments import Settings
from mlops_assets.steps.monitoring.days_of_log import lake_and_log
from mlops_assets.steps.monitoring.decisions_of_day import DecisionsOfDay
from mlops_assets.use_cases.parcels.case import PARCELS
from serving.contract.scorers.lightgbm import Scorer
from serving.messages import Label, ScoredEvent
from serving.releases import Champion

FIRST, SECOND = "2018-04-01", "2018-04-02"


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    return parcels_plan()


@pytest.fixture
def bench(tmp_path: Path, plan: FeaturePlan) -> Iterator[Bench]:
    release = replace(parcels_release(plan), subject=PARCELS.subject)
    made = Bench(
        tmp_path, Champion("1", "d" * 64, release, Scorer(release.model_text, release.calibrator)), "wall"
    )
    yield made
    made.plane.close()


def handed_over(bench: Bench, number: int, ahead_us: int = 0, **values: object) -> ScoredEvent:
    """A parcel is decided on a minute after the one before; its sender's clock may be ahead."""
    bench.now_us = START_US + number * MINUTE_US
    sent = parcel(number, bench.now_us + ahead_us, destination="south", **values)
    bench.predict(sent)
    return sent


def settings_of(bench: Bench) -> Settings:
    return Settings(home=bench.settings.home, use_case="parcels", time=Time(date(2018, 3, 1)))


def rebuilt(bench: Bench, plan: FeaturePlan, day: str) -> dict[str, list[float]]:
    """The vectors of a day by id, in the order of the plan, from a lake that has nothing."""
    settings = settings_of(bench)
    lake = Lake(settings.lake_root)
    with lake_and_log(PARCELS, lake, bench.log, settings, FIRST, day) as both:
        served = DecisionsOfDay(PARCELS, both, bench.log, settings, plan, day)
        ids = bench.log.decision_ids(PARCELS, day)
        (frame,) = served.as_read(ids)
    assert lake.partitions("parcels") == [], "the lake itself does not change"
    vectors = frame.set_index("parcel_id")[list(plan.features)].astype(float)
    return dict(zip(vectors.index, vectors.to_numpy().tolist(), strict=True))


def logged(bench: Bench, day: str) -> dict[str, list[float]]:
    rows = bench.log.decisions(day, PARCELS).to_pylist()
    return {
        row["prediction_id"]: [np.nan if v is None else v for v in json.loads(row["features"]).values()]
        for row in rows
    }


def assert_equal(left: dict[str, list[float]], right: dict[str, list[float]]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert equal(np.array(values), np.array(right[name])).all(), name


def test_events_labels_and_feeds_of_the_log_give_the_vectors_that_were_served(
    bench: Bench, plan: FeaturePlan
) -> None:
    bench.now_us = START_US
    bench.plane.add_events("road_conditions", [condition(START_US - MINUTE_US, 0.25)])
    for number in range(1, 8):
        handed_over(bench, number, vehicle_id=None if number % 3 else "v1", service_level="express")
    bench.plane.add_labels([Label("p2", True, None), Label("p3", False, None)])
    handed_over(bench, 8)
    handed_over(bench, 1445, origin="south")
    for day in (FIRST, SECOND):
        assert_equal(rebuilt(bench, plan, day), logged(bench, day))
    express = list(plan.features).index("is_express")
    assert logged(bench, FIRST)["p8"][express] == 1.0


def test_what_was_committed_after_a_decision_is_not_in_its_vector_whatever_the_clocks_say(
    bench: Bench, plan: FeaturePlan
) -> None:
    handed_over(bench, 1)
    handed_over(bench, 2, ahead_us=4 * MINUTE_US)
    handed_over(bench, 3)
    bench.plane.add_events("road_conditions", [condition(bench.now_us, 0.5)])
    bench.plane.add_labels([Label("p1", True, None)])
    handed_over(bench, 4, ahead_us=4 * MINUTE_US)
    served = logged(bench, FIRST)
    now = list(plan.features).index("congestion_now")
    assert (np.isnan(served["p2"][now]), served["p4"][now]) == (True, 0.5)
    assert_equal(rebuilt(bench, plan, FIRST), served)


def test_a_day_that_is_not_over_comes_from_the_log_and_a_file_of_labels_for_it_stays(bench: Bench) -> None:
    handed_over(bench, 1)
    handed_over(bench, 2)
    lake, early = Lake(settings_of(bench).lake_root), bench.log.decisions(FIRST, PARCELS).slice(0, 1)
    lake.write("prediction_log", FIRST, early, validated=True)
    label = {"parcel_id": "p1", "is_late": True, "label_timestamp": from_us(START_US + 5 * MINUTE_US)}
    lake.write("labels", FIRST, pa.Table.from_pylist([label], PARCELS.label_rows.columns), validated=True)
    with lake_and_log(PARCELS, lake, bench.log, settings_of(bench), FIRST, FIRST) as both:
        assert both.read("prediction_log", [FIRST]).num_rows == both.read("parcels", [FIRST]).num_rows == 2
        assert both.read("labels", [FIRST])["parcel_id"].to_pylist() == ["p1"]
        assert both.read("verdicts", [FIRST])["parcel_id"].to_pylist() == ["p1"]
    assert lake.read("prediction_log", [FIRST]).num_rows == 1
