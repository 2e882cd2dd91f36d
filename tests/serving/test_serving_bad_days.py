"""The service as a process of its own on a bad day, and while it changes its model: nothing that was answered
is lost, and nobody waits for ever.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from serving_kit import (
    JSON,
    Running,
    TinyRegistry,
    logged_decisions,
    payment,
    tiny_release,
)

from feature_repo.engine.plan import FeaturePlan
from serving.store.opening import serving_log

pytestmark = pytest.mark.slow

Launch = Callable[..., Running]
DAY = timedelta(days=1)


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
    answer = service.client.post("/predict", json={"features": dict.fromkeys(plan.features, 1.0)})
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
    vector = {"features": dict.fromkeys(plan.features, 1.0)}
    assert service.client.post("/predict", json=vector).json()["model_version"] == "1"
    assert not (home / "mlflow").exists()
    assert service.stop() == 0
    again = launch(home)
    again.wait()
    assert again.client.post("/predict", json=vector).json()["model_version"] == "1"
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
                answer = client.post("/predict", json={"features": dict.fromkeys(plan.features, 1.0)})
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
