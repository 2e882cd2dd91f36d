"""Processes of the service that are killed: a worker is replaced, and no worker outlives its supervisor or
keeps its port.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from serving_kit import JSON, ROOT, Running, free_port

pytestmark = pytest.mark.slow


def workers(service: Running) -> set[int]:
    """The processes below the supervisor, without the one that Python keeps for itself."""
    listed = subprocess.run(
        ["ps", "-ewwo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    split = [line.split(None, 3) for line in listed]
    return {
        int(pid)
        for pid, parent, state, words in split
        if int(parent) == service.process.pid and state[0] != "Z" and "resource_tracker" not in words
    }


def with_workers(launch: Callable[..., Running], home: Path, port: int) -> Running:
    """Two workers on this very port."""
    service = launch(home, "--workers", "2", "--clock", "event", "--port", str(port))
    service.client.close()
    service.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers=JSON)
    return service


def gone(pids: set[int], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(found) and not found.startswith("Z")


def test_a_killed_worker_is_replaced_and_a_killed_supervisor_leaves_nobody_on_its_port(
    tmp_path: Path, launch: Callable[..., Running], moments: list[float]
) -> None:
    port = free_port()
    for share in moments:
        service = with_workers(launch, tmp_path, port)
        service.wait("/health/live")
        victim = min(workers(service))
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + 60
        while victim in (now := workers(service)) or len(now) < 2:
            assert time.monotonic() < until, service.log.read_text()
            time.sleep(0.1)
        time.sleep(2 * share)  # the new worker is at one stage or another of its start
        family = workers(service)
        service.wait("/health/live")
        service.process.kill()
        assert gone(family, 30), service.log.read_text()
    with_workers(launch, tmp_path, port).wait("/health/live")


def test_a_service_that_another_process_started_ends_when_that_one_is_killed(tmp_path: Path) -> None:
    """As the demo starts it, and Dagster's daemon."""
    words = ["serving", "--home", str(tmp_path), "--port", str(free_port())]
    script = (
        f"import time; from mlops_assets.resources.processes import start; print(start({words}).pid,"
        " flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        service = int(parent.stdout.readline())
        assert not gone({service}, 1.0)
        parent.kill()
        assert gone({service}, 15)
