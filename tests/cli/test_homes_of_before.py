"""A home that an earlier version made, with bundles of format 3, works on: see tests/data/README.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from old_homes import unpack_home
from test_cli import Platform

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.registry import registry_of

pytestmark = pytest.mark.slow

LAST, AS_OF = "2025-03-21", "2025-03-21"


@pytest.fixture
def before(tmp_path: Path) -> Platform:
    """The stored home, unpacked."""
    unpack_home(tmp_path)
    return Platform(tmp_path)


@contextmanager
def serving(platform: Platform) -> Iterator[httpx.Client]:
    """The scoring service on the home, on event time."""
    port = free_port()
    environment = {
        **os.environ,
        "MLOPS_HOME": str(platform.home),
        "MLOPS_CONFIG": str(platform.config),
        "MLOPS_SERVING_AUTH": "none",
    }
    words = ["-m", "mlops_assets", "serve", "--port", str(port), "--clock", "event"]
    with (
        subprocess.Popen([sys.executable, *words], cwd=platform.folder, env=environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            until = time.monotonic() + 120
            while not _is_healthy(client):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
            yield client
        finally:
            process.terminate()


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def exchanges(platform: Platform) -> list[dict[str, Any]]:
    """The requests that the earlier version answered, with its answers."""
    return list(json.loads((platform.folder / "answers.json").read_text()))


def test_status_and_history_read_it(before: Platform) -> None:
    told = before.result("status")
    assert told["champion"] == {"version": "2", "as_of": AS_OF}
    assert told["datasets"]["transactions"]["last"] == LAST
    decided = [(entry["kind"], entry["version"]) for entry in before.result("history")["entries"]]
    assert [version for kind, version in decided if kind == "promoted"] == ["1", "2"]
    assert before.result("doctor")["databases"].endswith("can be read")


def test_a_decision_of_before_is_answered_again_and_a_new_one_is_logged_beside_it(before: Platform) -> None:
    with serving(before) as client:
        for exchange in exchanges(before):
            again = client.post("/predict", json=exchange["asked"])
            assert again.status_code == 200, again.text
            assert again.json() == exchange["answer"]
        asked = json.loads(json.dumps(exchanges(before)[3]["asked"]).replace("before-3", "after-3"))
        asked["transaction"]["event_timestamp"] = "2025-03-22T09:00:00Z"
        answer = client.post("/predict", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == exchanges(before)[3]["answer"]["model_version"]
        label = {
            "transaction_id": "after-3",
            "is_fraud": False,
            "label_timestamp": "2025-03-22T12:00:00Z",
        }
        labelled = client.post("/labels", json={"labels": [label]})
        assert labelled.json()["labels"][0]["known"] is True
    assert before.result("replay", "before-3", "after-3")["identical"] == 2


def test_a_rollback_returns_to_its_first_version_which_serves(before: Platform) -> None:
    assert before.result("rollback", "--reason", "too many alarms")["to"] == "1"
    with serving(before) as client:
        assert str(client.get("/health").json()["model_version"]) == "1"
        stored = exchanges(before)[0]
        assert client.post("/predict", json=stored["asked"]).json() == stored["answer"], "it was answered"


def test_training_goes_on_and_the_same_days_give_the_same_training_set(before: Platform) -> None:
    settings = load_settings(before.config, before.home)
    recorded = registry_of(settings).version("2").tags
    told = before.result("train", "--as-of", AS_OF)
    assert told["version"] == "3"
    made = registry_of(settings).version("3").tags
    assert made["training_set_digest"] == recorded["training_set_digest"]
    assert made["plan_digest"] == recorded["plan_digest"]


def test_new_days_are_taken_in_with_what_was_served(before: Platform) -> None:
    lake = Lake(before.home / "lake")
    old = [m.digest for m in lake.manifests("feature_vectors", lake.partitions("feature_vectors"))]
    before.result("backfill", "--from", "2025-03-22", "--to", "2025-03-22")
    served = lake.read("prediction_log", ["2025-03-22"])
    assert sorted(served.column("prediction_id").to_pylist()) == [f"before-{n}" for n in range(6)]
    assert before.result("replay", "--day", "2025-03-22")["identical"] == 6
    assert lake.read("transactions", ["2025-03-22"]).num_rows == 6, "a day that was served comes from the log"
    days = lake.partitions("feature_vectors")
    assert [m.digest for m in lake.manifests("feature_vectors", days)][: len(old)] == old


@pytest.mark.long
def test_reproducing_a_version_rebuilds_it_or_says_what_is_missing(before: Platform) -> None:
    done = before.run("reproduce", "1", "--json", timeout=900)
    if done.returncode == 0:
        assert json.loads(done.stdout.splitlines()[-1])["identical"] is True
    else:
        last = done.stderr.splitlines()[-1]
        assert "519926d" in last
        assert "fetch it" in last or "no git checkout" in last
