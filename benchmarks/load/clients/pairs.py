"""Pairs of requests to two workers: one writes an event, the other one scores its key at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from select import select
from typing import Any

import psutil

from serving.store.opening import serving_log

from ..cells import WrongAnswers, quantiles
from .connections import KeptConnection

WRITTEN, SCORED = "written-", "scored-"  # How the ids of the two requests begin.
STEP = timedelta(seconds=1)  # From a request to the next one, in event time.
KEYS = 5_000  # More than there are pairs under way, and no key gets a long history.
AT_ONCE = 8
LOOK_AGAIN_S, GIVE_UP_S = 0.02, 30.0
PATH, BUSY = b"/predict", b'"store_busy"'
SINCE_LAST = "customer_seconds_since_last_txn"
IDS_AT_ONCE = 5_000  # Read from the log.


@dataclass
class Lane:
    """A connection to each worker, and the pair that is under way on them."""

    connections: tuple[KeptConnection, KeptConnection]
    number: int = -1
    scoring: bool = False
    accepted_s: float = 0.0
    body: bytes = b""

    @property
    def connection(self) -> KeptConnection:
        """On which an answer is waited for. Pairs in turn begin at the one worker and at the other."""
        return self.connections[(self.number + self.scoring) % 2]

    def send(self, ids: str, at: datetime) -> None:
        """Send the request of the pair that is due."""
        self.body = _body(ids, self.number, at)
        self.connection.post(PATH, self.body)


def send_pairs(
    port: int, workers: Sequence[int], count: int, start: datetime
) -> tuple[dict[str, float], int]:
    """Send pairs to two worker processes on one port; some pairs are under way at a time.

    Returns milliseconds from the answer to a write until the answer to the score of its key, as percentiles,
    and how many requests were refused as `store_busy` and sent again. `WrongAnswers` for any
    other answer, and for none within 30 s.
    """
    lanes = [Lane(pair) for pair in connected(port, workers, AT_ONCE)]
    try:
        return send_on(lanes, count, start)
    finally:
        for lane in lanes:
            for connection in lane.connections:
                connection.close()


def send_on(lanes: Sequence[Lane], count: int, start: datetime) -> tuple[dict[str, float], int]:
    """As `send_pairs`, on connections that are there."""
    refused = 0
    numbers, moments, visible_s = iter(range(count)), _moments(start), list[float]()
    under_way = [lane for lane in lanes if _begin(lane, numbers, moments)]
    while under_way:
        waiting = {lane.connection: lane for lane in under_way}
        readable = select(list(waiting), [], [], GIVE_UP_S)[0]
        if not readable:
            numbers_waiting = sorted(lane.number for lane in under_way)
            raise WrongAnswers(f"pairs {numbers_waiting}: no answer within {GIVE_UP_S:g} s")
        for connection in readable:
            lane = waiting[connection]
            if (response := connection.receive()) is None:
                continue
            now_s = time.perf_counter()
            if response.status == 503 and BUSY in response.body:
                refused += 1
                connection.post(PATH, lane.body)
                continue
            if response.status != 200:
                raise WrongAnswers(f"pair {lane.number}: {response.status} {response.body[:300]!r}")
            if lane.scoring:
                visible_s.append(now_s - lane.accepted_s)
                if not _begin(lane, numbers, moments):
                    under_way.remove(lane)
            else:
                lane.scoring, lane.accepted_s = True, now_s
                lane.send(SCORED, next(moments))
    return quantiles(visible_s), refused


def stale_ids(database: Path, count: int) -> list[str]:
    """The scored events whose logged vectors had not seen the written ones, or that are not in the log.

    A vector has seen the written event if the time since the last event of its key is that between the two.
    """
    log = serving_log(database)
    subject = log.subject()
    if subject is None:
        raise WrongAnswers(f"{database} holds no log")
    stale = list[str]()
    for first in range(0, count, IDS_AT_ONCE):
        numbers = [f"{number:08d}" for number in range(first, min(first + IDS_AT_ONCE, count))]
        names = [f"{ids}{number}" for number in numbers for ids in (WRITTEN, SCORED)]
        columns = ["prediction_id", "event_timestamp", "features"]
        rows = log.receipts(subject, names).select(columns).to_pylist()
        logged = {row["prediction_id"]: row for row in rows}
        stale += [f"{SCORED}{number}" for number in numbers if not _has_seen(logged, number)]
    return stale


def connected(port: int, workers: Sequence[int], count: int) -> list[tuple[KeptConnection, KeptConnection]]:
    """So many connections to each of two processes that share a port; what is too many is closed."""
    found: dict[int, list[KeptConnection]] = {worker: [] for worker in workers}
    until_s = time.monotonic() + GIVE_UP_S
    while any(len(connections) < count for connections in found.values()):
        if time.monotonic() > until_s:
            raise WrongAnswers(f"not every worker of {workers} takes connections on port {port}")
        connection = KeptConnection(port)
        worker = _worker_of(connection, workers)
        if worker is None or len(found[worker]) >= count:
            connection.close()
        else:
            found[worker].append(connection)
    one, other = found.values()
    return list(zip(one, other, strict=True))


def _worker_of(connection: KeptConnection, workers: Sequence[int]) -> int | None:
    for _ in range(50):  # The worker takes a connection a moment after it was made.
        for worker in workers:
            ends = psutil.Process(worker).net_connections(kind="tcp")
            if any(end.raddr and end.raddr.port == connection.local_port for end in ends):
                return worker
        time.sleep(LOOK_AGAIN_S)
    return None


def _has_seen(logged: Mapping[str, Mapping[str, Any]], number: str) -> bool:
    written, scored = logged.get(f"{WRITTEN}{number}"), logged.get(f"{SCORED}{number}")
    if written is None or scored is None:
        return False
    apart = scored["event_timestamp"] - written["event_timestamp"]
    return bool(json.loads(scored["features"])[SINCE_LAST] == apart.total_seconds())


def _moments(start: datetime) -> Iterator[datetime]:
    """The event time of each request, later than that of every request that was sent before it.

    Otherwise a written event could be late, and be recorded as known later than the scored event happens.
    """
    at = start.astimezone(UTC)
    while True:
        yield at
        at += STEP


def _begin(lane: Lane, numbers: Iterator[int], moments: Iterator[datetime]) -> bool:
    """Write the next event; False where none is left."""
    number = next(numbers, None)
    if number is None:
        return False
    lane.number, lane.scoring = number, False
    lane.send(WRITTEN, next(moments))
    return True


def _body(ids: str, number: int, at: datetime) -> bytes:
    transaction: dict[str, Any] = {
        "transaction_id": f"{ids}{number:08d}",
        "event_timestamp": at.isoformat(),
        "customer_id": f"pair-{number % KEYS}",
        "merchant_id": f"pair-{number % KEYS}",
        "amount": 10.0,
    }
    return json.dumps({"transaction": transaction}).encode()
