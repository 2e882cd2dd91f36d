"""The service as a process of its own, over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from serving_kit import (
    JSON,
    Running,
    free_port,
    logged_decisions,
    logged_labels,
    payment,
)

from feature_repo.engine.plan import FeaturePlan
from serving.__main__ import main

pytestmark = pytest.mark.slow

Launch = Callable[..., Running]
DAY = timedelta(days=1)


def vector(plan: FeaturePlan, value: float = 1.0) -> dict[str, Any]:
    return dict.fromkeys(plan.features, value)


def test_a_transaction_and_a_vector_get_an_answer_with_all_its_parts(
    served: Running, plan: FeaturePlan
) -> None:
    for body in ({"transaction": payment(1)}, {"features": vector(plan), "prediction_id": "v1"}):
        answer = served.client.post("/predict", json=body)
        assert answer.status_code == 200
        parts = answer.json()
        assert set(parts) == {
            "prediction_id", "fraud_score", "decision", "threshold", "block_threshold", "model_version",
            "reasons",
            "degraded", "freshness",
        }  # fmt: skip
        assert parts["prediction_id"] in ("t1", "v1")
        assert (parts["model_version"], parts["threshold"]) == ("1", 0.3)
        # A payment before any history rests on nothing, and says so; a ready vector rests on what the client
        # sent.
        nothing_yet = (
            dict.fromkeys(["customer_stats", "merchant_stats", "merchant_activity"])
            if "transaction" in body
            else {}
        )
        assert (parts["degraded"], parts["freshness"]) == ("transaction" in body, nothing_yet)
        assert 0 <= parts["fraud_score"] <= 1


def test_health_names_the_version_and_the_features_in_order(served: Running, plan: FeaturePlan) -> None:
    health = served.client.get("/health").json()
    assert (health["status"], health["model_version"], tuple(health["features"])) == (
        "ok",
        "1",
        plan.features,
    )
    assert served.client.get("/health/live").status_code == 200
    assert served.client.get("/docs").status_code == 200
    assert set(served.client.get("/openapi.json").json()["paths"]) >= {"/predict", "/labels", "/health"}


def test_the_documentation_points_to_nothing_that_is_not_in_it(served: Running) -> None:
    text = served.client.get("/openapi.json").text
    document = served.client.get("/openapi.json").json()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named >= {"PredictRequest", "TransactionIn", "LabelsRequest", "PredictResponse", "ErrorResponse"}
    assert named <= set(document["components"]["schemas"])


@pytest.mark.fault(1, 2, 4)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", '"12"', "true", "[1]", "{}"])
def test_what_is_no_finite_number_is_refused_without_being_repeated(served: Running, number: str) -> None:
    for body in (f'{{"features": {{"is_night": {number}}}}}', f'{{"transaction": {{"amount": {number}}}}}'):
        answer = served.client.post("/predict", content=body)
        assert answer.status_code == 422
        for problem in answer.json()["detail"]:
            assert set(problem) == {"type", "loc", "msg"}
        assert answer.json()["detail"][-1]["loc"][:2] in (["body", "features"], ["body", "transaction"])


@pytest.mark.fault(2, 4)
@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"transaction": payment(900), "other": 1}, ["body", "other"]),
        ({"transaction": payment(900, colour="red")}, ["body", "transaction", "colour"]),
        (
            {"transaction": payment(900, event_timestamp="2018-04-01T00:00:00")},
            ["body", "transaction", "event_timestamp"],
        ),
        (
            {"transaction": payment(900, event_timestamp=1522540800)},
            ["body", "transaction", "event_timestamp"],
        ),
        ({"transaction": payment(900, customer_id=7)}, ["body", "transaction", "customer_id"]),
        ({"transaction": payment(900, merchant_id="")}, ["body", "transaction", "merchant_id"]),
        ({"transaction": payment(900, merchant_id=" m1")}, ["body", "transaction", "merchant_id"]),
        ({"transaction": payment(900, transaction_id="t\t1")}, ["body", "transaction", "transaction_id"]),
        ({"transaction": payment(900, amount=1_000_000.01)}, ["body", "transaction", "amount"]),
        (
            {"transaction": payment(900, event_timestamp="1999-12-31T00:00:00Z")},
            ["body", "transaction", "event_timestamp"],
        ),
        ({"transaction": payment(900, is_declined=1)}, ["body", "transaction", "is_declined"]),
        ({"features": {"is_night": 1.0}}, ["body", "features", "avg_txn_amount_7d"]),
        ({"features": [1.0]}, ["body", "features"]),
        ({}, ["body"]),
        ({"transaction": payment(900), "features": {}}, ["body"]),
        ({"transaction": payment(900), "prediction_id": "x"}, ["body"]),
    ],
)
def test_a_body_of_another_shape_is_refused_at_the_field(
    served: Running, body: dict[str, Any], where: list[str]
) -> None:
    answer = served.client.post("/predict", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == where


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("customer_id", 4711, 'expected a string, such as "12345"'),
        ("merchant_id", None, 'expected a string, such as "12345"'),
        ("amount", "4711", "expected a number without quotes, such as 12.5"),
        ("amount", True, "expected a number without quotes, such as 12.5"),
        ("is_declined", "4711", "expected true or false, without quotes"),
        ("is_declined", 0, "expected true or false, without quotes"),
        ("event_timestamp", 4711, 'expected a time with its zone, such as "2026-03-01T10:00:00Z"'),
        (
            "event_timestamp",
            "2018-04-01 10:47:11",
            'expected a time with its zone, such as "2026-03-01T10:00:00Z"',
        ),
        (
            "event_timestamp",
            "01/04/2018 4711",
            'expected a time with its zone, such as "2026-03-01T10:00:00Z"',
        ),
        ("kolour", "4711", "there is no such field; leave it out"),
    ],
)
def test_a_refusal_says_what_is_expected_and_never_what_came(
    served: Running, field: str, value: object, expected: str
) -> None:
    answer = served.client.post("/predict", json={"transaction": payment(900, **{field: value})})
    (problem,) = answer.json()["detail"]
    assert (answer.status_code, problem["loc"], problem["msg"]) == (
        422,
        ["body", "transaction", field],
        expected,
    )
    assert "4711" not in answer.text.replace('"kolour"', "")


def test_labels_over_the_cap_or_without_a_time_are_refused_at_the_field(served: Running) -> None:
    label = {"transaction_id": "t", "is_fraud": True, "label_timestamp": "2018-04-02T00:00:00Z"}
    answer = served.client.post("/labels", json={"labels": [label] * 1001})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "labels"])
    answer = served.client.post("/labels", json={"labels": [label, {**label, "label_timestamp": None}]})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (
        422,
        ["body", "labels", 1, "label_timestamp"],
    )
    late = [{**label, "transaction_id": f"late{n}"} for n in range(30)] + [
        {**label, "label_timestamp": "2031-01-01T00:00:00Z"}
    ]
    served.client.post("/predict", json={"transaction": payment(51)}).raise_for_status()
    answer = served.client.post("/labels", json={"labels": late})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (
        422,
        ["body", "labels", 30, "label_timestamp"],
    )
    assert logged_labels(served.home / "serving" / "serving.db", "2018-04-02").num_rows == 0
    answer = served.client.post("/labels", json={"labels": [{**label, "is_fraud": 1}]})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "labels", 0, "is_fraud"])


def test_labels_are_counted_known_unknown_and_duplicate(served: Running) -> None:
    served.client.post("/predict", json={"transaction": payment(50)}).raise_for_status()
    labels = [
        {"transaction_id": t, "is_fraud": True, "label_timestamp": "2018-04-02T00:00:00Z"}
        for t in ("t50", "never-seen", "t50")
    ]
    answer = served.client.post("/labels", json={"labels": labels}).json()
    assert (answer["accepted"], answer["duplicates"], answer["unknown"]) == (2, 1, 1)
    assert [label["known"] for label in answer["labels"]] == [True, False, True]


@pytest.mark.fault(3)
def test_a_body_over_the_limit_is_refused_with_and_without_its_length(served: Running) -> None:
    def unending() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    assert served.client.post("/predict", content=b" " * 1_000_001).status_code == 413
    assert served.client.post("/predict", content=unending()).status_code == 413
    assert served.client.post("/labels", content=unending()).status_code == 413


@pytest.mark.fault(3)
def test_deep_and_broken_json_is_a_bad_request_and_the_process_keeps_its_size(served: Running) -> None:
    before = resident_kb(served.process.pid)
    for _ in range(50):
        assert served.client.post("/predict", content=b"[" * 100_000).status_code == 400
        assert served.client.post("/predict", content=b'{"features": ' * 50_000).status_code == 400
    assert served.client.post("/predict", content=b"{not json").status_code == 400
    assert served.client.post("/predict", content=b'"\xff\xfe"').status_code == 400
    assert resident_kb(served.process.pid) - before < 50_000


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
        ("localhost:1", 200),
        ("[::1]:80", 200),
    ],
)
def test_only_loopback_names_are_hosts(served: Running, host: str, status: int) -> None:
    assert served.client.get("/health/live", headers={"host": host}).status_code == status


@pytest.mark.fault(6)
def test_a_page_of_another_origin_gets_no_permission(served: Running) -> None:
    answer = served.client.options(
        "/predict", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 405


@pytest.mark.parametrize("route", ["/predict", "/labels"])
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/plain; application/json",
        "application/jsonp",
        "",
    ],
)
def test_what_a_page_of_another_site_can_post_unasked_is_refused(
    served: Running, route: str, kind: str
) -> None:
    answer = served.client.post(route, content=b"{}", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (415, "not_json")
    unnamed = served.client.build_request("POST", route, content=b"{}")
    del unnamed.headers["content-type"]
    assert served.client.send(unnamed).status_code == 415


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
def test_json_is_accepted_with_and_without_its_charset(served: Running, kind: str) -> None:
    assert served.client.post("/predict", content=b"{}", headers={"content-type": kind}).status_code == 422


@pytest.mark.fault(12)
def test_random_paths_names_and_ids_make_no_new_metric_series(served: Running) -> None:
    def series() -> set[str]:
        return {
            line.rsplit(" ", 1)[0]
            for line in served.client.get("/metrics").text.splitlines()
            if not line.startswith("#")
        }

    served.client.post("/predict", json={"transaction": payment(99)}).raise_for_status()
    before = series()
    rng, statuses = random.Random(3), Counter[int]()
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        for number in range(10_000):
            word = "".join(rng.choices(string.ascii_letters, k=12))
            keys = {"customer_id": f"x{word}", "merchant_id": f"x{word}"}
            method, path, body = (
                ("GET", f"/{word}/{word}", None),
                ("POST", f"/streams/{word}", {"events": []}),
                ("POST", f"/v2/models/{word}/versions/{word}/infer", {"inputs": []}),
                (rng.choice(["PUT", "DELETE", "PATCH", "PROPFIND"]), "/predict", None),
                ("POST", "/predict", {"transaction": payment(100, transaction_id=f"x{word}", **keys)}),
            )[number % 5]
            connection.request(method, path, body and json.dumps(body), JSON)
            response = connection.getresponse()
            response.read()
            statuses[response.status] += 1
    assert statuses[200] == 2_000
    assert statuses[404] + statuses[405] + statuses[422] == 8_000, statuses
    assert series() == before
    assert 'serving_requests_total{route="/predict",status="2xx"}' in before


@pytest.mark.fault(13)
def test_one_id_raced_over_http_is_one_row_and_one_answer(served: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: served.client.post("/predict", json={"transaction": payment(300)}), range(40))
        )
    assert {a.status_code for a in answers} == {200}
    assert len({a.text for a in answers}) == 1
    assert served.client.post("/predict", json={"transaction": payment(300, amount=1)}).status_code == 409
    days = ("2018-04-01", "2018-04-02")  # labels of other tests may have turned the clock
    ids = [
        i
        for day in days
        for i in logged_decisions(served.home / "serving" / "serving.db", day)["prediction_id"].to_pylist()
    ]
    assert ids.count("t300") == 1


def test_every_refusal_is_counted_by_its_kind(served: Running) -> None:
    def counted(kind: str) -> float:
        (line,) = [
            x
            for x in served.client.get("/metrics").text.splitlines()
            if x.startswith(f'serving_refused_total{{reason="{kind}"}}')
        ]
        return float(line.rsplit(" ", 1)[1])

    served.client.post("/predict", json={"transaction": payment(60)}).raise_for_status()
    refusals: dict[str, dict[str, Any]] = {
        "future": {"json": {"transaction": payment(61, event_timestamp="2031-01-01T00:00:00Z")}},
        "late": {"json": {"transaction": payment(61, event_timestamp="2017-01-01T00:00:00Z")}},
        "bad_value": {"json": {"transaction": payment(61, amount=2_500_000)}},
        "conflict": {"json": {"transaction": payment(60, amount=1)}},
        "invalid": {"json": {}},
        "json_invalid": {"content": b"{"},
        "not_json": {"content": b"{}", "headers": {"content-type": "text/plain"}},
        "too_large": {"content": b" " * 1_000_001},
        "foreign_host": {"content": b"{}", "headers": {"host": "evil.example"}},
    }
    for kind, request in refusals.items():
        before = counted(kind)
        answer = served.client.post("/predict", **request)
        assert 400 <= answer.status_code < 500, kind
        assert counted(kind) == before + 1, kind
    said = served.client.post("/predict", **refusals["bad_value"]).json()["detail"][0]["msg"]
    assert said == "2500000 is above 1000000, the highest believable amount ([bounds] max_amount)"


def test_a_host_that_is_not_loopback_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--home", str(tmp_path), "--host", "0.0.0.0", "--port", str(free_port())]) == 3
    assert capsys.readouterr().err.startswith("error: --host 0.0.0.0: the service has no keys yet")
    assert list(tmp_path.iterdir()) == []


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
