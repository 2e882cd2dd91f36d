"""The clients of the serving benchmark: what they send, what they count, and from when a latency counts."""

import argparse
import http.server
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.load.bench import Cell, ServiceTraffic, ServingBench, stopped_share, targets, vectors_body
from benchmarks.load.cells import Found, Load, WrongAnswers, bodies_of, check, quantiles, write_lines
from benchmarks.load.clients import pairs
from benchmarks.load.clients.connections import KeptConnection
from benchmarks.load.clients.paced import PacedClient, paced
from benchmarks.load.clients.wrk import has_wrk, saturate
from benchmarks.load.prepared import DONE, MIXED, PreparationFailed, Prepared, prepared
from benchmarks.load.servers import ServerFailed
from benchmarks.load.services import Service
from benchmarks.serving import arguments
from serving.contract.before_subjects import BEFORE
from serving.messages import ReadyVector, ScoredEvent
from serving.protocols.native.wire import wire_of

ANSWER = b'{"decision":"ALLOW"}'


@contextmanager
def answering(
    stall_s: float = 0.0, status: int = 200, answer: bytes = ANSWER, idle_s: float | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP server that is slow once, at its first request; gives its port, and the bodies that it got.

    It closes a connection that is idle for longer than `idle_s`.
    """
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = idle_s

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            if len(bodies) == 1:
                time.sleep(stall_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], bodies
        finally:
            server.shutdown()
            thread.join()


def load_of(port: int, folder: Path) -> Load:
    bodies = write_lines(folder / "bodies", [b'{"id":"@"}', b'{"id":"@","also":"@"}'])
    return Load(port, "/", bodies, "a-", ['"decision":"ALLOW"', "BLOCK"])


def test_percentiles_are_those_of_numpy_by_the_nearest_rank() -> None:
    for count in (1, 2, 99, 100, 101, 1_000, 12_345):
        latencies = np.random.default_rng(count).gamma(2.0, 0.001, count)
        named = quantiles(latencies.tolist())
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)):
            expected = np.quantile(latencies, share, method="inverted_cdf") * 1e3
            assert named[name] == pytest.approx(expected, abs=0.001)
    assert quantiles([]) == {}


def test_each_mark_becomes_an_id_of_its_own_and_the_bodies_come_again(tmp_path: Path) -> None:
    bodies = bodies_of(load_of(0, tmp_path))
    sent = [json.loads(next(bodies)) for _ in range(4)]
    ids = [value for body in sent for value in body.values()]
    assert ids == [f"a-{number:08d}" for number in range(6)]


def test_a_stall_is_charged_to_every_request_that_was_meant_to_be_sent_meanwhile(tmp_path: Path) -> None:
    with answering(stall_s=0.6) as (port, _):
        found = PacedClient(load_of(port, tmp_path), connections=1).run(rate=100, seconds=0.5)
    assert (found.answered, found.failed) == (50, 0)
    assert found.latency_ms["p50"] > 100
    assert found.latency_ms["max"] > 550


def test_the_paced_client_counts_texts_in_a_process_of_its_own(tmp_path: Path) -> None:
    with answering() as (port, bodies):
        found = paced(load_of(port, tmp_path), rate=200, seconds=0.5, connections=4)
    assert found.counts == {'"decision":"ALLOW"': 100, "BLOCK": 0}
    assert len(bodies) == len(set(bodies)) == 100
    check(found, {'"decision":"ALLOW"': 1, "BLOCK": 0}, "the answers")


def test_refused_requests_are_counted_and_are_no_answers(tmp_path: Path) -> None:
    with answering(status=503) as (port, _):
        found = PacedClient(load_of(port, tmp_path), connections=2).run(rate=100, seconds=0.1)
    assert (found.answered, found.failed) == (0, 10)
    assert set(found.counts.values()) == {0}
    with pytest.raises(WrongAnswers, match="all 10 requests failed"):
        check(found, {}, "the answers")


def test_a_connection_that_was_idle_for_too_long_is_made_again(tmp_path: Path) -> None:
    with answering(idle_s=0.05) as (port, bodies):
        found = PacedClient(load_of(port, tmp_path), connections=1).run(rate=4, seconds=1)
    assert (found.answered, found.failed, len(bodies)) == (4, 0, 4)


def test_an_answer_without_its_text_fails_the_measurement() -> None:
    with pytest.raises(WrongAnswers, match="BLOCK stands 9 times in 10 answers, 10 were expected"):
        check(Found(1.0, 10, 0, {"BLOCK": 9}, {}), {"BLOCK": 1}, "the answers")


@pytest.mark.skipif(not has_wrk(), reason="wrk is no package of Python, and only a benchmark needs it")
def test_wrk_sends_other_ids_each_time_and_counts_as_the_other_client_does(tmp_path: Path) -> None:
    with answering() as (port, bodies):
        found = saturate(load_of(port, tmp_path), connections=4, seconds=1)
    assert found.failed == 0
    assert found.counts == {'"decision":"ALLOW"': found.answered, "BLOCK": 0}
    assert len(bodies) == len(set(bodies)) >= found.answered > 0
    assert {*found.latency_ms} == {"p50", "p99", "p99.9", "max"}


def prepared_in(folder: Path) -> Prepared:
    """Two transactions on two days, without a home."""
    table = pa.table(
        {
            "customer_id": ["c1", "c2"],
            "merchant_id": ["m1", "m2"],
            "amount": [10.25, 7.0],
            "event_us": [
                int(datetime(2018, 4, day, 12, tzinfo=UTC).timestamp()) * 1_000_000 for day in (1, 2)
            ],
        }
    )
    pq.write_table(table, folder / "payments.parquet")
    return Prepared(folder, 2, ("a", "b"), {}, date(2018, 4, 1), date(2018, 4, 2))


def test_the_service_takes_the_bodies_of_transactions_and_their_time_goes_on(tmp_path: Path) -> None:
    bodies = write_lines(tmp_path / "bodies", prepared_in(tmp_path).payments(1, 4))
    sent = bodies_of(Load(0, "/predict", bodies, "a-", []))
    asked = [wire_of(BEFORE).asked(next(sent)) for _ in range(4)]
    assert all(isinstance(one, ScoredEvent) for one in asked)
    days = [datetime.fromtimestamp(one.event_us / 1e6, UTC).date().isoformat() for one in asked]  # type: ignore[union-attr]
    assert days == ["2018-04-04", "2018-04-05", "2018-04-06", "2018-04-07"]
    assert [one.values["amount"] for one in asked] == [7.0, 10.25, 7.0, 10.25]  # type: ignore[union-attr]


def test_the_service_takes_the_bodies_of_vectors(tmp_path: Path) -> None:
    rows = [[1.5, 2.0], [0.1, 3.0]]
    for alone, expected in ((True, 1), (False, 2)):
        body = vectors_body(("a", "b"), alone)(rows)
        bodies = write_lines(tmp_path / "bodies", [json.dumps(body).encode()])
        sent = next(bodies_of(Load(0, "/predict", bodies, "a-", [])))
        asked = [wire_of(BEFORE).asked(sent)] if alone else wire_of(BEFORE).asked_in_rows(sent)
        vectors = [ReadyVector(dict(zip("ab", row, strict=True)), f"a-{n:08d}") for n, row in enumerate(rows)]
        assert asked == vectors[:expected]


def test_targets_compare_medians_of_top_rates(tmp_path: Path) -> None:
    bench = ServingBench(prepared_in(tmp_path), None)  # type: ignore[arg-type]
    for server, decisions, rates in (
        ("service", "allow", (700, 900, 800)),
        ("mlserver", "", (100, 400, 200)),
    ):
        for rate in rates:
            for connections in (1, 8):
                found = Found(1.0, rate // (9 - connections), 0, {}, {"p50": 1.0, "p99": 2.0})
                bench.found.setdefault(Cell(server, 1, decisions, "vector", connections), []).append(found)
    told = targets(bench)
    assert told == {
        "vector_to_mlserver": {"value": 4.0, "target": ">= 4", "reached": True},
        "failed_requests": {"value": 0, "target": "<= 0", "reached": True},
    }


def test_the_share_of_stopped_rows_counts_rows_and_not_answers() -> None:
    cell = Cell("service", 1, MIXED, "batch", 8)
    found = [
        Found(1.0, 10, 0, {'"decision":"BLOCK"': 12}, {}),
        Found(1.0, 10, 0, {'"decision":"BLOCK"': 8}, {}),
    ]
    assert stopped_share(cell, found) == {"stopped_share": 0.01}


def test_a_release_that_stops_another_share_than_it_should_fails_the_measurement(tmp_path: Path) -> None:
    bench = ServingBench(prepared_in(tmp_path), argparse.Namespace())
    traffic, cell = ServiceTraffic(bench, None), Cell("service", 1, MIXED, "vector", 8)  # type: ignore[arg-type]

    def found(stopped: int, answered: int) -> Found:
        counts = {
            '"decision":"ALLOW"': answered - stopped,
            '"decision":"BLOCK"': stopped,
            '"reasons":[{': stopped,
        }
        return Found(1.0, answered, 0, counts, {})

    traffic.check(cell, found(100, 10_000))
    traffic.check(cell, found(0, 1_000))
    for stopped in (10, 1_000):
        with pytest.raises(WrongAnswers, match="was stopped, about"):
            traffic.check(cell, found(stopped, 10_000))


def test_an_answered_id_that_is_not_in_the_log_fails_the_measurement(tmp_path: Path) -> None:
    service = Service(prepared_in(tmp_path), None, tmp_path, 1, MIXED)  # type: ignore[arg-type]
    service.database.parent.mkdir()
    connection = sqlite3.connect(service.database)
    connection.execute("CREATE TABLE decisions (prediction_id TEXT NOT NULL UNIQUE)")
    logged = [(f"{ids}{n:08d}",) for ids in ("paced-", "settle-") for n in range(6)]
    connection.executemany("INSERT INTO decisions VALUES (?)", logged)
    connection.commit()
    connection.close()
    traffic = ServiceTraffic(ServingBench(service.prepared, argparse.Namespace()), service)
    traffic.check_ids("paced-", Found(1.0, 3, 0, {}, {}), 2)
    traffic.check_ids("paced-", Found(1.0, 3, 1, {}, {}), 2)
    with pytest.raises(WrongAnswers, match="8 ids paced-… were answered, the log has 6 of 8"):
        traffic.check_ids("paced-", Found(1.0, 4, 0, {}, {}), 2)


def test_what_was_measured_before_a_failure_is_told(tmp_path: Path) -> None:
    options = argparse.Namespace(
        workers=(), rivals=("asgi",), rounds=1, seconds=1.0, environments=tmp_path, kinds=("vector",)
    )
    bench = ServingBench(prepared_in(tmp_path), options)
    bench.keep(Cell("service", 1, "allow", "vector", 1), Found(1.0, 700, 0, {}, {"p50": 1.0, "p99": 2.0}))
    with pytest.raises(ServerFailed, match="never answered 200"):  # The model is not there.
        bench.run()
    figures = bench.figures()
    assert not figures["finished"]
    assert figures["service"] == {"1-allow-vector-1": {"per_second": 700, "p50": 1.0, "p99": 2.0}}


def test_latencies_without_one_worker_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serving.py", "--workers", "2"])
    with pytest.raises(SystemExit):
        arguments()
    assert "--latency-minutes needs 1 among --workers" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["serving.py", "--workers", "2", "--latency-minutes", "0"])
    assert arguments().workers == (2,)


def test_a_prepared_folder_is_refused_with_other_files_than_it_was_made_of(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    (data / "2018-04-01.parquet").write_bytes(b"a day")
    made = {"events": 2, "features": ["a"], "versions": {}, "first": "2018-04-01", "last": "2018-04-02"}
    (work / DONE).write_text(json.dumps({**made, "data": {"path": "elsewhere", "digest": "other"}}))
    with pytest.raises(PreparationFailed, match="was made of elsewhere, not of the files in"):
        prepared(data, work)


def test_a_preparation_that_failed_names_the_folder_to_remove(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    (data / "2018-04-01.parquet").write_bytes(b"a day")
    (work / "home" / "mlflow").mkdir(parents=True)
    with pytest.raises(PreparationFailed, match=f"remove {work} and start again"):
        prepared(data, work)


@contextmanager
def lanes_to(port: int) -> Iterator[list[pairs.Lane]]:
    with closing(KeptConnection(port)) as one, closing(KeptConnection(port)) as other:
        yield [pairs.Lane((one, other))]


def test_only_a_busy_store_is_asked_again_by_pairs() -> None:
    begin = datetime(2018, 4, 1, tzinfo=UTC)
    answer = b'{"detail":[{"type":"store_failed"}]}'
    with (
        answering(status=503, answer=answer) as (port, bodies),
        lanes_to(port) as lanes,
        pytest.raises(WrongAnswers, match="pair 0: 503"),
    ):
        pairs.send_on(lanes, 1, begin)
    assert len(bodies) == 1


def test_pairs_end_where_no_worker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "GIVE_UP_S", 0.1)
    with (
        answering(stall_s=0.5) as (port, _),
        lanes_to(port) as lanes,
        pytest.raises(WrongAnswers, match=r"pairs \[0\]: no answer within 0.1 s"),
    ):
        pairs.send_on(lanes, 1, datetime(2018, 4, 1, tzinfo=UTC))
