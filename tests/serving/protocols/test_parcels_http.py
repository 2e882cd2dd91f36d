"""The messages of a second use case over HTTP: its noun, its columns, its score and its feeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_kit import Door
from parcel_kit import PARCEL, PARCELS, parcels_plan, parcels_release

ROADS = {"depot": "north", "event_timestamp": "2018-04-01T09:00:00Z", "congestion": 0.5, "temperature_c": 4.0}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("parcels"), parcels_release(parcels_plan(), review=0.0))
    assert made.post("/predict", parcel=PARCEL).status_code == 503
    assert made.post("/streams/road_conditions", events=[ROADS]).status_code == 503
    made.promote()
    yield made
    made.service.plane.close()


def test_a_parcel_is_answered_by_its_own_names_and_logged_by_them(door: Door) -> None:
    answer = door.post("/predict", parcel=PARCEL)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == [
        "prediction_id",
        "score",
        "decision",
        "threshold",
        "model_version",
        "reasons",
        "degraded",
        "freshness",
    ]
    assert (answer.json()["prediction_id"], answer.json()["decision"]) == ("p1", "WARN")
    (row,) = door.log.decisions("2018-04-01", PARCELS).to_pylist()
    assert (row["kind"], row["vehicle_id"], row["service_level"]) == ("parcel", None, "standard")
    assert row["score"] == answer.json()["score"]
    without = door.post("/predict", parcel={**PARCEL, "vehicle_id": None, "service_level": "standard"})
    assert without.text == answer.text, "absent, null and the default are one payload"
    assert door.post("/predict", parcel={**PARCEL, "vehicle_id": "v1"}).status_code == 409


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"origin": None}, "origin", 'expected a string, such as "12345"'),
        ({"distance_km": "far"}, "distance_km", "expected a number without quotes, such as 12.5"),
        (
            {"distance_km": 10_001},
            "distance_km",
            "10001 is above 10000, the highest believable distance_km ([bounds] max_distance_km)",
        ),
        ({"planned_hours": -1}, "planned_hours", "-1 is not from 0 to 1000"),
        ({"service_level": ""}, "service_level", "String should have at least 1 character"),
        ({"amount": 1.0}, "amount", "there is no such field; leave it out"),
    ],
)
def test_a_refusal_names_the_column_of_the_parcel(
    door: Door, changes: dict[str, Any], where: str, message: str
) -> None:
    answer = door.post("/predict", parcel={**PARCEL, "parcel_id": "other", **changes})
    (problem,) = answer.json()["detail"]
    assert (answer.status_code, problem["loc"], problem["msg"]) == (422, ["body", "parcel", where], message)


def test_the_noun_of_another_use_case_is_no_field(door: Door) -> None:
    assert door.post("/predict", transaction={}).json()["detail"][0]["loc"] == ["body", "transaction"]
    both = door.post("/predict", parcel=PARCEL, features={})
    assert "send either features or a parcel" in both.json()["detail"][0]["msg"]


def test_labels_go_by_the_names_of_the_use_case(door: Door) -> None:
    label = {"parcel_id": "p1", "is_late": True, "label_timestamp": "2018-04-02T00:00:00Z"}
    answer = door.post("/labels", labels=[label, {**label, "parcel_id": "nobody"}]).json()
    assert (answer["accepted"], answer["unknown"]) == (2, 1)
    assert answer["labels"][0] == {"parcel_id": "p1", "known": True, "duplicate": False}
    assert door.log.labels("2018-04-02", PARCELS)["is_late"].to_pylist() == [True, True]


@pytest.mark.fault(4)
def test_events_of_a_feed_are_strict_and_counted(door: Door) -> None:
    events = [ROADS, ROADS, {**ROADS, "congestion": 0.75}]
    answer = door.post("/streams/road_conditions", events=events)
    assert answer.status_code == 200, answer.text
    assert [one["outcome"] for one in answer.json()["events"]] == ["accepted", "duplicate", "conflict"]
    assert (answer.json()["accepted"], answer.json()["duplicates"], answer.json()["conflicts"]) == (1, 1, 1)
    metrics = door.ask("GET", "/metrics").text
    assert 'serving_stream_events_total{outcome="accepted"} 1.0' in metrics
    assert 'serving_decisions_total{decision="WARN"}' in metrics
    for wrong, where in (
        ({**ROADS, "depot": None}, "depot"),
        ({**ROADS, "congestion": 1.5}, "congestion"),
        ({**ROADS, "event_timestamp": "2018-04-01T09:00:00"}, "event_timestamp"),
        ({**ROADS, "colour": "red"}, "colour"),
    ):
        refused = door.post("/streams/road_conditions", events=[ROADS, wrong])
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (
            422,
            ["body", "events", 1, where],
        )
    assert door.post("/streams/road_conditions", events=[]).status_code == 422
    unknown = door.post("/streams/parcels", events=[ROADS])
    assert (unknown.status_code, unknown.json()["detail"][0]["msg"]) == (
        404,
        "no such stream; there are road_conditions",
    )


def test_the_documentation_has_the_messages_of_the_use_case_and_no_loose_end(door: Door) -> None:
    answer = door.ask("GET", "/openapi.json")
    document = answer.json()
    schemas = document["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert named >= {"PredictRequest", "ParcelIn", "LabelIn", "RoadConditionsRequest", "RoadConditionsIn"}
    assert named <= set(schemas)
    assert "block_threshold" not in schemas["PredictResponse"]["properties"]
    assert schemas["PredictResponse"]["properties"]["decision"]["enum"] == ["ON_TIME", "WARN"]
    assert "vehicle_id" not in schemas["ParcelIn"]["required"]
