"""What the tests of the service are made of: a tiny champion, a real MLflow registry for it, and the service
as a process of its own.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.before_subjects import BEFORE
from serving.contract.bounds import Bounds
from serving.contract.bundle import Release, as_row, write_release
from serving.contract.policy import Policy
from serving.contract.records import Answer
from serving.contract.scorers.lightgbm import Calibrator, Scorer
from serving.contract.subject import Subject
from serving.data_plane import DataPlane
from serving.messages import ReadyVector, ScoredEvent
from serving.releases import Champion
from serving.settings import Limits, ServingSettings
from serving.store.base import ServingLog
from serving.store.opening import serving_log, serving_store
from serving.store.sqlite.writing import SqliteServingStore
from serving.store.upkeep import Upkeep

ROOT = Path(__file__).parents[1]
DAY_US, MINUTE_US = 86_400_000_000, 60_000_000
START_US = 1_522_540_800_000_000  # 2018-04-01
ALLOW_ALL, BLOCK_ALL, REVIEW_ALL = Policy(2.0, 3.0), Policy(0.0, 0.0), Policy(0.0, 2.0)
JSON = {"content-type": "application/json"}


def fraud_service_plan() -> FeaturePlan:
    """The fraud service's plan from its Feast declarations, without a registry."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import StreamFeatureView
        from feast.on_demand_feature_view import OnDemandFeatureView

        from feature_repo.fraud import services, views
    declared = list(vars(views).values())
    store = SimpleNamespace(
        get_feature_service=lambda name: services.fraud_v1,
        list_stream_feature_views=lambda: [v for v in declared if isinstance(v, StreamFeatureView)],
        list_on_demand_feature_views=lambda: [v for v in declared if isinstance(v, OnDemandFeatureView)],
    )
    return plan_from_feast(store, "fraud_v1")


def tiny_release(plan: FeaturePlan, seed: int = 0, policy: Policy | None = None, trees: int = 5) -> Release:
    """A real LightGBM model of a few trees on random vectors; the seed tells versions apart."""
    import lightgbm

    rng = np.random.default_rng(seed)
    matrix = rng.gamma(2.0, 20.0, size=(500, len(plan.features)))
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    target = (np.nan_to_num(matrix[:, rng.integers(len(plan.features), size=3)]).sum(axis=1) > 150).astype(
        int
    )
    parameters = {
        "objective": "binary",
        "num_leaves": 7,
        "verbose": -1,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
    }
    booster = lightgbm.train(
        parameters, lightgbm.Dataset(matrix, target, feature_name=list(plan.features)), trees
    )
    text, calibrator = booster.model_to_string(), Calibrator(1.0 + seed / 100, -0.1)
    vectors = [[None if v != v else v for v in row] for row in matrix[:20].tolist()]
    scores = Scorer(text, calibrator).score(np.array([as_row(v) for v in vectors])).tolist()
    # Each version has thresholds of its own, so that a mixture of two generations in one response shows.
    policy = policy or Policy(review=0.3 + seed / 1000, block=0.9)
    return Release(
        BEFORE, plan, plan.features, text, calibrator, policy, 7.0, {"seed": seed}, (vectors, scores)
    )


REFERENCE = pa.table({"score": [0.1, 0.2]})
ONNX_FILE = b"the service never reads it"


@dataclass
class TinyRegistry:
    """An MLflow registry under a home, as the trainer leaves it."""

    home: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home}/mlflow/mlflow.db"

    def register(
        self,
        release: Release,
        scratch: Path,
        spoil: Callable[[Path], None] | None = None,
        digest: str | None = None,
    ) -> str:
        """Log a bundle as a run's artifact `bundle`, register it, tag it; returns the version.

        `spoil` damages the bundle on its way.
        """
        from mlflow import MlflowClient

        (self.home / "mlflow").mkdir(parents=True, exist_ok=True)
        written = write_release(release, scratch / "bundle", REFERENCE, ONNX_FILE)
        if spoil:
            spoil(scratch / "bundle")
        client = MlflowClient(self.uri, self.uri)
        experiment = client.get_experiment_by_name("tiny")
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment("tiny", artifact_location=f"file://{self.home}/mlflow/artifacts")
        )
        run = client.create_run(experiment_id)
        client.log_artifacts(run.info.run_id, str(scratch / "bundle"), "bundle")
        client.set_terminated(run.info.run_id)
        if not client.search_registered_models("name = 'fraud'"):
            client.create_registered_model("fraud")
        tags = {"bundle_digest": digest or written}
        return str(
            client.create_model_version(
                "fraud", f"runs:/{run.info.run_id}/bundle", run.info.run_id, tags=tags
            ).version
        )

    def promote(self, version: str) -> None:
        from mlflow import MlflowClient

        MlflowClient(self.uri, self.uri).set_registered_model_alias("fraud", "champion", version)


@dataclass
class Running:
    """The service as a process of its own."""

    home: Path
    port: int
    process: subprocess.Popen[str]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, headers=JSON)

    def wait(self, path: str = "/health/ready", status: int = 200, seconds: float = 120) -> httpx.Response:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the service ended with {self.process.returncode}: {self.log.read_text()}"
                )
            try:
                if (response := self.client.get(path)).status_code == status:
                    return response
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status}: {self.log.read_text()}")

    def wait_for_version(self, version: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.client.get("/health").json()["model_version"] == version:
                return
            time.sleep(0.05)
        raise AssertionError(f"version {version} never served: {self.log.read_text()}")

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
            raise

    def workers(self) -> list[int]:
        """The processes of the workers, the eldest first. Python's own resource tracker is a child too."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # It died this moment.
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append((child.create_time(), child.pid))
        return [pid for _, pid in sorted(found)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(home: Path, *arguments: str, program: Sequence[str] = ("-m", "serving")) -> Running:
    """The service on a free port; `program` is what Python runs with the service's arguments."""
    port, log = free_port(), home / f"serving-{time.time_ns()}.log"
    home.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        *program,
        "--home",
        str(home),
        "--port",
        str(port),
        "--poll",
        "0.1",
        *arguments,
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return Running(home, port, process, log)


def payment(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A transaction as a client sends it, one a minute."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START_US // 1_000_000 + 60 * number))
    return {
        "transaction_id": f"t{number}",
        "event_timestamp": moment,
        "customer_id": f"c{number % 7}",
        "merchant_id": f"m{number % 5}",
        "amount": 10.0 + number % 90,
        **changes,
    }


def paid(
    number: int, at_us: int | None = None, customer: str = "c", merchant: str = "m", amount: float = 10.0
) -> ScoredEvent:
    """A transaction as the data plane takes it, one a minute."""
    at_us = START_US + number * MINUTE_US if at_us is None else at_us
    return transaction(f"t{number}", at_us, customer, merchant, amount)


def transaction(
    name: str,
    at_us: int,
    customer: str,
    merchant: str,
    amount: float,
    is_declined: bool = False,
    created_us: int | None = None,
) -> ScoredEvent:
    values = {
        "customer_id": customer,
        "merchant_id": merchant,
        "amount": amount,
        "is_declined": is_declined,
    }
    return ScoredEvent(name, at_us, values, created_us)


def count_from_zero(database: Path) -> None:
    """Let the versions of a file that holds no release yet begin at 0, so that two files can be compared."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE online_epoch SET began_us = 0")


def logged_decisions(database: Path, day: str, subject: Subject = BEFORE) -> pa.Table:
    """The decisions of a day on record."""
    return serving_log(database).decisions(day, subject)


def logged_labels(database: Path, day: str, subject: Subject = BEFORE) -> pa.Table:
    """The labels of a day on record."""
    return serving_log(database).labels(day, subject)


def predicted(plane: DataPlane, row: ScoredEvent | ReadyVector) -> Answer:
    """The answer to a row that comes alone. Raises why there is none."""
    (outcome,) = plane.predict_many([row])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class Bench:
    """A plane on event time (or a wall clock that the test sets) whose champion can be changed."""

    def __init__(
        self,
        home: Path,
        champion: Champion | None,
        clock: str = "event",
        limits: Limits | None = None,
        fsync: bool = False,
    ) -> None:
        self.settings = ServingSettings(home, clock=clock, limits=limits or Limits())  # type: ignore[arg-type]
        self.champion, self.now_us = champion, START_US
        self.store = SqliteServingStore(self.settings.database, fsync)
        self.plane = DataPlane(self.settings, self.store, lambda: self.champion, lambda: self.now_us)

    def predict(self, row: ScoredEvent | ReadyVector) -> Answer:
        return predicted(self.plane, row)

    def upkeep(self) -> Upkeep:
        """The housekeeping of the store, not started yet."""
        opened = partial(serving_store, self.settings.database, patient=True)
        return Upkeep(
            opened,
            lambda: self.champion.release if self.champion else None,
            self.plane.counts,
            self.plane.between_requests,
        )

    def turn(self, at_us: int) -> None:
        """Put event time where a person wants it, as `--now` does."""
        self.connection.execute("UPDATE sequence SET clock_us = ?, newest_us = ?", (at_us, at_us))

    @property
    def log(self) -> ServingLog:
        """What is on record, as others read it."""
        return serving_log(self.settings.database)

    def decisions(self, day: str) -> pa.Table:
        """The decisions of a day on record, of the use case before there were others."""
        return self.log.decisions(day, BEFORE)

    def labels(self, day: str) -> pa.Table:
        """The labels of a day on record, of the use case before there were others."""
        return self.log.labels(day, BEFORE)

    @property
    def connection(self) -> sqlite3.Connection:
        return self.store.connection

    def verdicts(self, transaction_id: str) -> list[tuple[int, bool]]:
        assert self.champion is not None
        events = SqliteOnlineState(self.connection, self.champion.release.plan).find_of(
            "verdicts", transaction_id
        )
        return sorted((int(str(e["event_us"])), bool(e["is_fraud"])) for e in events)


def bounded(champion: Champion, **bounds: Any) -> Champion:
    """The champion under other bounds, by their keys in the configuration."""
    return replace(champion, release=replace(champion.release, bounds=Bounds.from_dict(bounds)))


def with_policy(release: Release, review: float, block: float) -> Release:
    return replace(release, policy=Policy(review, block))


def deciding(champion: Champion, policy: Policy, version: str = "2") -> Champion:
    return replace(champion, version=version, release=replace(champion.release, policy=policy))
