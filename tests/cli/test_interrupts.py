"""Ctrl-C, wherever it comes: exit 130, no traceback, nothing left running.

A terminal sends it to all processes of a command at once.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from banks import SMALL

from feature_repo.lake.datasets import Lake

# A shell that starts the tests in the background has them and their processes ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The process gives itself Ctrl-C at the import of a module, as a person may at any.
AT_IMPORT = """
import os, signal, sys
from mlops_assets.__main__ import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.exit(main(["status"]))
"""
# A command that meets Ctrl-C as the text in its place does.
COMMAND = """
import ctypes, logging, os, signal, sys, threading, time
from mlops_assets.__main__ import main
from mlops_assets.cli.commands import status

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

def run(options):
    {meets}
    time.sleep(20)

status.run = run
sys.exit(main(["status"]))
"""
MEETS = {
    "a callback from C ignores it": "ctypes.CFUNCTYPE(None)(interrupt)()",
    "a library makes an error of it": (
        "\n    try: interrupt()\n    except KeyboardInterrupt: raise RuntimeError('Query interrupted')"
    ),
    "a library hides where it came from": (
        "\n    try: interrupt()\n    except KeyboardInterrupt: raise RuntimeError('Query interrupted') from"
        " None"
    ),
    "a library logs it": (
        "\n    try: interrupt()\n    except KeyboardInterrupt: logging.getLogger('pool').error('closing',"
        " exc_info=True); raise"
    ),
    "within exec": "exec('interrupt()')",
    "tidying up takes long, and it comes again": (
        "\n    threading.Timer(0.3, interrupt).start()\n    try: interrupt()\n    finally: time.sleep(20)"
    ),
    "something waits for its end": "threading.Thread(target=time.sleep, args=(20,)).start(); interrupt()",
}


@pytest.mark.parametrize(
    "module", ["mlops_assets.errors", "argparse", "numpy", "mlops_assets.core.config_tables"]
)
def test_at_an_import(module: str, tmp_path: Path) -> None:
    done = executed(tmp_path, AT_IMPORT, module)
    was_quiet(done.returncode, done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("meets", MEETS.values(), ids=MEETS)
def test_whatever_it_meets(meets: str, tmp_path: Path) -> None:
    began = time.monotonic()
    done = executed(tmp_path, COMMAND.replace("{meets}", meets))
    was_quiet(done.returncode, done.stderr)
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_twice_in_the_middle_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "mlops.toml").write_text(SMALL)
    words = [
        "mlops_assets",
        "--config",
        tmp_path / "mlops.toml",
        "backfill",
        "--from",
        "2025-03-01",
        "--to",
        "2025-03-02",
        "--group",
        "ingest",
    ]
    with running(tmp_path, *words) as process:
        wait_for(process, tmp_path, " done in ")
        for _ in range(2):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02)
        was_quiet(process.wait(60), said(tmp_path))
    lake = Lake(tmp_path / "home" / "lake")
    for dataset in ("raw_transactions", "transactions", "verdicts"):
        for day in lake.partitions(dataset):
            assert lake.read(dataset, [day]).num_rows >= 0  # what is there is whole


@pytest.mark.slow
def test_while_the_service_runs(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, "mlops_assets", "serve", "--port", port) as process:
        wait_until_alive(process, port)
        os.killpg(process.pid, signal.SIGINT)
        was_quiet(process.wait(60), said(tmp_path))


@pytest.mark.slow
def test_while_the_workers_of_the_service_begin(tmp_path: Path) -> None:
    with running(tmp_path, "mlops_assets", "serve", "--port", free_port(), "--workers", "2") as process:
        wait_for(process, tmp_path, "Started parent process")
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        was_quiet(process.wait(60), said(tmp_path))
        until = time.monotonic() + 10
        while is_alive(process.pid):  # multiprocessing's own helper ends when it finds itself alone
            assert time.monotonic() < until
            time.sleep(0.05)


def executed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *words],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def was_quiet(code: int, errors: str) -> None:
    assert code == 130, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "MLOPS_HOME": str(folder / "home"), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(folder: Path, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A module in a process group of its own, as a terminal has it. It is killed at the end."""
    with (folder / "said").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            stdout=output,
            stderr=output,
            env=environment(folder),
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def wait_for(process: subprocess.Popen[bytes], folder: Path, text: str) -> None:
    until = time.monotonic() + 90
    while text not in said(folder):
        assert process.poll() is None, said(folder)
        assert time.monotonic() < until, said(folder)
        time.sleep(0.02)


def wait_until_alive(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert process.poll() is None
        with (
            suppress(OSError),
            closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection,
        ):
            connection.request("GET", "/health/live")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the service did not come up")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
