"""The clients of the serving benchmark: what they send, what they count, and from when a latency counts."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.load.bench import Bench, Cell, stopped_share, targets, vectors_body
from benchmarks.load.cells import Found, Load, WrongAnswers, bodies_of, check, quantiles, write_lines
from benchmarks.load.paced import PacedClient, paced
from benchmarks.load.prepared import MIXED, Prepared
from benchmarks.load.wrk import has_wrk, saturate
from serving.contract.before_subjects import BEFORE
from serving.messages import ReadyVector, ScoredEvent
from serving.protocols.native.wire import wire_of

ANSWER = b'{"decision":"ALLOW"}'


@contextmanager
def answering(stall_s: float = 0.0, status: int = 200) -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP server that is slow once, at its first request; gives its port, and the bodies that it got."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            if len(bodies) == 1:
                time.sleep(stall_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

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


def test_an_answer_without_its_text_fails_the_measurement() -> None:
    with pytest.raises(WrongAnswers, match="BLOCK stands 9 times in 10 answers, 10 were expected"):
        check(Found(1.0, 10, 0, {"BLOCK": 9}, {}), {"BLOCK": 1}, "the answers")


@pytest.mark.skipif(not has_wrk(), reason="the program wrk is not installed")
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
    bench = Bench(prepared_in(tmp_path), None)  # type: ignore[arg-type]
    for server, decisions, rates in (
        ("service", "allow", (700, 900, 800)),
        ("mlserver", "", (100, 400, 200)),
    ):
        for rate in rates:
            for connections in (1, 8):
                found = Found(1.0, rate // (9 - connections), 0, {}, {"p50": 1.0, "p99": 2.0})
                bench.found.setdefault(Cell(server, 1, decisions, "vector", connections), []).append(found)
    told = targets(bench, {})
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
