"""A second use case for tests of the service, with a tiny champion on its declared features.

Parcels have a nullable key, a key of another join key, two decisions and a further feed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from serving_kit import MINUTE_US, START_US, tiny_release

from feature_repo.engine.plan import FeaturePlan
from feature_repo.store import declared_plan
from serving.contract.bundle import Release
from serving.contract.policy import Policy
from serving.contract.subject import Decisions, Event, Feed, Key, Labels, Number, Subject, Text
from serving.messages import FeedEvent, ScoredEvent

PARCELS = Subject(
    name="parcels",
    event=Event(
        noun="parcel",
        dataset="parcels",
        id="parcel_id",
        keys=(
            Key("carrier"),
            Key("origin", join="depot"),
            Key("route"),
            Key("vehicle_id", nullable=True),
        ),
        columns=(
            Number("distance_km", 0, 10_000),
            Text("service_level", default="standard"),
            Number("planned_hours", 0, 1_000),
        ),
        believable=("distance_km",),
    ),
    labels=Labels("is_late", "late", "on time", "unknown", timedelta(days=2)),
    decisions=Decisions(passes="ON_TIME", looks="WARN"),
    feeds=(
        Feed(
            "road_conditions",
            id=("depot", "event_timestamp"),
            keys=(Key("depot"),),
            columns=(
                Number("congestion", 0, 1),
                Number("temperature_c", -60, 60),
                Number("snow_cm", 0, 500, default=0.0),
            ),
            noun="condition",
        ),
    ),
)
# As a client sends it.
PARCEL: dict[str, Any] = {
    "parcel_id": "p1",
    "event_timestamp": "2018-04-01T10:00:00Z",
    "carrier": "swift",
    "origin": "north",
    "route": "north-south",
    "distance_km": 120.0,
    "planned_hours": 6.0,
}


def parcels_plan() -> FeaturePlan:
    """The plan of the declared feature service, without a registry."""
    return declared_plan("feature_repo.parcels", "parcel_lateness", {"depot": "origin"})


def parcels_release(plan: FeaturePlan, review: float = 0.3) -> Release:
    """A tiny model on the parcels' features, under a policy that stops nothing."""
    return replace(tiny_release(plan, policy=Policy(review, 2.0)), subject=PARCELS, maturity_days=2.0)


def parcel(number: int, at_us: int | None = None, **values: Any) -> ScoredEvent:
    """A parcel as the data plane takes it, one a minute."""
    own = {
        "carrier": "swift",
        "origin": "north",
        "route": "north-south",
        "vehicle_id": "v1",
        "distance_km": 120.0,
        "service_level": "express",
        "planned_hours": 6.0,
    }
    at_us = START_US + number * MINUTE_US if at_us is None else at_us
    return ScoredEvent(f"p{number}", at_us, {**own, **values})


def condition(
    at_us: int, congestion: float, depot: str = "north", created_us: int | None = None
) -> FeedEvent:
    """What the roads at a depot were like."""
    values = {"depot": depot, "congestion": congestion, "temperature_c": 4.0, "snow_cm": 0.0}
    return FeedEvent(at_us, values, created_us)
