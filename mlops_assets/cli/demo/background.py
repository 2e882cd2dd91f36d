"""The demo's scoring service and Dagster daemon: two processes that end with the demo."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlops_assets.errors import PlatformError
from mlops_assets.resources.processes import start

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


class ProcessFailed(PlatformError):
    """A process did not start, or ended too early. The message names it, its log and the log's last line."""


@contextmanager
def running(name: str, words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module beside this process. At the end it and its children are stopped or killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = None
    try:
        with log.open("wb") as handle:
            process = start(words, handle)
        yield process
        if process.poll() is not None:
            raise ProcessFailed(f"{name} went away with exit code {process.returncode}; {_last_line(log)}")
    finally:
        if process is not None:
            _stop(process)


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Let a SIGTERM end this process like an error, so that the processes beside it are stopped."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> dict[str, Any]:
    """The first healthy answer of the service. `ProcessFailed` where none comes."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ProcessFailed(f"the scoring service exited with {process.returncode}; {_last_line(log)}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            if answer.status == 200:
                return json.loads(body)
        except OSError:
            pass
        time.sleep(0.2)
    raise ProcessFailed(
        f"the scoring service was not ready within {START_TIMEOUT_S:.0f} s; {_last_line(log)}"
    )


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
    finally:  # A second Ctrl-C skips the wait, and still nothing is left running
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # The children that it left, such as code servers
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"the last line of {log.name} is: {lines[-1][:300]}" if lines else f"{log.name} is empty"
