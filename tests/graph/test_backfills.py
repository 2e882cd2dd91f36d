"""A backfill is the same however it is asked for: `mlops backfill`, `dagster asset materialize` for a range,
or the UI's mutation with a daemon.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster_kit import ask, tool, wait_until_loaded

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port, running
from mlops_assets.cli.instance import prepare_instance
from mlops_assets.core.keys import (
    FEATURE_VECTORS,
    PREDICTION_LOG,
    VERDICTS,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FIRST, LAST = "2025-03-01", "2025-03-06"
DAYS = [f"2025-03-0{n}" for n in range(1, 7)]
CONFIG = """
[time]
start = 2025-03-01
end = 2025-03-06

[source]
kind = "simulator"
start = 2025-03-01
customers = 80
merchants = 50
seed = 5
late_share = 0.05
label_median_hours = 14.0

[verdicts]
maturity_days = 2
"""
ASSETS = (
    PREDICTION_LOG,
    "raw_transactions",
    "raw_labels",
    "transactions",
    "quarantined_transactions",
    "labels",
    "quarantined_labels",
    VERDICTS,
    "customer_stats",
    "merchant_stats",
    "merchant_activity",
    FEATURE_VECTORS,
)
BACKFILL_TIMEOUT_S = 300.0
LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status error { message } }
    ... on PythonError { message }
  }
}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "mlops.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def commanded(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home that `mlops backfill` made."""
    home = tmp_path_factory.mktemp("commanded") / "home"
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "mlops_assets", "backfill", "--from", FIRST, "--to", LAST, "--json"],
        env={**environment, "MLOPS_HOME": str(home), "MLOPS_CONFIG": str(config)},
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert rows["transactions"] == rows["feature_vectors"] > 400
    assert rows["verdicts"] > 100
    assert rows["labels"] > 0
    return home


@pytest.fixture
def home(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home with an instance of its own, which the processes of a test find in their environment."""
    made = tmp_path / "home"
    for name, value in {"MLOPS_HOME": made, "MLOPS_CONFIG": config, "DAGSTER_HOME": made / "dagster"}.items():
        monkeypatch.setenv(name, str(value))
    prepare_instance(made)
    with (
        DagsterInstance.get()
    ):  # makes Dagster's databases; two processes that make them at once get in each other's way
        return made


def content(home: Path) -> dict[str, dict[str, tuple[str, int, bool]]]:
    """Digest, rows and validation of every partition of every dataset."""
    lake = Lake(home / "lake")
    manifests = {
        name: lake.manifests(name, lake.partitions(name)) for name in sorted(os.listdir(home / "lake"))
    }
    return {
        name: {m.partition: (m.digest, m.rows, m.validated) for m in found}
        for name, found in manifests.items()
    }


def test_the_command_makes_every_day_of_every_asset_and_nothing_else(commanded: Path) -> None:
    made = content(commanded)
    assert set(made) == set(ASSETS)
    assert all(list(days) == DAYS for days in made.values())
    assert {name: {valid for _, _, valid in made[name].values()} for name in ("transactions", "labels")} == {
        "transactions": {True},
        "labels": {True},
    }


def test_a_backfill_leaves_no_duckdb_file_for_processes_to_fight_over(commanded: Path) -> None:
    files = [path for path in commanded.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".duckdb" or ".duckdb." in path.name] == []
    assert [path for path in files if path.read_bytes()[8:12] == b"DUCK"] == []
    assert len(files) > 2 * len(ASSETS) * len(DAYS)


def test_the_command_twice_changes_nothing(
    commanded: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(commanded)
    monkeypatch.setenv("MLOPS_HOME", str(commanded))
    monkeypatch.setenv("MLOPS_CONFIG", str(config))
    done = tool("mlops", "backfill", "--from", DAYS[2], "--to", DAYS[3], cwd=commanded.parent)
    assert done.returncode == 0, done.stderr
    assert content(commanded) == before


def test_dagster_asset_materialize_of_a_range_makes_the_same(commanded: Path, home: Path) -> None:
    words = (
        "-m",
        "mlops_assets.definitions",
        "--select",
        ",".join(ASSETS),
        "--partition-range",
        f"{FIRST}...{LAST}",
    )
    done = tool("dagster", "asset", "materialize", *words, cwd=home.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert content(home) == content(commanded)


def test_dagster_asset_materialize_a_day_at_a_time_makes_the_same(commanded: Path, home: Path) -> None:
    for day in DAYS[:2]:
        done = tool(
            "dagster",
            "asset",
            "materialize",
            "-m",
            "mlops_assets.definitions",
            "--select",
            ",".join(ASSETS),
            "--partition",
            day,
            cwd=home.parent,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    expected = {name: {day: days[day] for day in DAYS[:2]} for name, days in content(commanded).items()}
    assert content(home) == expected


def test_a_backfill_from_the_ui_with_a_running_daemon_makes_the_same(commanded: Path, home: Path) -> None:
    port, logs = free_port(), home.parent / "logs"
    location = ["-m", "mlops_assets.definitions"]
    with (
        running(
            "the webserver",
            ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *location],
            logs / "webserver.log",
        ) as webserver,
        running("the Dagster daemon", ["dagster._daemon", "run", *location], logs / "daemon.log") as daemon,
    ):
        wait_until_loaded(port, webserver, logs / "webserver.log", ASSETS)
        finish(
            port,
            daemon,
            logs,
            {"assetSelection": [{"path": [name]} for name in ASSETS], "partitionNames": DAYS[:3]},
        )
        assert content(home) == {
            name: {day: days[day] for day in DAYS[:3]} for name, days in content(commanded).items()
        }
        finish(
            port,
            daemon,
            logs,
            {"assetSelection": [{"path": [name]} for name in ASSETS], "partitionNames": DAYS},
        )
    assert content(home) == content(commanded)


def finish(port: int, daemon: subprocess.Popen[bytes], logs: Path, params: dict[str, Any]) -> None:
    """Launch a backfill and see it through to its success."""
    launched = ask(port, LAUNCH, {"params": params})["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    ended = wait_until_ended(port, launched["backfillId"], daemon)
    assert ended == {"__typename": "PartitionBackfill", "status": "COMPLETED_SUCCESS", "error": None}, (
        logs / "daemon.log"
    ).read_text()[-3000:]


def wait_until_ended(port: int, backfill: str, daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    until = time.monotonic() + BACKFILL_TIMEOUT_S
    while time.monotonic() < until and daemon.poll() is None:
        told: dict[str, Any] = ask(port, STATUS, {"id": backfill})["partitionBackfillOrError"]
        if told.get("status") not in ("REQUESTED", "COMPLETING"):
            return told
        time.sleep(1)
    raise AssertionError(f"the backfill {backfill} did not end within {BACKFILL_TIMEOUT_S:.0f} s")


@pytest.mark.parametrize("words", [("check", "defs"), ("list", "defs"), ("check", "toml")])
def test_dg_knows_the_project(home: Path, words: tuple[str, ...]) -> None:
    done = tool("dg", *words, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    if words == ("list", "defs"):
        assert FEATURE_VECTORS in done.stdout
        assert "retrain_on_drift" in done.stdout
