"""A use case whose views read only one of its streams is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from parcel_kit import PARCELS, condition, parcel, parcels_plan, parcels_release
from serving_kit import MINUTE_US, START_US, Bench, predicted

from feature_repo.engine.plan import FeaturePlan, ViewPlan
from serving.contract.scorers.lightgbm import Scorer
from serving.messages import Label
from serving.releases import Champion
from serving.store.opening import state_rebuild


def plan_of(kept: Callable[[ViewPlan], bool]) -> FeaturePlan:
    """The declared plan with some of its views, and without transforms."""
    plan = parcels_plan()
    views = tuple(view for view in plan.views if kept(view))
    names = {aggregate.name for view in views for aggregate in view.aggregates}
    return replace(plan, views=views, on_demand=(), features=tuple(n for n in plan.features if n in names))


@pytest.mark.parametrize("stream", ["parcels", "verdicts", "road_conditions"])
@pytest.mark.parametrize("silence", ["negative", "unknown"])
def test_events_labels_feeds_and_a_rebuild_pass_by_the_streams_that_no_view_reads(
    stream: str, silence: str, tmp_path: Path
) -> None:
    plan = plan_of(lambda view: view.stream == stream)
    subject = replace(PARCELS, labels=replace(PARCELS.labels, silence=silence))
    release = replace(parcels_release(plan), subject=subject)
    bench = Bench(tmp_path, Champion("1", "d" * 64, release, Scorer(release.model_text, release.calibrator)))
    with closing(bench.plane) as plane:
        predicted(plane, parcel(0))
        (known, unknown) = plane.add_labels(
            [Label("p0", True, START_US + MINUTE_US), Label("p9", True, START_US + MINUTE_US)]
        )
        assert (known.known, unknown.known) == (True, False)
        (receipt,) = plane.add_events("road_conditions", [condition(START_US, 0.5)])
        assert receipt.outcome == "accepted"
        predicted(plane, parcel(5))
        found = bench.connection.execute("SELECT features FROM decisions ORDER BY seq DESC").fetchone()
        read = {
            "parcels": {"vehicle_num_parcels_1d": 1},
            "verdicts": {"carrier_late_rate_1d": 1.0},
            "road_conditions": {"congestion_now": 0.5},
        }
        assert read[stream].items() <= json.loads(found[0]).items()
        with state_rebuild(bench.settings.database, subject, plan) as rebuild:
            assert rebuild.replay(0, 0) == 5
            rebuild.switch()
