"""`mlops dev` as a process of its own: Dagster and MLflow's UI come up together, and go together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from banks import SMALL
from dagster import DagsterInstance, DagsterRunStatus
from dagster_kit import ask, wait_until_loaded
from lifecycle_kit import Shelf
from test_cli import Platform

from mlops_assets.cli.demo.background import free_port
from mlops_assets.resources.processes import PROCESS

pytestmark = pytest.mark.slow

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on InvalidSubsetError { message }
    ... on PythonError { message }
  }
}
"""
INGESTED = (
    "raw_transactions",
    "raw_labels",
    "transactions",
    "quarantined_transactions",
    "labels",
    "quarantined_labels",
    "verdicts",
    "customer_stats",
)
# The first bytes of a picture are enough to see whether the bytes come as they are.
PICTURE, CARD = b"\x89PNG\r\n\x1a\n\x00\xff", "# Model card\n"


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    (tmp_path / "of a person").mkdir()
    return Platform(tmp_path / "of a person").configure(SMALL)


def kill(pid: int) -> None:
    """Kill a process, where it has not ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def developing(platform: Platform, port: int, mlflow_port: int) -> Iterator[subprocess.Popen[bytes]]:
    words = [
        sys.executable,
        "-m",
        "mlops_assets",
        "dev",
        "--port",
        str(port),
        "--mlflow-port",
        str(mlflow_port),
    ]
    environment = {**os.environ, "MLOPS_HOME": str(platform.home), "MLOPS_CONFIG": str(platform.config)}
    with said(platform).open("wb") as log:
        process = subprocess.Popen(
            words, cwd=platform.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        for one in [process.pid, *below(process.pid)]:
            kill(one)
        process.wait()


def test_both_are_served_on_loopback_to_be_looked_at_and_a_signal_ends_both(platform: Platform) -> None:
    shelf = Shelf(platform.home)
    version = shelf.promoted()
    run = shelf.registry.version(version).run_id
    client = shelf.registry.client()
    (platform.folder / "picture.png").write_bytes(PICTURE)
    client.log_artifact(run, str(platform.folder / "picture.png"))
    client.log_text(run, CARD, "card.md")
    dead = client.create_run(client.get_run(run).info.experiment_id, start_time=1).info.run_id
    port, mlflow_port = free_port(), free_port()
    mlflow = f"http://127.0.0.1:{mlflow_port}"
    with developing(platform, port, mlflow_port) as process:
        wait_until(
            lambda: answers(f"{mlflow}/health") and answers(f"http://127.0.0.1:{port}/server_info"),
            process,
            platform,
        )
        first, second, *_ = said(platform).read_text().splitlines()
        assert f"http://127.0.0.1:{port} " in first
        assert first.endswith(mlflow)
        assert str(platform.home) in second

        assert "<title>MLflow</title>" in httpx.get(mlflow).text
        found = httpx.get(
            f"{mlflow}/ajax-api/2.0/mlflow/registered-models/alias",
            params={"name": "fraud", "alias": "champion"},
        )
        assert found.json()["model_version"]["version"] == version
        for path, content in {"picture.png": PICTURE, "card.md": CARD.encode()}.items():
            assert (
                httpx.get(f"{mlflow}/get-artifact", params={"path": path, "run_uuid": run}).content == content
            )
        assert (
            httpx.get(f"{mlflow}/ajax-api/2.0/mlflow/runs/get", params={"run_id": dead}).json()["run"][
                "info"
            ]["status"]
            == "FAILED"
        )

        # There is no way around the gate here, and none in for a page of somebody else.
        moved = {"name": "fraud", "alias": "champion", "version": shelf.candidate()}
        assert httpx.post(f"{mlflow}/api/2.0/mlflow/registered-models/alias", json=moved).status_code == 503
        assert (
            httpx.delete(
                f"{mlflow}/api/2.0/mlflow/registered-models/alias",
                params={"name": "fraud", "alias": "champion"},
            ).status_code
            >= 400
        )
        assert shelf.champion == version
        assert httpx.get(mlflow, headers={"Host": "elsewhere.example"}).status_code == 403

        family = below(process.pid)
        assert len(family) >= 6
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert family & alive() == set()
    assert [
        path.name
        for path in platform.folder.iterdir()
        if path.name.startswith(("mlruns", "mlartifacts", "file:"))
    ] == []


def test_when_one_ends_the_other_ends_too_and_the_command_says_which(platform: Platform) -> None:
    with developing(platform, free_port(), free_port()) as process:
        wait_until(lambda: bool(mlflow_of(process)), process, platform)
        (mlflow,) = mlflow_of(process)
        family = below(process.pid)
        os.kill(mlflow, signal.SIGKILL)
        assert process.wait(60) == 1
        assert (
            said(platform).read_text().splitlines()[-1]
            == "mlops: MLflow ended with exit code -9; its output stands above"
        )
        assert family & alive() == set()


def test_a_killed_dev_leaves_nothing_on_its_ports_and_a_killed_run_is_ended_by_the_next_one(
    platform: Platform, moments: list[float]
) -> None:
    """Every second time all of it is killed at once, as by a power cut; otherwise the command alone, and what
    it started has to end.
    """
    port, mlflow_port = free_port(), free_port()
    dead: list[str] = []
    for number, share in enumerate(moments):
        with developing(platform, port, mlflow_port) as process:
            wait_until_loaded(port, process, said(platform), ["raw_transactions"])
            assert statuses(platform, dead) == dict.fromkeys(dead, DagsterRunStatus.FAILURE)
            run = launch(port)
            wait_until(lambda run=run: PROCESS in tags(platform, run), process, platform)  # type: ignore[misc]
            time.sleep(share)
            family = {process.pid, *below(process.pid)}
            for one in family if number % 2 == 0 else [process.pid]:
                kill(one)
            process.wait()
            until = time.monotonic() + 60
            while family & alive():
                assert time.monotonic() < until, [commands().get(one) for one in family & alive()]
                time.sleep(0.2)
        dead += [
            run for run, status in statuses(platform, [run]).items() if status != DagsterRunStatus.SUCCESS
        ]
    assert platform.result("doctor")["databases"].endswith("can be read")
    assert (
        platform.result("backfill", "--from", "2025-03-01", "--to", "2025-03-01")["rows"]["transactions"] > 0
    )
    assert set(statuses(platform, dead).values()) <= {DagsterRunStatus.FAILURE}


def launch(port: int) -> str:
    """Have Dagster ingest a day in a process that it launches; the run's id."""
    selector = {
        "repositoryLocationName": "mlops_assets.definitions",
        "repositoryName": "__repository__",
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": [name]} for name in INGESTED],
    }
    tags = [{"key": "dagster/partition", "value": "2025-03-01"}]
    params = {
        "selector": selector,
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": tags},
    }
    launched = ask(port, LAUNCH, {"params": params})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def statuses(platform: Platform, runs: Sequence[str]) -> dict[str, DagsterRunStatus]:
    with DagsterInstance.from_config(str(platform.home / "dagster")) as instance:
        return {run.run_id: run.status for run in instance.get_runs() if run.run_id in runs}


def tags(platform: Platform, run: str) -> Mapping[str, str]:
    with DagsterInstance.from_config(str(platform.home / "dagster")) as instance:
        found = instance.get_run_by_id(run)
        assert found is not None
        return found.tags


def test_a_port_that_is_taken_is_named_before_anything_starts(platform: Platform) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        line = platform.refuses("dev", "--port", taken, "--mlflow-port", free_port())
        assert (
            line
            == f"mlops: port {taken}, which Dagster is to listen on, is taken: stop what has it, or choose"
            " another with --port"
        )
        line = platform.refuses("dev", "--port", free_port(), "--mlflow-port", taken)
        assert (
            line
            == f"mlops: port {taken}, which MLflow is to listen on, is taken: stop what has it, or choose"
            " another with --mlflow-port"
        )


def test_one_port_for_both_is_refused(platform: Platform) -> None:
    assert "port 5000 is given to both Dagster and MLflow" in platform.refuses("dev", "--port", 5000)


def mlflow_of(process: subprocess.Popen[bytes]) -> list[int]:
    family = below(process.pid)
    return [pid for pid, words in commands().items() if pid in family and "-m mlflow server" in words]


def said(platform: Platform) -> Path:
    return platform.folder / "dev.log"


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(done: Callable[[], bool], process: subprocess.Popen[bytes], platform: Platform) -> None:
    until = time.monotonic() + 180
    while not done():
        assert process.poll() is None, said(platform).read_text()[-3000:]
        assert time.monotonic() < until, said(platform).read_text()[-3000:]
        time.sleep(0.3)


def processes() -> dict[int, tuple[int, str, str]]:
    """Parent, state and command of every process."""
    listed = subprocess.run(
        ["ps", "-ewwo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    split = [line.split(None, 3) for line in listed]
    return {int(pid): (int(parent), state, "".join(words)) for pid, parent, state, *words in split}


def commands() -> dict[int, str]:
    return {pid: words for pid, (_, _, words) in processes().items()}


def alive() -> set[int]:
    """All but zombies, which only wait for somebody to ask how they ended."""
    return {pid for pid, (_, state, _) in processes().items() if not state.startswith("Z")}


def below(pid: int) -> set[int]:
    """What the process started, and what that started."""
    parents = {child: parent for child, (parent, _, _) in processes().items()}
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found
