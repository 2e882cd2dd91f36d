"""The measurements of `benchmarks/serving.py`: servers in turn, their cells, and what is to be reached."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from .cells import Found, Load, WrongAnswers, check, write_lines
from .clients.paced import paced
from .clients.warming import warming
from .clients.wrk import saturate
from .prepared import ALLOW, BLOCK, MIXED, MIXED_EVENTS, ROWS, Prepared
from .rivals import HOW_TO_INSTALL, RIVALS, Rival
from .services import Service, service_on

SERVICE = "service"
VECTOR, TRANSACTION, BATCH = "vector", "transaction", "batch"
PATHS = {VECTOR: "/predict", TRANSACTION: "/predict", BATCH: "/predict/batch"}
# What is counted in the answers of the service.
ALLOWED, BLOCKED = '"decision":"ALLOW"', '"decision":"BLOCK"'
EXPLAINED, ANSWERED = '"reasons":[{', '"status":200'
MOST_A_SECOND = 8_000  # Transactions that are prepared for a second of saturation.
WARM_S, WARM_CONNECTIONS, SETTLE_S = 15.0, 8, 3.0
# What `MIXED` stops: about 1 % of a day's rows, and other shares of a few hours.
LEAST_STOPPED, MOST_STOPPED, ENOUGH_ROWS = 0.002, 0.05, 10_000


class Cell(NamedTuple):
    """What is measured: of the service by workers and decisions, of a rival with 1 and an empty text."""

    server: str
    workers: int
    decisions: str
    kind: str
    connections: int

    def __str__(self) -> str:
        return "-".join(str(part) for part in self if part != "")


@dataclass
class ServingBench:
    """The servers in turn, and what was found of each cell. What failed on the way leaves the rest."""

    prepared: Prepared
    options: argparse.Namespace
    found: dict[Cell, list[Found]] = field(default_factory=dict)
    warmed: list[dict[str, float]] = field(default_factory=list)
    at_half: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: bool = False

    def run(self) -> None:
        """Measure everything that the options ask for."""
        turns: list[Callable[[int], None]] = [
            partial(self.service, workers) for workers in self.options.workers
        ]
        turns += [partial(self.rival, RIVALS[name]) for name in self.installed]
        for n in range(self.options.rounds):
            for turn in turned(turns, n):
                turn(n)
        if self.options.latency_minutes:
            self.latencies()
        self.finished = True

    def figures(self) -> dict[str, Any]:
        """What was measured so far."""
        return {
            "benchmark": "serving",
            "finished": self.finished,
            "events": self.prepared.events,
            "features": len(self.prepared.features),
            "seconds": self.options.seconds,
            "rounds": self.options.rounds,
            "service": self.table(SERVICE),
            "rivals": {
                name: self.table(name) if name in self.installed else {"skipped": HOW_TO_INSTALL}
                for name in self.options.rivals
            },
            "warming": self.warming(),
            "at_half": self.at_half,
            "targets": targets(self),
        }

    @property
    def installed(self) -> list[str]:
        """The other servers that can run."""
        environments = self.options.environments
        return [name for name in self.options.rivals if RIVALS[name].interpreter(environments).exists()]

    def service(self, workers: int, n: int) -> None:
        """All cells of the service with so many workers."""
        order = turned(self.options.decisions, n)
        first = release_of(order[0], TRANSACTION)
        with service_on(self.prepared, first, workers, f"{workers}-{n}") as service:
            traffic = ServiceTraffic(self, service)
            if workers == 1 and TRANSACTION in self.options.kinds:
                traffic.warm(order[0])
            for decisions in order:
                for kind in turned(self.options.kinds, n):
                    service.serve(release_of(decisions, kind))
                    for connections in turned(self.options.connections, n):
                        cell = Cell(SERVICE, workers, decisions, kind, connections)
                        self.keep(cell, traffic.saturate(cell, f"{n}-{cell}-"))
            traffic.check_log()

    def rival(self, rival: Rival, n: int) -> None:
        """All cells of another server."""
        with rival.running(
            self.prepared, self.options.environments.resolve(), self.prepared.scratch / "rivals"
        ) as server:
            for kind in turned([kind for kind in self.options.kinds if kind != TRANSACTION], n):
                bodies = self.prepared.bodies(
                    rival.name, rows_of(kind), partial(rival.body, self.prepared.features)
                )
                load = Load(server.port, rival.path, bodies, f"{n}-", ())
                for connections in turned(self.options.connections, n):
                    cell = Cell(rival.name, 1, "", kind, connections)
                    found = saturate(load, connections, self.options.seconds)
                    check(found, {}, str(cell))
                    self.keep(cell, found)

    def latencies(self) -> None:
        """Those of one worker at half of its top rate, over minutes.

        Each kind has a start of its own. The first `SETTLE_S` seconds at that rate are not counted.
        """
        seconds = self.options.latency_minutes * 60
        for decisions in self.options.decisions:
            for kind in self.options.kinds:
                rate = self.top(SERVICE, kind, decisions) / 2
                release, name = release_of(decisions, kind), f"half-{decisions}-{kind}"
                with service_on(self.prepared, release, 1, name) as service:
                    traffic = ServiceTraffic(self, service)
                    cell = Cell(SERVICE, 1, decisions, kind, max(self.options.connections))
                    found = traffic.paced(cell, rate, seconds)
                    traffic.check_log()
                self.at_half[f"{kind}/{decisions}"] = {"per_second": round(rate), **found}
                say(f"at half: {kind}/{decisions} {self.at_half[f'{kind}/{decisions}']}")

    def keep(self, cell: Cell, found: Found) -> None:
        say(f"{cell}: {found.per_second:,.0f}/s, {dict(found.latency_ms)}")
        if found.failed:
            say(f"{cell}: {found.failed} requests failed, {found.refusal or 'without an answer'}")
        self.found.setdefault(cell, []).append(found)

    def top(self, server: str, kind: str, decisions: str = "", workers: int = 1) -> float:
        """The highest median rate over the numbers of connections, in answers a second; 0 where none is."""
        return max(
            (
                median(one.per_second for one in found)
                for cell, found in self.found.items()
                if cell[:4] == (server, workers, decisions, kind)
            ),
            default=0.0,
        )

    def table(self, server: str) -> dict[str, Any]:
        """Medians over the rounds of each cell of a server."""
        return {
            str(cell).removeprefix(f"{server}-"): {
                "per_second": round(median(one.per_second for one in found)),
                **middle([one.latency_ms for one in found]),
                **failures(found),
                **stopped_share(cell, found),
            }
            for cell, found in self.found.items()
            if cell.server == server
        }

    def warming(self) -> dict[str, float]:
        """Medians over the starts."""
        return middle(self.warmed) if self.warmed else {}


@dataclass
class ServiceTraffic:
    """What was sent to a running service, and where its payments stand."""

    bench: ServingBench
    service: Service
    payments: int = 0
    decided: int = 0
    unanswered: int = 0  # At most: rows of requests that failed, or were under way when a cell ended.

    def warm(self, decisions: str) -> None:
        """Measure how the service becomes warm, right after its start."""
        cell = Cell(SERVICE, 1, decisions, TRANSACTION, WARM_CONNECTIONS)
        path, bodies = PATHS[TRANSACTION], self.bench.prepared.first_payments
        load = Load(self.service.server.port, path, bodies, "warm-", ())
        figures, answered = warming(load, WARM_CONNECTIONS, WARM_S)
        say(f"warming: {figures}")
        self.bench.warmed.append(figures)
        self.moved(cell, answered)

    def saturate(self, cell: Cell, ids: str) -> Found:
        """Its top rate with so many connections, the answers checked."""
        load = self.load(cell, ids, round(self.bench.options.seconds * MOST_A_SECOND))
        found = saturate(load, cell.connections, self.bench.options.seconds)
        self.check(cell, found)
        self.moved(cell, found.answered, found.failed)
        return found

    def paced(self, cell: Cell, rate: float, seconds: float) -> dict[str, Any]:
        """Latencies at a rate, once the service has run at it for some seconds."""
        before = paced(
            self.load(cell, "settle-", round(rate * SETTLE_S) + 1), rate, SETTLE_S, cell.connections
        )
        self.moved(cell, before.answered, before.failed)
        start = self.payments
        found = paced(self.load(cell, "paced-", round(rate * seconds) + 1), rate, seconds, cell.connections)
        self.check(cell, found)
        self.moved(cell, found.answered, found.failed)
        self.check_ids("paced-", found, rows_of(cell.kind))
        days = (self.payments - start) * self.bench.prepared.days / self.bench.prepared.events
        moved = {"event_days": round(days, 1)} if cell.kind == TRANSACTION else {}
        return {**found.latency_ms, **failures([found]), **stopped_share(cell, [found]), **moved}

    def load(self, cell: Cell, ids: str, transactions: int) -> Load:
        """What a cell sends; the next payments, where it sends transactions."""
        prepared = self.bench.prepared
        if cell.kind == TRANSACTION:
            lines = prepared.payments(self.payments, transactions)
            bodies = write_lines(self.bench.prepared.scratch / "payments.ndjson", lines)
        else:
            one = vectors_body(prepared.features, alone=cell.kind == VECTOR)
            bodies = prepared.bodies(SERVICE, rows_of(cell.kind), one)
        texts = (ALLOWED, BLOCKED, EXPLAINED, ANSWERED)
        return Load(self.service.server.port, PATHS[cell.kind], bodies, ids, texts)

    def check(self, cell: Cell, found: Found) -> None:
        """Whether each row was decided as the release decides."""
        rows = rows_of(cell.kind)
        expected = {ANSWERED: rows} if cell.kind == BATCH else {}
        if cell.decisions == ALLOW:
            expected |= {ALLOWED: rows, BLOCKED: 0, EXPLAINED: 0}
        elif cell.decisions == BLOCK:
            expected |= {ALLOWED: 0, BLOCKED: rows, EXPLAINED: rows}
        check(found, expected, str(cell))
        counts = found.counts
        if counts[ALLOWED] + counts[BLOCKED] != rows * found.answered or counts[EXPLAINED] < counts[BLOCKED]:
            raise WrongAnswers(f"{cell}: not every row has a decision with its reasons: {counts}")
        share = stopped_share(cell, [found]).get("stopped_share")
        if (
            share is not None
            and rows * found.answered >= ENOUGH_ROWS
            and not LEAST_STOPPED <= share <= MOST_STOPPED
        ):
            raise WrongAnswers(f"{cell}: a share of {share} was stopped, about 0.01 was expected")

    def moved(self, cell: Cell, answered: int, failed: int = 0) -> None:
        """Count what was sent: event time goes on, and the log has to hold the decisions."""
        without_answer = failed + cell.connections
        if cell.kind == TRANSACTION:
            self.payments += answered + without_answer
        self.decided += answered * rows_of(cell.kind)
        self.unanswered += without_answer * rows_of(cell.kind)

    def check_log(self) -> None:
        """Whether the log holds as many decisions as were answered."""
        logged = self.logged("SELECT count(*) FROM decisions")
        # More may be logged, because requests that wrk has given up may still be decided.
        if not self.decided <= logged <= self.decided + self.unanswered:
            raise WrongAnswers(f"{self.decided} decisions were answered, the log has {logged}")

    def check_ids(self, ids: str, found: Found, rows: int) -> None:
        """Whether the log holds the ids of a load's answers; no request of it is under way any more.

        The ids are numbered, so no other ids are between the first and the last one.
        """
        answered, sent = found.answered * rows, (found.answered + found.failed) * rows
        query = "SELECT count(*) FROM decisions WHERE prediction_id BETWEEN ? AND ?"
        logged = self.logged(query, f"{ids}{0:08d}", f"{ids}{sent - 1:08d}")
        if logged < answered:
            raise WrongAnswers(f"{answered} ids {ids}… were answered, the log has {logged} of {sent}")

    def logged(self, query: str, *values: str) -> int:
        with closing(sqlite3.connect(self.service.database, timeout=30)) as connection:
            return int(connection.execute(query, values).fetchone()[0])


def vectors_body(features: Sequence[str], alone: bool) -> Callable[[Sequence[Sequence[float]]], Any]:
    """A request with some vectors, each with an id to be filled in."""

    def row(values: Sequence[float]) -> dict[str, Any]:
        return {"features": dict(zip(features, values, strict=True)), "prediction_id": "@"}

    return lambda rows: row(rows[0]) if alone else {"rows": [row(values) for values in rows]}


def release_of(decisions: str, kind: str) -> str:
    """The release that decides so. One in a hundred has another threshold for transactions."""
    return MIXED_EVENTS if (decisions, kind) == (MIXED, TRANSACTION) else decisions


def rows_of(kind: str) -> int:
    return ROWS if kind == BATCH else 1


def targets(bench: ServingBench) -> dict[str, Any]:
    """What the service is to reach, with one worker; only what was measured."""
    top, table, at_half = bench.top, bench.table(SERVICE), bench.at_half
    mlserver, batches, mlflow = top("mlserver", VECTOR), top("mlserver", BATCH), top("mlflow", VECTOR)
    alone = table.get(f"1-mixed-{TRANSACTION}-1", {})
    least = [
        ("vector_to_mlserver", ratio(top(SERVICE, VECTOR, ALLOW), mlserver), 4.0),
        ("vector_to_mlflow", ratio(top(SERVICE, VECTOR, ALLOW), mlflow), 20.0),
        ("explained_vector_to_mlserver", ratio(top(SERVICE, VECTOR, BLOCK), mlserver), 2.5),
        ("transaction_to_mlserver_vector", ratio(top(SERVICE, TRANSACTION, MIXED), mlserver), 2.0),
        ("batch_to_mlserver", ratio(top(SERVICE, BATCH, ALLOW), batches), 5.0),
    ]
    most = [
        ("one_connection_transaction_p50_ms", alone.get("p50"), 0.7),
        ("one_connection_transaction_p99_ms", alone.get("p99"), 2.0),
        ("warm_s", bench.warming().get("warm_s"), 2.0),
    ]
    for name, limit in (("p99", 5.0), ("p99.9", 20.0), ("max", 50.0)):
        singles = [found[name] for cell, found in at_half.items() if not cell.startswith(BATCH)]
        most.append((f"at_half_{name}_ms", max(singles, default=None), limit))
    cells = [*table.values(), *at_half.values()]
    most.append(("failed_requests", sum(cell.get("failed", 0) for cell in cells), 0.0))
    told = {name: (value, ">=", limit, value is not None and value >= limit) for name, value, limit in least}
    told |= {name: (value, "<=", limit, value is not None and value <= limit) for name, value, limit in most}
    return {
        name: {"value": value, "target": f"{sign} {limit:g}", "reached": reached}
        for name, (value, sign, limit, reached) in told.items()
        if value is not None
    }


def ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 2) if ours and theirs else None


def failures(found: Sequence[Found]) -> dict[str, int]:
    """How many requests failed, where any did."""
    failed = sum(one.failed for one in found)
    return {"failed": failed} if failed else {}


def stopped_share(cell: Cell, found: Sequence[Found]) -> dict[str, float]:
    if cell.decisions != MIXED:
        return {}
    stopped = sum(one.counts[BLOCKED] for one in found)
    return {"stopped_share": round(stopped / sum(one.answered * rows_of(cell.kind) for one in found), 4)}


def middle(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(median(one[name] for one in figures), 3) for name in figures[0]}


def turned(values: Sequence[Any], n: int) -> list[Any]:
    """The values in another order each round."""
    return list(values[n % len(values) :]) + list(values[: n % len(values)])


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
