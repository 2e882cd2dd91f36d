"""A batch over HTTP: its rows are answered as if they had been sent one after the other."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_kit import Door
from hypothesis import given, settings
from hypothesis import strategies as st
from parcel_kit import PARCEL, parcels_plan, parcels_release
from serving_kit import REVIEW_ALL, count_from_zero, payment, tiny_release

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import OnlineState
from serving.contract.bundle import Release
from serving.contract.events import EventRecord, EventRules, Labels
from serving.protocols.native.schemas import MAX_ROWS

LEFT = (
    "SELECT * FROM decisions ORDER BY seq",
    "SELECT event_id, event_us, created_us FROM online_transactions ORDER BY event_id",
    "SELECT event_id, event_us, created_us FROM online_verdicts ORDER BY event_id",
    "SELECT * FROM sequence",
)
COUNTED = ("serving_decisions", "serving_repeats", "serving_refused", "serving_degraded")
# Each is a row, or text that is no JSON.
PAYMENTS: list[Any] = [
    {"transaction": payment(number, **changes)}
    for number in range(3)
    for changes in (
        {},
        {"customer_id": "c9"},
        {"amount": -1},
        {"amount": "10"},
        {"amount": math.nan},
        {"amount": 12345678901.5},
        {"event_timestamp": "2018-03-01T00:00:00Z"},
        {"event_timestamp": "2018-05-01T00:00:00Z"},
        {"event_timestamp": "2018-04-01 00:00:00Z"},
        {"event_timestamp": "yesterday"},
        {"colour": "red"},
    )
]
OTHERS: list[Any] = [
    {},
    None,
    7,
    [],
    "row",
    {"transaction": payment(4), "prediction_id": "p"},
    {"transaction": {}},
]


@pytest.fixture(scope="module")
def release(plan: FeaturePlan) -> Release:
    return tiny_release(plan, policy=REVIEW_ALL)


def vectors(plan: FeaturePlan) -> list[Any]:
    whole = dict.fromkeys(plan.features, 1.5)
    shapes = [whole, {**whole, "is_night": None}, {**whole, "is_night": math.inf}, {**whole, "more": 1}, {}]
    return [{"features": shape, "prediction_id": name} for shape in shapes for name in ("v1", "v2", "t1", "")]


def left(door: Door) -> list[Any]:
    with sqlite3.connect(door.service.settings.database) as connection:
        return [connection.execute(query).fetchall() for query in LEFT]


def counted(door: Door) -> list[str]:
    return [line for line in door.ask("GET", "/metrics").text.splitlines() if line.startswith(COUNTED)]


def alone(answer: httpx.Response) -> dict[str, Any]:
    """An answer to a single request, as a row of a batch has it."""
    return {"status": answer.status_code, **answer.json()}


def moved(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of a batch with the places of its problems as if the row had come alone."""
    place = ["body", "rows", number]
    for problem in row.get("detail", ()):
        if problem["loc"]:
            assert problem["loc"][:3] == place
            problem["loc"] = ["body", *problem["loc"][3:]]
    return row


@settings(max_examples=25, deadline=None)
@given(places=st.lists(st.integers(0, 59), min_size=1, max_size=12))
def test_a_batch_answers_and_leaves_what_its_rows_would_one_after_the_other(
    plan: FeaturePlan, release: Release, tmp_path_factory: pytest.TempPathFactory, places: list[int]
) -> None:
    choice = [*PAYMENTS, *vectors(plan), *OTHERS]
    assert len(choice) == 60
    rows = [choice[place] for place in places]
    batch, single = (Door(tmp_path_factory.mktemp("home"), release) for _ in range(2))
    for door in (batch, single):
        count_from_zero(door.service.settings.database)
        door.promote()
        assert door.post("/predict", transaction=payment(1)).status_code == 200
    answer = batch.send("/predict/batch", json.dumps({"rows": rows}))
    assert answer.status_code == 200, answer.text
    expected = [alone(single.send("/predict", json.dumps(row))) for row in rows]
    assert [moved(row, number) for number, row in enumerate(answer.json()["rows"])] == expected
    assert left(batch) == left(single)
    assert counted(batch) == counted(single)
    for door in (batch, single):
        door.service.plane.close()


def test_each_row_has_its_own_status_and_only_good_rows_are_on_record(door: Door) -> None:
    rows = [
        {"transaction": payment(0)},
        {"transaction": payment(0)},
        {"transaction": payment(0, amount=11)},
        {"transaction": payment(1, amount=True)},
        {"transaction": payment(2)},
        {"features": {}},
    ]
    answer = door.post("/predict/batch", rows=rows).json()["rows"]
    assert [row["status"] for row in answer] == [200, 200, 409, 422, 200, 422]
    assert answer[0] == answer[1]
    assert answer[3]["detail"] == [
        {
            "type": "float_type",
            "loc": ["body", "rows", 3, "transaction", "amount"],
            "msg": "expected a number without quotes, such as 12.5",
        }
    ]
    assert answer[5]["detail"][0]["loc"][:4] == ["body", "rows", 5, "features"]
    logged = door.log.decisions("2018-04-01", door.champion.release.subject)
    assert logged["prediction_id"].to_pylist() == ["t0", "t2"]


def test_a_row_at_which_the_service_fails_is_told_alone_and_without_words(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = EventRules.add_event

    def fails(self: EventRules, state: OnlineState, record: EventRecord, labels: Labels) -> None:
        made(self, state, record, labels)
        if record.event["transaction_id"] == "t1":
            raise ZeroDivisionError("a secret")

    monkeypatch.setattr(EventRules, "add_event", fails)
    answer = door.post("/predict/batch", rows=[{"transaction": payment(number)} for number in range(3)])
    assert [row["status"] for row in answer.json()["rows"]] == [200, 500, 200]
    assert answer.json()["rows"][1]["detail"][0]["type"] == "internal"
    assert "secret" not in answer.text
    assert "ZeroDivisionError: a secret" in caplog.text
    logged = door.log.decisions("2018-04-01", door.champion.release.subject)
    assert logged["prediction_id"].to_pylist() == ["t0", "t2"]


def test_a_batch_is_one_commit(door: Door) -> None:
    statements: list[str] = []
    door.post("/predict", transaction=payment(0))
    connection = door.service.plane._store.connection
    connection.set_trace_callback(statements.append)
    door.post("/predict/batch", rows=[{"transaction": payment(number)} for number in range(1, 30)])
    connection.set_trace_callback(None)
    assert [one for one in statements if one.startswith(("BEGIN", "COMMIT"))] == ["BEGIN IMMEDIATE", "COMMIT"]


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"rows": []}, 422, ["body", "rows"]),
        ({"rows": [{"transaction": payment(0)}] * (MAX_ROWS + 1)}, 422, ["body", "rows"]),
        ({"rows": {}}, 422, ["body", "rows"]),
        ({"rows": [{"transaction": payment(0)}], "other": 1}, 422, ["body", "other"]),
        ({}, 422, ["body", "rows"]),
        ([], 422, ["body"]),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(door: Door, body: Any, status: int, where: list[str]) -> None:
    answer = door.send("/predict/batch", json.dumps(body))
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (status, where)
    assert door.log.decisions("2018-04-01", door.champion.release.subject).num_rows == 0


@pytest.mark.parametrize(
    "body", [b"", b'{"rows": [', b'{"rows": [{}', b'{"rows": [' + b"[" * 100_000, b'{"rows": [01]}']
)
def test_a_batch_that_is_no_json_is_a_bad_request(door: Door, body: bytes) -> None:
    answer = door.send("/predict/batch", body)
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (400, "json_invalid")


def test_a_row_of_many_digits_is_refused_alone(door: Door) -> None:
    digits, nothing = '{"features": {"a": ' + "1" * 5_000 + "}}", '{"features": {"a": NaN}}'
    good = json.dumps({"transaction": payment(0)})
    answer = door.send("/predict/batch", f'{{"rows": [{good}, {digits}]}}').json()["rows"]
    assert [row["status"] for row in answer] == [200, door.send("/predict", digits).status_code]
    answer = door.send("/predict/batch", f'{{"rows": [{good}, {nothing}]}}').json()["rows"]
    assert [row["status"] for row in answer] == [200, 422]
    assert door.send("/predict/batch", f'{{"rows": [{nothing}, {digits}]}}').status_code < 500


def test_without_a_model_the_batch_comes_again(tmp_path: Path, release: Release) -> None:
    door = Door(tmp_path, release)
    answer = door.post("/predict/batch", rows=[{"transaction": payment(0)}])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    door.service.plane.close()


def test_a_row_goes_by_the_names_of_the_use_case(tmp_path: Path) -> None:
    door = Door(tmp_path, parcels_release(parcels_plan(), review=0.0))
    door.promote()
    rows = door.post("/predict/batch", rows=[{"parcel": PARCEL}, {"transaction": PARCEL}]).json()["rows"]
    assert (rows[0]["status"], rows[0]["decision"]) == (200, "WARN")
    assert rows[1]["detail"][0]["loc"] == ["body", "rows", 1, "transaction"]
    door.service.plane.close()


def test_the_documentation_has_the_batch_and_no_loose_end(door: Door) -> None:
    answer = door.ask("GET", "/openapi.json")
    document, named = answer.json(), set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert named <= set(document["components"]["schemas"])
    operation = document["paths"]["/predict/batch"]["post"]
    assert operation["description"].startswith("Answer rows as if they had been sent one after the other")
    request = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert document["components"]["schemas"][request]["properties"]["rows"]["maxItems"] == MAX_ROWS
    assert {"RowAnswered", "RowRefused", "PredictBatchResponse"} <= named
