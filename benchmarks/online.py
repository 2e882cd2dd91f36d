"""One transaction's whole vector from the online state, and what its commit costs beside it; for comparison,
Feast's own SQLite store reading as many finished values.

`ratio_1` compares vectors whose keys are asked for the first time with Feast's reads: both read a file.
The ratios that end with `in_memory` compare vectors of keys that the state holds in memory.

Prints one JSON line.

python benchmarks/online.py [--events 600000] [--customers 5000] [--merchants 10000]
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import Loaded
from feature_repo.online.sqlite.rebuild import OnlineRebuild
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.store import open_store

ROUNDS = 3
QUESTIONS = 2_000
KEYS = 100  # asked in one go
DAYS, DAY_US = 90, 86_400_000_000
START_US = 1_522_540_800_000_000
END_US = START_US + DAYS * DAY_US
MATURITY_US = 7 * DAY_US
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "wal_autocheckpoint = 100000",
    "mmap_size = 1073741824",
)  # as the service opens its file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=600_000)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--merchants", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        plan = plan_from_feast(open_store(home, "feature_repo.fraud"), "fraud_v1")
        payments = Payments(np.random.default_rng(7), asked.events, asked.customers, asked.merchants)
        with closing(sqlite3.connect(home / "state.db", isolation_level=None)) as connection:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            filled = timed(lambda: fill(connection, plan, payments))
            ours = measured(connection, plan, payments)
        theirs = feast_on_sqlite(home, len(plan.features))
    result = {
        "benchmark": "online",
        "events": asked.events,
        "features": len(plan.features),
        "rounds": ROUNDS,
        "fill_seconds": round(filled, 1),
        **ours,
        "feast_sqlite": theirs,
        "ratio_1": round(theirs["vector_us"]["p50"] / ours["vector_from_file_us"]["p50"], 1),
        "ratio_1_in_memory": round(theirs["vector_us"]["p50"] / ours["vector_us"]["p50"], 1),
        "ratio_100_in_memory": round(theirs["vectors_100_us"] / ours["vectors_100_us"], 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


class Payments:
    """Handbook-like: every customer pays now and then at merchants of their own choice; a verdict follows a
    week after, as silence does.
    """

    def __init__(self, rng: np.random.Generator, events: int, customers: int, merchants: int) -> None:
        # The payments after the end of the state are the ones that ask and are then added.
        n = events + QUESTIONS * (ROUNDS + 1)
        past = np.sort(rng.integers(START_US, END_US, events))
        future = END_US + 1_000_000 * np.arange(1, n - events + 1)
        self.events = events
        self.times: NDArray[np.int64] = np.concatenate([past, future])
        self.customers, self.merchants = rng.integers(0, customers, n), rng.integers(0, merchants, n)
        self.amounts = np.round(rng.lognormal(3.5, 0.9, n), 2)
        self.declined, self.fraud = rng.random(n) < 0.02, rng.random(n) < 0.008

    def payment(self, i: int) -> Loaded:
        at = int(self.times[i])
        return (
            f"t{i}",
            {**self.ids(i), "amount": float(self.amounts[i]), "is_declined": bool(self.declined[i])},
            at,
            at,
        )

    def verdict(self, i: int) -> Loaded:
        at = int(self.times[i]) + MATURITY_US
        return (
            f"t{i}:{at}",
            {**self.ids(i), "amount": float(self.amounts[i]), "is_fraud": bool(self.fraud[i])},
            at,
            at,
        )

    def ids(self, i: int) -> dict[str, str]:
        return {"customer_id": f"C{self.customers[i]:06}", "merchant_id": f"M{self.merchants[i]:06}"}


def fill(connection: sqlite3.Connection, plan: FeaturePlan, payments: Payments) -> None:
    with OnlineRebuild(connection, plan) as rebuild:
        rebuild.load("transactions", map(payments.payment, range(payments.events)))
        rebuild.load("verdicts", map(payments.verdict, range(payments.events)))
        rebuild.pack(END_US)
        rebuild.switch()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measured(connection: sqlite3.Connection, plan: FeaturePlan, payments: Payments) -> dict[str, Any]:
    """A payment as the service takes it: one transaction with the vector, the versions that it read, and both
    events. What is due of the packs is done between two payments. Every key was asked before, and is held in
    memory as far as that goes.
    """
    state = SqliteOnlineState(connection, plan)
    from_file = asked_first(state, payments)
    rounds: list[tuple[list[float], list[float], list[float]]] = [([], [], []) for _ in range(ROUNDS + 1)]
    for n, (vectors, commits, packing) in enumerate(rounds):
        for i in range(payments.events + n * QUESTIONS, payments.events + (n + 1) * QUESTIONS):
            payment, verdict = payments.payment(i), payments.verdict(i)
            keys, at_us = payments.ids(i), payment[2]
            began = time.perf_counter()
            with state.transaction():
                asked = time.perf_counter()
                state.vector(keys, at_us, {"amount": float(payments.amounts[i]), "event_time_us": at_us})
                answered = time.perf_counter()
                state.versions(keys)
                state.push("transactions", *payment)
                state.push("verdicts", *verdict)
            committed = time.perf_counter()
            vectors.append(answered - asked)
            commits.append(committed - began - (answered - asked))
            if state.due:
                with state.transaction():
                    state.settle()
                packing.append(time.perf_counter() - committed)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    several = [payments.ids(i) for i in range(KEYS)]
    at_us = int(payments.times[-1])

    def all_of_them() -> None:
        with state.transaction():
            for keys in several:
                state.vector(keys, at_us, {"amount": 1.0, "event_time_us": at_us})

    all_of_them()
    return {
        "vector_us": middle([vectors for vectors, _, _ in rounds[1:]]),
        "vector_from_file_us": middle([from_file]),
        "commit_us": middle([commits for _, commits, _ in rounds[1:]]),
        "packing_a_payment_us": round(
            sum(sum(packing) for _, _, packing in rounds[1:]) / (ROUNDS * QUESTIONS) * 1e6, 1
        ),
        f"vectors_{KEYS}_us": round(median(timed(all_of_them) for _ in range(ROUNDS)) * 1e6),
    }


def asked_first(state: SqliteOnlineState, payments: Payments) -> list[float]:
    """How long each payment's vector took when all of its keys were asked for the first time."""
    seconds, known = [], set[str]()
    with state.transaction():
        pass
    for i in range(payments.events):
        keys = payments.ids(i)
        new = known.isdisjoint(keys.values())
        if known.issuperset(keys.values()):
            continue
        known.update(keys.values())
        with state.transaction():
            took = timed(
                lambda keys=keys: state.vector(keys, END_US, {"amount": 1.0, "event_time_us": END_US})
            )  # type: ignore[misc]
        if new:
            seconds.append(took)
    return seconds


def feast_on_sqlite(home: Path, features: int) -> dict[str, Any]:
    """Feast's store with its own file: one row a key, as many finished values as the vector has."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import RepoConfig
    from feast.types import Float64

    config = RepoConfig(
        project="beside",
        provider="local",
        registry=str(home / "beside.db"),
        online_store=SqliteOnlineStoreConfig(path=str(home / "feast.db")),
        entity_key_serialization_version=3,
    )
    config.repo_path = home
    names = [f"f{i}" for i in range(features)]
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(home / "nothing.parquet"), timestamp_field="event_timestamp")
    table = FeatureView(
        name="values",
        entities=[customer],
        schema=[Field(name=n, dtype=Float64) for n in names],
        source=source,
    )
    store = SqliteOnlineStore()
    store.update(config, [], [table], [], [], partial=False)
    keys = [
        EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=f"C{i:06}")])
        for i in range(1_000)
    ]
    now = datetime(2025, 1, 1, tzinfo=UTC)
    row = {name: Value(double_val=i / 7) for i, name in enumerate(names)}
    store.online_write_batch(
        config, table, [(key, row, now, now + timedelta(seconds=1)) for key in keys], None
    )

    def ask(keys: list[EntityKey]) -> None:
        found = store.online_read(config, table, keys, names)
        if any(values is None or len(values) != features for _, values in found):
            raise RuntimeError("Feast's store did not find what was written to it")

    rounds = [[timed(lambda key=key: ask([key])) for key in keys] for _ in range(ROUNDS + 1)]  # type: ignore[misc]
    return {
        "vector_us": middle(rounds[1:]),
        f"vectors_{KEYS}_us": round(median(timed(lambda: ask(keys[:KEYS])) for _ in range(ROUNDS)) * 1e6),
    }


def middle(rounds: list[list[float]]) -> dict[str, float]:
    """Medians over the rounds of each one's percentiles, in microseconds."""
    return {
        f"p{p}": round(median(float(np.percentile(seconds, p)) for seconds in rounds) * 1e6, 1)
        for p in (50, 99)
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
