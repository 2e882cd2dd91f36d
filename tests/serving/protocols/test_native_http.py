"""The service as a process of its own, over HTTP: what it refuses, what it survives, and how it changes its
model.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import sqlite3
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_kit import (
    JSON,
    Running,
    TinyRegistry,
    free_port,
    logged_decisions,
    logged_labels,
    payment,
    tiny_release,
)

from feature_repo.engine.plan import FeaturePlan
from serving.__main__ import main
from serving.store.opening import serving_log

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


@pytest.mark.parametrize("connections", [8, 64])
def test_payments_at_once_are_each_on_record_once_and_see_those_before_them(
    plan: FeaturePlan, tmp_path: Path, launch: Launch, connections: int
) -> None:
    service = launch(with_champion(plan, tmp_path), "--clock", "event")
    service.wait()

    def pay(client: int) -> list[str]:
        answers = []
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        for number in range(client, 512, connections):
            body = json.dumps({"transaction": payment(number)})
            connection.request("POST", "/predict", body, JSON)
            answers.append((response := connection.getresponse()).read().decode())
            assert response.status == 200, answers[-1]
        connection.close()
        return answers

    with ThreadPoolExecutor(connections) as pool:
        texts = [text for part in pool.map(pay, range(connections)) for text in part]
    scores = {answer["prediction_id"]: answer["fraud_score"] for answer in map(json.loads, texts)}
    rows = logged_decisions(service.home / "serving" / "serving.db", "2018-04-01").to_pylist()
    assert {row["prediction_id"]: row["fraud_score"] for row in rows} == scores
    assert [row["seq"] for row in rows] == list(range(1, 513))
    before: dict[str, list[tuple[datetime, datetime]]] = {}
    for row in rows:
        at, seen = row["event_timestamp"], before.setdefault(row["customer_id"], [])
        # A payment that comes late is known only after the newest one.
        counted = sum(at - DAY <= other < at and known <= at for other, known in seen)
        assert json.loads(row["features"])["num_txns_1d"] == counted
        seen.append((at, row["created_timestamp"]))


# The process dies when its first answer to /predict is about to be sent.
DIES_BEFORE_IT_ANSWERS = """
import os, signal, sys
from serving import app

made = app.create_app

def dying(settings):
    answers = made(settings)

    async def dies(scope, receive, send):
        async def die(message):
            if scope.get("path") == "/predict":
                os.kill(os.getpid(), signal.SIGKILL)
            await send(message)

        await answers(scope, receive, die)

    return dies

app.create_app = dying
from serving.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.fault(13)
def test_an_answer_that_was_lost_in_a_crash_between_commit_and_reply_is_given_again(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home = with_champion(plan, tmp_path)
    first = launch(home, "--clock", "event", program=("-c", DIES_BEFORE_IT_ANSWERS))
    first.wait()
    with pytest.raises(httpx.TransportError):
        first.client.post("/predict", json={"transaction": payment(1)})
    assert first.process.wait(20) == -signal.SIGKILL
    log = home / "serving" / "serving.db"
    (row,) = logged_decisions(log, "2018-04-01").to_pylist()
    second = launch(home, "--clock", "event")
    second.wait()
    answers = [second.client.post("/predict", json={"transaction": payment(1)}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].text == answers[1].text
    given = answers[0].json()
    assert (given["prediction_id"], given["fraud_score"], given["decision"], given["model_version"]) == (
        row["prediction_id"], row["fraud_score"], row["decision"], row["model_version"],
    )  # fmt: skip
    assert second.client.post("/predict", json={"transaction": payment(1, amount=1)}).status_code == 409
    assert logged_decisions(log, "2018-04-01").to_pylist() == [row]


def test_a_client_that_hangs_up_is_counted_as_499_and_leaves_nothing(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    service = launch(with_champion(plan, tmp_path), "--clock", "event")
    service.wait()
    service.client.post("/predict", json={"transaction": payment(0)}).raise_for_status()
    for number, route in enumerate(["/predict", "/labels", "/predict"], 1):  # in the middle of the body
        connection, _ = half_sent(service.port, number, route)
        connection.close()
    counted = wait_for_metric(service, 'serving_requests_total{route="/predict",status="499"} 2.0')
    assert 'serving_requests_total{route="/labels",status="499"} 1.0' in counted
    assert 'serving_requests_total{route="/predict",status="5xx"} 0.0' in counted
    holder = sqlite3.connect(service.home / "serving" / "serving.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for number in range(
        4, 20
    ):  # while it waits for the store; on a machine that is busy for so long, it gives up first
        connection, rest = half_sent(service.port, number)
        connection.sendall(rest)
        connection.close()
        time.sleep(0.3)
        if (
            'serving_requests_total{route="/predict",status="499"} 2.0'
            not in service.client.get("/metrics").text
        ):
            break
    wait_for_metric(service, 'serving_requests_total{route="/predict",status="499"} 3.0')
    holder.execute("ROLLBACK")
    holder.close()
    assert logged_decisions(service.home / "serving" / "serving.db", "2018-04-01")[
        "prediction_id"
    ].to_pylist() == ["t0"]
    assert service.client.post("/predict", json={"transaction": payment(4)}).status_code == 200
    written = service.log.read_text()
    assert "Traceback" not in written
    assert "ERROR" not in written


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


@pytest.mark.fault(8)
def test_at_sigterm_readiness_goes_first_and_what_is_in_flight_finishes(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    service = launch(with_champion(plan, tmp_path), "--clock", "event")
    service.wait()
    open_requests = [half_sent(service.port, number) for number in range(50)]
    time.sleep(0.3)
    service.process.send_signal(signal.SIGTERM)
    service.wait("/health/ready", 503, 5)
    assert service.client.get("/health/live").status_code == 200
    service.client.close()
    time.sleep(1)  # the door is closed by now
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", service.port), 2)
    for connection, rest in open_requests:
        connection.sendall(rest)
    answers = [read_all(connection) for connection, _ in open_requests]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert service.process.wait(20) == 0
    database = service.home / "serving" / "serving.db"
    assert logged_decisions(database, "2018-04-01").num_rows == 50
    assert serving_log(database).measured("1", 0).scored == 50, "the counts of the last moments too"


@pytest.mark.fault(9, 24)
def test_a_held_lock_is_a_503_within_the_deadline_while_probes_answer(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home = with_champion(plan, tmp_path)
    service = launch(home, "--clock", "event")
    service.wait()
    service.client.post("/predict", json={"transaction": payment(1)}).raise_for_status()
    holder = sqlite3.connect(home / "serving" / "serving.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(service.client.post, "/predict", json={"transaction": payment(n)}) for n in (2, 3, 4)
        ]
        assert service.client.get("/health/live").elapsed.total_seconds() < 0.2
        answers = [w.result() for w in waiting]
    assert {a.status_code for a in answers} == {503}
    assert all(a.headers["retry-after"] == "1" and a.elapsed.total_seconds() < 1 for a in answers)
    holder.execute("ROLLBACK")
    holder.close()
    assert 'serving_refused_total{reason="store"} 3.0' in service.client.get("/metrics").text
    log = home / "serving" / "serving.db"
    assert logged_decisions(log, "2018-04-01")["prediction_id"].to_pylist() == ["t1"], "and no silent zeros"
    assert service.client.post("/predict", json={"transaction": payment(2)}).status_code == 200


@pytest.mark.fault(10)
def test_without_registry_and_copy_the_process_lives_but_is_not_ready(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home = tmp_path / "home"
    service = launch(home)
    service.wait("/health/live")
    time.sleep(1)
    assert service.client.get("/health/ready").status_code == 503
    answer = service.client.post("/predict", json={"features": vector(plan)})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert service.client.get("/health").json()["status"] == "no model"
    assert not (home / "mlflow").exists()
    with_champion(plan, tmp_path)
    service.wait()


@pytest.mark.fault(10)
def test_the_registry_may_go_away_while_running_and_stay_away_at_the_next_start(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home = with_champion(plan, tmp_path)
    service = launch(home)
    service.wait()
    (home / "mlflow").rename(home / "gone")
    time.sleep(1)
    assert service.client.post("/predict", json={"features": vector(plan)}).json()["model_version"] == "1"
    assert not (home / "mlflow").exists()
    assert service.stop() == 0
    again = launch(home)
    again.wait()
    assert again.client.post("/predict", json={"features": vector(plan)}).json()["model_version"] == "1"
    again.stop()
    for bundle in (home / "serving" / "bundles").iterdir():
        os.truncate(bundle / "model.txt", 1_000)
    spoiled = launch(home)
    spoiled.wait("/health/live")
    time.sleep(1)
    assert spoiled.client.get("/health/ready").status_code == 503
    assert "altered" in spoiled.log.read_text()


@pytest.mark.fault(11)
def test_swaps_under_load_lose_no_request_and_mix_no_generation(
    plan: FeaturePlan, tmp_path: Path, launch: Launch, in_full: bool
) -> None:
    home, registry = with_champion(plan, tmp_path), TinyRegistry(tmp_path / "home")
    versions = [
        "1",
        *(registry.register(tiny_release(plan, seed=n), tmp_path / f"scratch{n}") for n in (1, 2)),
    ]
    service = launch(home, "--clock", "event")
    service.wait()
    thresholds = {"1": 0.3, "2": 0.301, "3": 0.302}
    scores: dict[str, set[float]] = {v: set() for v in versions}
    stop, failures = threading.Event(), []

    def load() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/predict", json={"features": vector(plan)})
                if (
                    answer.status_code != 200
                    or answer.json()["threshold"] != thresholds[answer.json()["model_version"]]
                ):
                    failures.append(answer.text)
                else:
                    scores[answer.json()["model_version"]].add(answer.json()["fraud_score"])
                time.sleep(0.002)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for swap in range(100 if in_full else 10):
            version = versions[(swap + 1) % 3]
            registry.promote(version)
            service.wait_for_version(version)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert [len(scores[v]) for v in versions] == [1, 1, 1]


@pytest.mark.fault(14)
def test_a_bad_release_is_refused_the_old_one_stays_and_the_next_good_one_comes(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home, registry = with_champion(plan, tmp_path), TinyRegistry(tmp_path / "home")
    service = launch(home)
    service.wait()

    def truncate(bundle: Path) -> None:
        os.truncate(bundle / "model.txt", 1_000)

    registry.promote(registry.register(tiny_release(plan, seed=1), tmp_path / "s1", spoil=truncate))
    wait_for_log(service, "version 2 is refused, version 1 goes on")
    registry.promote(registry.register(tiny_release(plan, seed=2), tmp_path / "s2", digest="0" * 64))
    wait_for_log(service, "version 3 is refused, version 1 goes on")
    assert service.client.get("/health").json()["model_version"] == "1"
    time.sleep(0.5)
    assert 'serving_model_swaps_total{outcome="refused"} 2.0' in service.client.get("/metrics").text
    registry.promote(registry.register(tiny_release(plan, seed=3), tmp_path / "s3"))
    service.wait_for_version("4")


def test_two_workers_share_the_log_and_answer_alike(
    plan: FeaturePlan, tmp_path: Path, launch: Launch
) -> None:
    home = with_champion(plan, tmp_path)
    service = launch(home, "--clock", "event", "--workers", "2")
    service.wait()
    wait_for_log(service, "serving version 1 of fraud", times=2)

    def ask(number: int) -> str:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
            return client.post("/predict", json={"transaction": payment(number % 30)}).raise_for_status().text

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(120)))
    assert len(set(answers)) == 30
    assert sorted(logged_decisions(home / "serving" / "serving.db", "2018-04-01")["seq"].to_pylist()) == list(
        range(1, 31)
    )
    assert service.stop() == 0


def test_a_host_that_is_not_loopback_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--home", str(tmp_path), "--host", "0.0.0.0", "--port", str(free_port())]) == 3
    assert capsys.readouterr().err.startswith("error: --host 0.0.0.0: the service has no keys yet")
    assert list(tmp_path.iterdir()) == []


def with_champion(plan: FeaturePlan, tmp_path: Path) -> Path:
    registry = TinyRegistry(tmp_path / "home")
    registry.promote(registry.register(tiny_release(plan), tmp_path / "scratch"))
    return registry.home


def wait_for_log(service: Running, text: str, seconds: float = 60, times: int = 1) -> None:
    deadline = time.monotonic() + seconds
    while service.log.read_text().count(text) < times:
        assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.05)


def wait_for_metric(service: Running, line: str, seconds: float = 10) -> str:
    deadline = time.monotonic() + seconds
    while line not in (text := service.client.get("/metrics").text):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    return text


def half_sent(port: int, number: int, route: str = "/predict") -> tuple[socket.socket, bytes]:
    """A request whose head has arrived and whose body has not; returns the connection and the rest."""
    import orjson

    body = orjson.dumps({"transaction": payment(number)})
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.settimeout(20)
    connection.sendall(
        f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(body)}\r\n\r\n".encode()
        + body[:10]
    )
    return connection, body[10:]


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    connection.close()
    return received


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
