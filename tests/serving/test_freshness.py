"""Two workers on one home: what one has answered, the other knows."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from serving_kit import JSON, START_US, Running, TinyRegistry, payment, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.contract.before_subjects import BEFORE
from serving.store.opening import serving_log

pytestmark = pytest.mark.slow

PAIRS, CUSTOMERS, MERCHANTS = 1_000, 20, 7
LABEL_EVERY = 25


def test_an_event_written_through_one_worker_is_in_the_next_vector_of_the_other(
    plan: FeaturePlan, tmp_path: Path, launch: Callable[..., Running]
) -> None:
    """Each payment of a customer goes to the other worker than the one before it, and so do batches. A label
    goes to the worker of its payment. The next payment of its merchant goes to the other worker three times
    out of four.
    """
    registry = TinyRegistry(tmp_path / "home")
    registry.promote(registry.register(tiny_release(plan), tmp_path / "scratch"))
    services = [launch(registry.home, "--clock", "event") for _ in range(2)]
    for service in services:
        service.wait()
    clients = [
        httpx.Client(base_url=f"http://127.0.0.1:{one.port}", headers=JSON, timeout=30) for one in services
    ]
    turns = {f"c{number}": cycle(clients if number % 2 else reversed(clients)) for number in range(CUSTOMERS)}
    expected: dict[str, tuple[int, int, int]] = {}
    customers, merchants, frauds = Counter[str](), Counter[str](), Counter[str]()

    def asked(number: int) -> dict[str, object]:
        """A payment a second: the windows of a day and of seven days hold all of them."""
        customer, merchant = f"c{number % CUSTOMERS}", f"m{number % MERCHANTS}"
        known = customers[customer], merchants[merchant], frauds[merchant]
        expected[f"t{number}"] = known
        customers[customer] += 1
        merchants[merchant] += 1
        keys = {"customer_id": customer, "merchant_id": merchant}
        return {"transaction": payment(number, event_timestamp=moment(number), **keys)}

    for number in range(0, 2 * PAIRS):
        client = next(turns[f"c{number % CUSTOMERS}"])
        if number % 50 == 49:
            batch = {"rows": [asked(number)]}
            (row,) = client.post("/predict/batch", json=batch).raise_for_status().json()["rows"]
            assert row["status"] == 200, row
        else:
            client.post("/predict", json=asked(number)).raise_for_status()
        if number % LABEL_EVERY == 0:
            told = {"transaction_id": f"t{number}", "is_fraud": True, "label_timestamp": moment(number)}
            client.post("/labels", json={"labels": [told]}).raise_for_status()
            frauds[f"m{number % MERCHANTS}"] += 1
    for client in clients:
        client.close()
    log = serving_log(registry.home / "serving" / "serving.db")
    rows = log.receipts(BEFORE, list(expected)).to_pylist()
    stale = {
        str(row["prediction_id"]): (found, wanted)
        for row in rows
        if (found := counts(json.loads(row["features"]))) != (wanted := expected[str(row["prediction_id"])])
    }
    assert len(rows) == 2 * PAIRS
    assert stale == {}


def moment(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START_US // 1_000_000 + number))


def counts(vector: dict[str, float]) -> tuple[int, int, int]:
    """The customer's payments and the merchant's, and the merchant's frauds that are known."""
    assert vector["num_txns_1d"] == vector["num_txns_7d"]
    assert vector["num_frauds_7d"] == vector["num_verdicts_7d"]
    return (
        int(vector["num_txns_1d"]),
        int(vector["merchant_num_txns_1d"]),
        int(vector["num_frauds_7d"]),
    )
