"""Minutes in which much goes wrong at once, and what is left of them.

Payments, batches and labels over HTTP to two workers on a home with a lake and two trained versions. The
champion changes every five seconds, between versions with other thresholds and other features. Workers are
killed, the online state is rebuilt, and the disk is full for a while. A client that gets no answer sends the
same request again. Clients often hang up, so that each worker has some of them.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from disk_kit import fill, full
from old_homes import unpack_home
from serving_kit import Running, TinyRegistry, start, tiny_release

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import OnlineState
from feature_repo.times import from_us, to_us
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.registry import registry_of
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.bundle import Release
from serving.store.opening import serving_log, serving_store

START_US = to_us(datetime(2025, 3, 22, 6, tzinfo=UTC))
STEP_US = 60_000_000  # Of event time, from one request to the next.
RATE, CLIENTS = 60, 6
REQUESTS_A_CONNECTION = 10
GIVE_UP_S = 60.0  # A request that got no answer for so long has failed.
SWAP_EVERY_S = 5.0
CUSTOMERS, MERCHANTS = 60, 40


def play(disk: Path, seconds: float, kill_every_s: float, full_s: float, replayed: int) -> None:
    """Print one line of JSON: what was done, and what does not hold. `full_s` 0: the disk is never full."""
    home = BadHome(disk)
    versions = home.versions()
    service = start(home.path, "--clock", "event", "--workers", "2", "--poll", "0.5")
    try:
        service.wait(seconds=300)
        wait_for(lambda: service.log.read_text().count("serving version") >= 2, service)
        traffic = Traffic(service.port)
        disasters = Disasters(home, service, list(versions), seconds, kill_every_s, full_s, traffic)
        traffic.begin()
        try:
            disasters.run()
        finally:
            traffic.end()
    finally:
        code = service.stop()
    figures = {**traffic.figures(), **disasters.figures(), "exit_code": code}
    figures["wrong"] = home.wrong(traffic, versions)
    figures["not_as_rebuilt"] = home.not_as_rebuilt(versions["2"].plan)
    figures["replayed"] = home.replayed(replayed)
    print(json.dumps(figures))


def wait_for(holds: Any, service: Running, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, service.log.read_text()[-3_000:]
        time.sleep(0.05)


class BadHome:
    """The home, and what it holds in the end."""

    def __init__(self, disk: Path) -> None:
        unpack_home(disk)
        self.disk, self.path = disk, disk / "home"
        os.environ.update(MLOPS_HOME=str(self.path), MLOPS_CONFIG=str(disk / "mlops.toml"))
        self.settings = load_settings()

    def versions(self) -> dict[str, Release]:
        """The two trained versions, and two more with fewer features and thresholds of their own."""
        trained, tiny = registry_of(self.settings), TinyRegistry(self.path)
        found = {number: trained.release(trained.version(number)) for number in ("1", "2")}
        plan = found["2"].plan
        for seed in (1, 2):
            made = tiny_release(replace(plan, features=plan.features[: -10 * seed]), seed=seed)
            made = replace(made, maturity_days=found["2"].maturity_days)
            found[tiny.register(made, self.disk / f"scratch-{seed}")] = made
        return found

    def promote(self, version: str) -> None:
        TinyRegistry(self.path).promote(version)

    def mlops(self, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "mlops_assets", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr[-3_000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def replayed(self, many: int) -> dict[str, Any]:
        told = self.mlops("replay", "--sample", str(many))
        others = [one for one in told.pop("replayed") if one["result"] != "identical"]
        return {**told, "others": others[:3]}

    def wrong(self, traffic: Traffic, versions: dict[str, Release]) -> dict[str, list[str]]:
        """The ids for which something does not hold, by what it is."""
        log, answers = serving_log(self.settings.serving_db), traffic.answers
        logged = log.decision_ids(FRAUD)
        rows = {row["prediction_id"]: row for row in log.receipts(FRAUD, logged).to_pylist()}
        served = {one: row for one, row in rows.items() if one.startswith("p")}
        with closing(sqlite3.connect(self.settings.serving_db)) as connection:
            labels = Counter(one for (one,) in connection.execute("SELECT transaction_id FROM labels"))
        with closing(serving_store(self.settings.serving_db)) as store:
            store.hold(FRAUD.subject, versions["2"].plan)
            in_state = {one for one in store.state.ids("transactions", 0, 2**62) if one.startswith("p")}
        told = {
            "answered and not logged": answers.keys() - served.keys(),
            "logged twice": [one for one, times in Counter(logged).items() if times > 1],
            "never sent": served.keys() - answers.keys() - traffic.hung_up,
            "logged otherwise than answered": [
                one for one, answer in answers.items() if one in rows and not same(rows[one], answer)
            ],
            "of two generations": [
                one for one, row in served.items() if not of_one(row, versions[row["model_version"]])
            ],
            "not in the state": served.keys() - in_state,
            "in the state and not logged": in_state - served.keys(),
            "a label that is not there": [one for one in traffic.labelled if labels[one] == 0],
            "a label that is there twice": [one for one in traffic.labelled if labels[one] > 1],
        }
        return {what: sorted(ids)[:5] for what, ids in told.items() if ids}

    def not_as_rebuilt(self, plan: FeaturePlan) -> list[str]:
        """What differs between the state that the minutes left and one that is made again."""
        before = self._state(plan)
        self.mlops("rebuild-online")
        after = self._state(plan)
        return [one for one in sorted({*before, *after}) if before.get(one) != after.get(one)][:5]

    def _state(self, plan: FeaturePlan) -> dict[str, object]:
        with closing(serving_store(self.settings.serving_db)) as store:
            store.hold(FRAUD.subject, plan)
            with store.one_commit():
                return dict(contents(store.state))


def contents(state: OnlineState) -> Iterator[tuple[str, object]]:
    """Each event, and the vector of each customer and merchant after the last one."""
    for stream in state.plan.streams:
        for one in state.ids(stream, 0, 2**62):
            yield f"{stream} {one}", state.find(stream, one)
    at_us = (state.last_event_us("transactions") or 0) + 1
    for number in range(CUSTOMERS):
        keys = {"customer_id": f"C{number:06d}", "merchant_id": f"M{number % MERCHANTS:06d}"}
        yield str(keys), state.aggregates(keys, at_us)


def same(row: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether the log has what was answered."""
    return bool(
        row["fraud_score"] == answer["fraud_score"]
        and row["decision"] == answer["decision"]
        and row["review_threshold"] == answer["threshold"]
        and row["block_threshold"] == answer["block_threshold"]
        and row["model_version"] == answer["model_version"]
        and json.loads(row["reasons"]) == answer["reasons"]
    )


def of_one(row: dict[str, Any], release: Release) -> bool:
    """Whether version, thresholds and features of a decision are of one release."""
    return (row["review_threshold"], row["block_threshold"], tuple(json.loads(row["features"]))) == (
        release.policy.review,
        release.policy.block,
        release.features,
    )


@dataclass
class Traffic:
    """Requests at a fixed rate over a few connections. What fails is sent again with the same id."""

    port: int
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)
    hung_up: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    rows: int = 0
    _claimed: set[str] = field(default_factory=set)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        began = time.monotonic()

        def client() -> None:
            while not self._stop.is_set():
                with self._lock:
                    number, self.requests = self.requests, self.requests + 1
                time.sleep(max(0.0, began + number / RATE - time.monotonic()))
                try:
                    self._one(number)
                except Exception as error:
                    self.failed.append(repr(error))

        self._threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait until every request that was begun has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "rows": self.rows,
            "answers": len(self.answers),
            "labels": len(self.labelled),
            "retried": dict(self.retried),
            "failed": self.failed[:5],
        }

    def _one(self, number: int) -> None:
        rng = random.Random(number)
        kind = rng.choices(["one", "batch", "label", "gone"], [80, 8, 6, 6])[0]
        labelled = rng.choice(list(self.answers)[-200:]) if kind == "label" and self.answers else ""
        if kind == "label" and labelled and self._claim(labelled):
            at = from_us(START_US + number * STEP_US).isoformat()
            label = {"transaction_id": labelled, "is_fraud": True, "label_timestamp": at}
            if self._patiently("/labels", {"labels": [label]}) is not None:
                self.labelled.add(labelled)
        elif kind == "gone":
            self.hung_up.add(f"p{number}")
            self._send_and_go({"transaction": payment(number, rng)})
        elif kind == "batch":
            rows = [{"transaction": payment(number, rng, n)} for n in range(4)]
            self._count(len(rows))
            if (answer := self._patiently("/predict/batch", {"rows": rows})) is not None:
                for row in answer["rows"]:
                    assert row.pop("status") == 200, row
                    self.answers[row["prediction_id"]] = row
        else:
            self._count(1)
            answer = self._patiently("/predict", {"transaction": payment(number, rng)})
            if answer is not None:
                self.answers[answer["prediction_id"]] = answer

    def _claim(self, labelled: str) -> bool:
        """Whether no other client labels it: another moment would make another label."""
        with self._lock:
            is_new = labelled not in self._claimed
            self._claimed.add(labelled)
            return is_new

    def _count(self, rows: int) -> None:
        with self._lock:
            self.rows += rows

    def _patiently(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        content, began = json.dumps(body).encode(), time.monotonic()
        while True:
            status, answer = self._post(path, content)
            if status == 200:
                told = dict(json.loads(answer))
                again = [row for row in told.get("rows", ()) if row["status"] == 503]
                if not again:
                    return told
                status, answer = 503, json.dumps(again[0]).encode()
            if status not in (0, 503) or time.monotonic() > began + GIVE_UP_S:
                self.failed.append(f"{path} {status} {answer[:300]!r}")
                return None
            why = json.loads(answer)["detail"][0]["type"] if status else "no answer"
            with self._lock:
                self.retried[why] += 1
            self._hang_up()  # Another worker may take the next attempt.
            time.sleep(0.05)

    def _post(self, path: str, content: bytes) -> tuple[int, bytes]:
        if getattr(self._local, "connection", None) is None:
            self._local.left = REQUESTS_A_CONNECTION
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            self._local.connection.request("POST", path, content, {"Content-Type": "application/json"})
            response = self._local.connection.getresponse()
            answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()
        self._local.left -= 1
        if not self._local.left:
            self._hang_up()
        return answer

    def _hang_up(self) -> None:
        if getattr(self._local, "connection", None) is not None:
            self._local.connection.close()
            self._local.connection = None

    def _send_and_go(self, body: dict[str, Any]) -> None:
        with (
            suppress(OSError),
            closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection,
        ):
            connection.request(
                "POST", "/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )


def payment(number: int, rng: random.Random, row: int = 0) -> dict[str, Any]:
    return {
        "transaction_id": f"p{number}" if not row else f"p{number}-{row}",
        "event_timestamp": from_us(START_US + number * STEP_US + row).isoformat(),
        "customer_id": f"C{rng.randrange(CUSTOMERS):06d}",
        "merchant_id": f"M{rng.randrange(MERCHANTS):06d}",
        "amount": round(rng.lognormvariate(3, 1.5), 2),
    }


@dataclass
class Disasters:
    """What goes wrong, and when. One worker is never killed, so that its memory can be watched."""

    home: BadHome
    service: Running
    versions: list[str]
    seconds: float
    kill_every_s: float
    full_s: float
    traffic: Traffic
    killed: int = 0
    swaps: int = 0
    refused_by_the_disk: int = 0
    rebuilt: dict[str, Any] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def run(self) -> None:
        began = time.monotonic()
        veteran = self.service.workers()[0]
        rebuild, over = threading.Thread(target=self._rebuild), threading.Event()
        watch = threading.Thread(target=self._watch, args=(veteran, began, over))
        watch.start()
        due = {"swap": 1.0, "kill": self.kill_every_s, "rebuild": 0.2 * self.seconds}
        full_at_s = 0.6 * self.seconds if self.full_s else 2 * self.seconds
        while (now := time.monotonic() - began) < self.seconds:
            if now >= full_at_s:
                full_at_s = 2 * self.seconds
                self._fill_the_disk(veteran)
            elif now >= due["rebuild"]:
                due["rebuild"] = 2 * self.seconds
                rebuild.start()
            elif now >= due["kill"]:
                due["kill"] += self.kill_every_s if self._kill(veteran) else 0.2
            elif now >= due["swap"]:
                due["swap"] += SWAP_EVERY_S
                self.swaps += 1
                self.home.promote(self.versions[self.swaps % len(self.versions)])
            time.sleep(0.05)
        rebuild.join()
        over.set()
        watch.join()

    def _watch(self, veteran: int, began: float, over: threading.Event) -> None:
        """Note once a second what memory the worker has that is never killed."""
        while not over.wait(1.0):
            self.memory.append(((time.monotonic() - began) / self.seconds, anonymous_kb(veteran)))

    def figures(self) -> dict[str, Any]:
        early = [kb for share, kb in self.memory if 0.25 <= share < 0.5]
        late = [kb for share, kb in self.memory if share >= 0.85]
        served = Counter(one["model_version"] for one in self.traffic.answers.values())
        return {
            "killed": self.killed,
            "swaps": self.swaps,
            "versions": dict(served),
            "refused_by_the_disk": self.refused_by_the_disk,
            "rebuilt": self.rebuilt.get("row_count", 0),
            "memory_mb": [round(median(some) / 1_000) for some in (early, late)],
        }

    def _fill_the_disk(self, veteran: int) -> None:
        """For `full_s` seconds, and until somebody has met it. A worker that has clients dies meanwhile."""
        before, began, killed = self.traffic.retried["store_failed"], time.monotonic(), False
        with full(self.home.disk):
            while time.monotonic() < began + self.full_s or (
                self.traffic.retried["store_failed"] == before and time.monotonic() < began + GIVE_UP_S / 2
            ):
                killed = killed or self._kill(veteran)
                time.sleep(0.05)
                fill(self.home.disk)
        self.refused_by_the_disk = self.traffic.retried["store_failed"] - before

    def _kill(self, veteran: int) -> bool:
        """Kill a worker that has at least two clients. Returns whether there was one."""
        for pid in self.service.workers():
            worker = psutil.Process(pid)
            clients = [one for one in worker.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
            if pid != veteran and len(clients) >= 2:
                worker.kill()
                self.killed += 1
                return True
        return False

    def _rebuild(self) -> None:
        self.rebuilt = self.home.mlops("rebuild-online")


def anonymous_kb(pid: int) -> int:
    """The memory of a process without the pages of files, which SQLite maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
