"""Servers as processes of their own, each with its log, which end with the block that started them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 20.0
ASK_AGAIN_S = 0.005


class ServerFailed(Exception):
    """A server did not come up, or ended too early. The message holds the last lines of its log."""


@dataclass(frozen=True)
class Server:
    """A running server: its process, the port of 127.0.0.1 on which it answers, and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def wait_for(self, path: str) -> None:
        """Ask again and again until the path answers 200. `ServerFailed` where that never happens."""
        until_s = time.monotonic() + START_TIMEOUT_S
        while self._status(path) != 200:
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise ServerFailed(f"{path} of {self.log.stem} never answered 200: {self.last_lines()}")
            time.sleep(ASK_AGAIN_S)

    def wait_for_log(self, text: str, times: int) -> None:
        """Until a text stands so often in the log. `ServerFailed` where that never happens."""
        until_s = time.monotonic() + START_TIMEOUT_S
        while self.times_in_log(text) < times:
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise ServerFailed(f"{text!r} stands less than {times} times: {self.last_lines()}")
            time.sleep(ASK_AGAIN_S)

    def times_in_log(self, text: str) -> int:
        """How often a text stands in the log."""
        return self.log.read_text(errors="replace").count(text)

    def last_lines(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-1_500:]

    def _status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


@contextmanager
def running(
    words: Sequence[str], port: int, log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a program in a folder. At the end it is asked to stop, and killed with all its children."""
    with log.open("wb") as handle:
        process = subprocess.Popen(
            words,
            stdout=handle,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield Server(process, port, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def workers_of(supervisor: int) -> list[int]:
    """The worker processes of a service with several. Python's own resource tracker is a child too."""
    children = psutil.Process(supervisor).children()
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
