"""What one worker has accepted, another one sees in the next request of the key."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from serving_kit import (
    ALLOW_ALL,
    START_US,
    Running,
    TinyRegistry,
    fraud_service_plan,
    payment,
    start,
    tiny_release,
)

from benchmarks.load.clients.pairs import KEYS, send_pairs, stale_ids
from benchmarks.load.servers import workers_of

PAIRS = 150
BEGIN = datetime.fromtimestamp(START_US / 1e6, UTC) + timedelta(hours=1)


def wait_for_both(service: Running) -> None:
    until = time.monotonic() + 60
    while service.log.read_text().count("serving version") < 2:
        assert time.monotonic() < until, service.log.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_no_answer_of_a_thousand_is_stale_where_another_worker_took_the_event(tmp_path: Path) -> None:
    home, plan = tmp_path / "home", fraud_service_plan()
    registry = TinyRegistry(home)
    registry.promote(registry.register(tiny_release(plan, policy=ALLOW_ALL), tmp_path))
    service = start(home, "--clock", "event", "--workers", "2")
    try:
        service.wait()
        wait_for_both(service)
        workers = workers_of(service.process.pid)
        assert len(workers) == 2
        visible, _ = send_pairs(service.port, workers, PAIRS, BEGIN)
        # An event of a key that nobody has written to is what a stale answer would look like.
        alone = payment(customer_id="pair-alone", transaction_id=f"scored-{PAIRS:08d}")
        assert service.client.post("/predict", json={"transaction": alone}).status_code == 200
    finally:
        service.stop()
    assert KEYS > PAIRS
    database = home / "serving" / "serving.db"
    assert stale_ids(database, PAIRS) == []
    assert stale_ids(database, PAIRS + 1) == [f"scored-{PAIRS:08d}"]
    assert 0 < visible["p50"] <= visible["max"]
