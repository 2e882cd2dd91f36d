"""Days of payments through the service on a bad day, and the proof that nothing was lost and every vector was
right.

python benchmarks/replay.py --data DIR --from 2018-07-18 --to 2018-07-24

History up to the first day, a trained champion, then every payment and label of the days over HTTP to two
worker processes. In the middle one worker is killed with SIGKILL, and the online state is rebuilt from the
lake while the payments go on. Clients retry what got no answer, with the same id. In the end the days are
ingested from the service's log and every served vector is recomputed. Some decisions are made again with
`mlops replay`, once from the log and once from the lake. Prints one JSON line; exit 1 where anything does not
hold.
"""

from __future__ import annotations

import argparse
import heapq
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from load.servers import workers_of

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port, running, wait_until_ready
from mlops_assets.resources.lake import day_range

ROOT = Path(__file__).parents[1]
CONNECTIONS = 8
GIVE_UP_S = 60.0  # a request that got no answer for so long has failed
REPLAYED = 1_000  # decisions, at most
KILL_AFTER_S = 0.2  # of the rebuild
SLOW_S = 0.25  # what a payment may wait for the lock of the state


class FailedReplay(Exception):
    """A step before the measured replay failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "docs" / "handbook.toml",
        help="the platform's configuration (docs/handbook.toml)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="the folder of the source's files, where it is not the configured one",
    )
    parser.add_argument(
        "--from",
        dest="first",
        type=date.fromisoformat,
        default=date(2018, 7, 18),
        metavar="D",
        help="first served day",
    )
    parser.add_argument(
        "--to",
        dest="last",
        type=date.fromisoformat,
        default=date(2018, 7, 24),
        metavar="D",
        help="last served day",
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    text = options.config.read_text(encoding="utf-8")
    if options.data:
        text = "\n".join(
            f"path = {json.dumps(str(options.data.resolve()))}" if line.startswith("path = ") else line
            for line in text.splitlines()
        )
    with tempfile.TemporaryDirectory() as folder:
        platform = ReplayedPlatform(Path(folder), text, options.config.parent)
        if missing := platform.missing_data():
            print(
                json.dumps(
                    {
                        "benchmark": "replay",
                        "skipped": f"the data is not in {missing}; name its folder with --data",
                    }
                )
            )
            return 0
        figures = replay(platform, options.first, options.last, options.workers)
    print(json.dumps({"benchmark": "replay", **figures}))
    return 0 if figures["holds"] else 1


def replay(platform: ReplayedPlatform, first: date, last: date, workers: int) -> dict[str, Any]:
    begin, before = platform.settings.time.start.isoformat(), (first - timedelta(days=1)).isoformat()
    say(f"history: {begin} to {before}")
    platform.mlops("backfill", "--from", begin, "--to", before)
    say(f"the champion, as of {first}")
    trained = platform.mlops("train", "--as-of", first.isoformat())
    if trained["verdict"] != "promoted":
        raise FailedReplay(f"the gate refused the version that was to serve: {trained['reasons']}")
    port, log = free_port(), platform.folder / "serving.log"
    words = [
        "serving",
        "--home",
        str(platform.home),
        "--port",
        str(port),
        "--workers",
        str(workers),
        "--clock",
        "event",
        "--poll",
        "0.5",
    ]
    with running("the scoring service", words, log) as service:
        wait_until_ready(service, port, log)
        wait_for_workers(log, workers)
        bad_day = BadDay(platform, first, last, service.pid)
        traffic = ReplayTraffic(port, bad_day)
        started = time.monotonic()
        for number, day in enumerate(
            date.fromisoformat(one) for one in day_range(first.isoformat(), last.isoformat())
        ):
            bad_day.reached(day)
            traffic.send(platform.messages(day, labels_from=first if number else date.min))
            say(f"{day}: {len(traffic.latencies):,} requests, {traffic.retries} retries")
        bad_day.join()
        seconds = time.monotonic() - started
    say(f"making up to {REPLAYED:,} decisions again from the log")
    replayed = {"from the log": platform.replayed()}
    say("ingesting the served days, and recomputing every vector")
    days = ("--from", first.isoformat(), "--to", last.isoformat())
    platform.mlops("backfill", *days)
    platform.mlops("backfill", *days, "--group", "monitoring")
    lake = Lake(platform.settings.lake_root)
    parity = [
        m.metadata for m in lake.manifests("feature_parity", day_range(first.isoformat(), last.isoformat()))
    ]
    numbers = {
        name: sum(p[name] for p in parity) for name in ("compared", "mismatches", "explained_late", "missing")
    }
    replayed["from the lake"] = platform.replayed()
    lost = lost_events(platform, lake, traffic, first, last)
    during = [latency for at, latency in traffic.timed if bad_day.rebuild_from <= at <= bad_day.rebuild_to]
    holds = not (
        numbers["mismatches"] or numbers["missing"] or any(lost.values()) or traffic.failed
    ) and numbers["compared"] == len(traffic.sent)
    holds = holds and all(one["identical"] == one["decisions"] for one in replayed.values())
    return {
        "days": f"{first} to {last}",
        "workers": workers,
        "payments": len(traffic.sent),
        "labels": traffic.labels,
        "killed_worker": bad_day.killed,
        "rebuild": {
            "seconds": bad_day.rebuilt["seconds"],
            "events": bad_day.rebuilt["row_count"],
            "requests_meanwhile": len(during),
            **quantiles_ms(during),
        },
        "requests_per_second": round(len(traffic.latencies) / seconds),
        **quantiles_ms(traffic.latencies),
        "retries": traffic.retries,
        "failed": traffic.failed,
        "parity": {**numbers, "late_s": max(p["late_s"] for p in parity)},
        "replayed": replayed,
        "lost": lost,
        "holds": holds,
    }


@dataclass
class ReplayedPlatform:
    """A home of its own with a configuration, and the command on it."""

    folder: Path
    text: str
    base: Path

    def __post_init__(self) -> None:
        from mlops_assets.resources.environments import load_settings
        from mlops_assets.sources.source_kinds import open_source
        from mlops_assets.use_cases import USE_CASES

        self.home, self.config = self.folder / "home", self.folder / "mlops.toml"
        self.config.write_text(self.text, encoding="utf-8")
        os.environ.update(MLOPS_HOME=str(self.home), MLOPS_CONFIG=str(self.config), DO_NOT_TRACK="true")
        os.environ.pop("DAGSTER_HOME", None)
        self.settings = load_settings()
        self.source = open_source(USE_CASES[self.settings.use_case], self.settings.source, self.base)

    def missing_data(self) -> Path | None:
        if self.settings.source["kind"] != "files":
            return None
        folder = self.base / self.settings.source["path"]
        return None if folder.is_dir() and any(folder.iterdir()) else folder

    def mlops(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "mlops_assets", *words, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FailedReplay(f"mlops {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        return dict(answer)

    def replayed(self) -> dict[str, Any]:
        """How many decisions were made again, and the first that are not identical."""
        words = ["replay", "--sample", str(REPLAYED), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "mlops_assets", *words], capture_output=True, text=True, check=False
        )
        if not done.stdout:
            raise FailedReplay(f"mlops replay: {done.stderr[-2000:]}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        others = [one for one in told.pop("replayed") if one["result"] != "identical"]
        return {**told, "examples": others[:3]}

    def messages(self, day: date, labels_from: date) -> Iterator[tuple[str, dict[str, Any]]]:
        """The payments of a day and the labels that become known on it, by time."""
        payments = (
            (row["created_timestamp"], "/predict", {"transaction": _payment(row)})
            for row in self._rows("transactions", day)
        )
        labels = (
            (row["label_timestamp"], "/labels", {"labels": [_label(row)]})
            for row in self._rows("labels", day)
        )
        for _, path, body in heapq.merge(payments, labels, key=lambda message: message[0]):
            yield path, body

    def _rows(self, what: str, day: date) -> list[dict[str, Any]]:
        table = self.source.rows(what, day, day)
        column = "created_timestamp" if what == "transactions" else "label_timestamp"
        return list(table.sort_by([(column, "ascending"), ("transaction_id", "ascending")]).to_pylist())


@dataclass
class BadDay:
    """What goes wrong, and when: on the middle day the days before it are ingested, the state is rebuilt, and
    a worker dies meanwhile.
    """

    platform: ReplayedPlatform
    first: date
    last: date
    supervisor: int
    killed: int = 0
    rebuild_from: float = 0.0
    rebuild_to: float = 0.0
    rebuilt: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    _thread: threading.Thread | None = None

    def reached(self, day: date) -> None:
        """On the day in the middle: the lake takes in the days before it, the rebuild begins, and traffic
        goes on into it.
        """
        middle = max(self.first + (self.last - self.first) // 2, self.first + timedelta(days=1))
        if day != middle:
            return
        self.platform.mlops(
            "backfill", "--from", self.first.isoformat(), "--to", (day - timedelta(days=1)).isoformat()
        )
        self._thread = threading.Thread(target=self._rebuild)
        self._thread.start()
        while not self._begun() and self._thread.is_alive():
            time.sleep(0.01)
        self.rebuild_from = time.monotonic()
        threading.Timer(KILL_AFTER_S, self._kill).start()

    def join(self) -> None:
        if self._thread is None:
            raise FailedReplay("the bad day needs at least two days")
        self._thread.join()
        if self.error:
            raise self.error

    def _rebuild(self) -> None:
        try:
            self.rebuilt = self.platform.mlops("rebuild-online")
            self.rebuild_to = time.monotonic()
        except Exception as error:
            self.error = error

    def _begun(self) -> bool:
        from feature_repo.online.sqlite.generations import standing

        with closing(sqlite3.connect(self.platform.settings.serving_db, timeout=10)) as connection:
            return standing(connection).building is not None

    def _kill(self) -> None:
        self.killed = workers_of(self.supervisor)[0]
        os.kill(self.killed, signal.SIGKILL)
        say(f"killed worker {self.killed}")


@dataclass
class ReplayTraffic:
    """Payments over several kept-alive connections, in order but not one after the other; what got no answer
    is sent again.
    """

    port: int
    bad_day: BadDay
    sent: list[str] = field(default_factory=list)
    labels: int = 0
    retries: int = 0
    failed: int = 0
    timed: list[tuple[float, float]] = field(
        default_factory=list
    )  # when, and how long the answer took, the retries included
    _local: threading.local = field(default_factory=threading.local)

    @property
    def latencies(self) -> list[float]:
        return [latency for _, latency in self.timed]

    def send(self, messages: Iterator[tuple[str, dict[str, Any]]]) -> None:
        lock = threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    message = next(messages, None)
                if message is None:
                    return
                self._one(*message)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for done in [pool.submit(client) for _ in range(CONNECTIONS)]:
                done.result()

    def _one(self, path: str, body: dict[str, Any]) -> None:
        content, started = json.dumps(body).encode(), time.monotonic()
        while True:
            status, answer = self._post(path, content)
            if status == 200:
                break
            if status not in (0, 503) or time.monotonic() > started + GIVE_UP_S:
                self.failed += 1
                say(f"{path}: {status} {answer[:200]!r}")
                return
            self.retries += 1
            time.sleep(0.02)
        self.timed.append((started, time.monotonic() - started))
        if path == "/predict":
            self.sent.append(body["transaction"]["transaction_id"])
        else:
            self.labels += 1

    def _post(self, path: str, content: bytes) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(
                "127.0.0.1", self.port, timeout=10
            )
        try:
            connection.request("POST", path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._local.connection = None
            return 0, str(error).encode()


def lost_events(
    platform: ReplayedPlatform, lake: Lake, traffic: ReplayTraffic, first: date, last: date
) -> dict[str, int]:
    """Answered payments that are not exactly once in the log, in the lake and in the online state."""
    from feature_repo.online.sqlite.generations import standing
    from feature_repo.online.sqlite.queries import table_name

    sent = set(traffic.sent)
    days = lake.between("transactions", first.isoformat(), (last + timedelta(days=1)).isoformat())
    in_lake = lake.read("transactions", days, ["transaction_id"]).column("transaction_id").to_pylist()
    connection = sqlite3.connect(platform.settings.serving_db)
    logged = [
        name
        for (name,) in connection.execute("SELECT prediction_id FROM decisions WHERE kind = 'transaction'")
    ]
    online = table_name("transactions", standing(connection).current)
    in_state = {name for (name,) in connection.execute(f"SELECT event_id FROM {online}")}
    connection.close()
    return {
        "sent_twice": len(traffic.sent) - len(sent),
        "not_in_log": len(sent - set(logged)),
        "twice_in_log": len(logged) - len(set(logged)),
        "not_in_lake": len(sent - set(in_lake)),
        "twice_in_lake": len(in_lake) - len(set(in_lake)),
        "not_in_state": len(sent - in_state),
    }


def wait_for_workers(log: Path, workers: int) -> None:
    until = time.monotonic() + 120
    while log.read_text().count("serving version") < workers:
        if time.monotonic() > until:
            raise FailedReplay(f"not all of {workers} workers came up: {log.read_text()[-500:]}")
        time.sleep(0.2)


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {
        "p50_ms": round(p50 * 1e3, 2),
        "p99_ms": round(p99 * 1e3, 2),
        "max_ms": round(max(seconds) * 1e3),
        "over_250_ms": sum(s > SLOW_S for s in seconds),
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _payment(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: row[name] for name in ("transaction_id", "customer_id", "merchant_id", "amount", "is_declined")
    }
    return {
        **kept,
        "event_timestamp": row["event_timestamp"].isoformat(),
        "created_timestamp": row["created_timestamp"].isoformat(),
    }


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "transaction_id": row["transaction_id"],
        "is_fraud": row["is_fraud"],
        "label_timestamp": row["label_timestamp"].isoformat(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
