"""A home that several commands meet on, and from which processes are killed: nothing breaks it, and the next
command goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from banks import SMALL
from dagster import DagsterInstance
from test_cli import Platform

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port
from mlops_assets.cli.instance import prepare_instance
from mlops_assets.cli.platform import check_databases
from mlops_assets.resources.home import preparing

pytestmark = pytest.mark.slow

FIRST, SECOND, LAST = "2025-03-01", "2025-03-02", "2025-03-04"
# All that is ever made in a home first, as a command and a run that Dagster has launched come to it.
PREPARE = """
from mlops_assets.cli.platform import prepare
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.registry import registry_of
settings = load_settings()
prepare(settings)
registry_of(settings).client().search_experiments()
"""
MLOPS = ("-m", "mlops_assets")
AT_ONCE = {
    "status": 0,
    "history": 0,
    "doctor": 0,
    f"backfill --from {FIRST} --to {SECOND}": 0,
    "train --as-of 2025-03-20": "as of 2025-03-20: nothing to learn from",
    "rebuild-online": "there is nothing to rebuild from",
    "rollback --reason alarms": "there is no champion to roll back",
    "promote 1 --reason trust": "there is no version 1",
}
# Where a backfill and a rebuild are ready at one moment, the second is told of the first; given again it goes
# on.
MEETING = "another rebuild is running; give the command again when it has ended"


def launched(platform: Platform, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "MLOPS_HOME": str(platform.home), "MLOPS_CONFIG": str(platform.config)}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=platform.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def killed(platform: Platform, after_s: float, *words: object) -> bool:
    """Whether the process was still at work when it was killed."""
    with launched(platform, *words) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL


def unfinished(home: Path) -> list[str]:
    with DagsterInstance.from_config(str(home / "dagster")) as instance:
        return [run.run_id for run in instance.get_runs() if not run.is_finished]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """One home for all tests of this file, one after the other."""
    return Platform(tmp_path_factory.mktemp("met")).configure(SMALL)


def test_ten_commands_at_once_on_an_empty_home_all_work(platform: Platform) -> None:
    port = free_port()
    preparing = launched(platform, "-c", PREPARE)
    running = {words: launched(platform, *MLOPS, *words.split()) for words in AT_ONCE}
    serving = launched(platform, *MLOPS, "serve", "--port", port)
    told = {words: process.communicate(timeout=300)[0] for words, process in running.items()}
    assert (preparing.communicate(timeout=60)[0], preparing.returncode) == ("", 0)
    serving.terminate()
    assert "Uvicorn running" in serving.communicate(timeout=60)[0]
    assert serving.returncode == 0
    for words, expected in AT_ONCE.items():
        text, code = told[words], running[words].returncode
        assert "Traceback" not in text, text
        if code:
            line = text.splitlines()[-1]
            assert line.startswith("mlops: "), text
            assert (expected != 0 and str(expected) in line) or MEETING in line, text
        else:
            assert expected == 0 or words == "rebuild-online", text
    assert platform.result("doctor")["databases"] == "5 can be read"
    assert sorted(path.name for path in platform.home.rglob(".*") if path.name != ".nux") == []


def test_a_preparation_that_was_killed_is_done_by_the_next_command(
    tmp_path: Path, moments: list[float]
) -> None:
    home = Platform(tmp_path).configure(SMALL)
    for share in moments:
        killed(home, 2.5 + 5 * share, "-c", PREPARE)
    with launched(home, "-c", PREPARE) as next_one:
        assert (next_one.communicate(timeout=60)[0], next_one.returncode) == ("", 0)
    assert home.result("doctor")["databases"].endswith("can be read")


def test_a_backfill_that_was_killed_leaves_a_whole_home_and_goes_on_when_it_is_given_again(
    platform: Platform, moments: list[float]
) -> None:
    words = ("backfill", "--from", FIRST, "--to", LAST)
    lake = Lake(platform.home / "lake")
    for share in moments:
        assert killed(platform, 2.0 + 4 * share, *MLOPS, *words)
        made = [path.name for path in (platform.home / "lake").glob("*")]
        assert all(lake.manifests(name, lake.partitions(name)) for name in made)
    assert platform.result(*words)["rows"]["transactions"] > 0
    assert unfinished(platform.home) == []
    assert check_databases(platform.home).endswith("can be read")  # and nothing was cut off
    assert platform.result("status")["datasets"]["feature_vectors"] == {
        "days": 4,
        "first": FIRST,
        "last": LAST,
    }


def test_a_prepared_home_makes_no_command_wait(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home / "dagster"))
    prepare_instance(platform.home)
    with preparing(platform.home):
        other = threading.Thread(target=prepare_instance, args=(platform.home,), daemon=True)
        other.start()
        other.join(30)
        assert not other.is_alive()


def test_a_damaged_database_is_named_by_the_doctor(platform: Platform, tmp_path: Path) -> None:
    broken = Platform(tmp_path).configure(SMALL)
    (broken.home / "mlflow").mkdir(parents=True)
    (broken.home / "mlflow" / "mlflow.db").write_bytes(b"what was a database" * 1000)
    (broken.home / "home.json").write_text('{"format": 2}')
    assert (
        f"{broken.home / 'mlflow' / 'mlflow.db'} is damaged (file is not a database): restore it"
        in broken.refuses("doctor")
    )
