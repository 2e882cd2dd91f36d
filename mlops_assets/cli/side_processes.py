"""Dagster and MLflow's UI side by side on one platform. They listen on loopback and end together."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dagster import DagsterInstance

from mlops_assets.errors import PlatformError
from mlops_assets.graph.unfinished_runs import fail_dead_runs
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import ARTIFACTS
from mlops_assets.resources.processes import ORPHAN_TIMEOUT_S, start
from mlops_assets.resources.registry import ModelRegistry, registry_of
from mlops_assets.resources.registry_database import QUIET

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 20.0  # The time for the two processes to end
LEFT_OVER_TIMEOUT_S = 5.0  # The time for their children to end, such as runs that they launched
PORT_PATIENCE_S = ORPHAN_TIMEOUT_S + 2.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DevError(PlatformError):
    """The two cannot run side by side, or one of them ended. The message names it."""


def check_ports(port: int, mlflow_port: int) -> None:
    """`DevError` where Dagster or MLflow could not listen on its port.

    The children of a killed `mlops dev` get time to end.
    """
    if port == mlflow_port:
        raise DevError(
            f"port {port} is given to both Dagster and MLflow: choose another with --port or --mlflow-port"
        )
    for name, option, wanted in (("Dagster", "--port", port), ("MLflow", "--mlflow-port", mlflow_port)):
        if not _comes_free(wanted):
            raise DevError(
                f"port {wanted}, which {name} is to listen on, is taken: stop what has it, or choose another"
                f" with {option}"
            )


def run_dev(settings: Settings, port: int, mlflow_port: int) -> None:
    """Serve both until a signal comes or one of them ends. None of their processes is left afterwards.

    Returns after SIGTERM and SIGHUP. Raises `KeyboardInterrupt` for Ctrl-C, and `DevError` where one of the
    two ended.
    """
    registry = registry_of(settings)
    with DagsterInstance.get() as instance:
        fail_dead_runs(instance)
    registry.client()  # This makes the database. MLflow's UI only reads it
    registry.end_orphans(datetime.now(UTC))  # The UI then shows no training of a killed process as running
    print(
        f"Dagster will be at http://{LOOPBACK}:{port} in about half a minute, MLflow at"
        f" http://{LOOPBACK}:{mlflow_port}",
        flush=True,
    )
    print(f"State is in {settings.home}. Ctrl-C stops both.", flush=True)
    dagster = ["dagster", "dev", "-m", "mlops_assets.definitions", "-h", LOOPBACK, "-p", str(port)]
    with _signals() as received, tempfile.TemporaryDirectory() as folder:
        Path(folder, ARTIFACTS).symlink_to(Path(registry.artifact_root).absolute())
        running = {"Dagster": start(dagster, environment={"MLOPS_HOME": str(settings.home)})}
        try:
            running["MLflow"] = start(
                _mlflow(registry, mlflow_port), environment=_MLFLOW_ENVIRONMENT, folder=Path(folder)
            )
            while not received:
                time.sleep(0.5)
                for name, process in running.items():
                    if process.poll() is not None:
                        raise DevError(
                            f"{name} ended with exit code {process.returncode}; its output stands above"
                        )
        finally:
            _stop(list(running.values()))
    if signal.SIGINT in received:
        raise KeyboardInterrupt


# MLflow's own jobs, evaluations by language models, would be five more processes.
_MLFLOW_ENVIRONMENT = {**QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}


def _mlflow(registry: ModelRegistry, port: int) -> list[str]:
    """The words that start MLflow's server on the registry, read-only.

    Moving an alias in the UI would be a way around the gate. The server is started in a temporary folder with
    a link to the artifacts, since their places are relative to the working directory. MLflow also makes a
    folder there that is named like the read-only form of SQLite's address.
    """
    database = Path(registry.tracking_uri.removeprefix("sqlite:///")).absolute()
    store = f"sqlite:///{database.as_uri()}?mode=ro&uri=true"
    words = [
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--default-artifact-root",
        Path(registry.artifact_root).absolute().as_uri(),
    ]
    return [
        *words,
        "--no-serve-artifacts",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--workers",
        "1",
        "--uvicorn-opts",
        "--log-level warning",
    ]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The received signals that ask to stop: of a terminal, of a supervisor, of a terminal that is closed."""
    received = list[int]()
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask each session to end, as a terminal would, and kill the rest."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
    until = time.monotonic() + LEFT_OVER_TIMEOUT_S
    while time.monotonic() < until and any(_signal(process, 0) for process in processes):
        time.sleep(0.1)
    for process in processes:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the session of the process. False where the session is empty."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS raises the second for zombies
        return False
    return True


def _comes_free(port: int) -> bool:
    until = time.monotonic() + PORT_PATIENCE_S
    while not (free := _is_free(port)) and time.monotonic() < until:
        time.sleep(0.2)
    return free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A connection that has just ended does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
