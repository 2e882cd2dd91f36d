"""The inputs of an event's features, as its declaration names them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

from parcel_kit import PARCELS, parcel

from feature_repo.engine.plan import FeaturePlan, OnDemandPlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.subject import Flag
from serving.deciding.scoring import EventInputs


def test_a_flag_of_the_event_reaches_its_transform_as_a_number_does() -> None:
    event = replace(PARCELS.event, columns=(*PARCELS.event.columns, Flag("is_gift")))
    outputs = ("event_is_gift", "event_distance_km", "event_hour")
    inputs = ("is_gift", "distance_km", "event_time_us")
    step = OnDemandPlan("parcel_itself", "feature_repo.event.context:as_given", inputs, outputs)
    plan = FeaturePlan("gifts", (), (step,), outputs)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        inputs, scored = EventInputs(event), parcel(0, is_gift=True)
        vector = inputs.vector(SqliteOnlineState(connection, plan), scored, inputs.keys(scored))
    assert (vector["event_is_gift"], vector["event_distance_km"]) == (1.0, 120.0)
