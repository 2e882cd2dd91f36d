"""Processes of this machine: the process that executes a run, and children that end with their parent.

A killed parent leaves nothing on its ports. The run of a killed process is found and fails.
"""

import os
import platform
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

WATCH_S = 0.5  # How often a process looks whether its parent still runs
ORPHAN_TIMEOUT_S = (
    3  # The time for the children of a killed process to end. The next process needs the same ports
)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
HOST, PID, PROCESS = "mlops/host", "mlops/pid", "mlops/process"


def process_tags(run_id: str) -> dict[str, str]:
    """Tags that name the process which executes a run.

    They include the id of the run. A re-execution copies the tags and has another process.
    """
    return {HOST: platform.node(), PID: str(os.getpid()), PROCESS: f"{run_id}:{_started(os.getpid())}"}


def is_gone(run_id: str, tags: Mapping[str, str]) -> bool | None:
    """Whether the process that `tags` name has ended.

    None where the tags name no process, the process of another run, or a process of another host.
    """
    owner, _, started = tags.get(PROCESS, "").partition(":")
    if owner != run_id or tags.get(HOST) != platform.node():
        return None
    return _started(int(tags[PID])) != started


def start(
    words: Sequence[str],
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a Python module in a session of its own, and return its process.

    Both streams of the module go to `output`, or to the streams of this process. The module and all its
    children end when this process is killed.
    """
    # Ctrl-C between the start and its result would leave an unknown process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), "-m", *words],
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,
            preexec_fn=_default_signals,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_watched(parent: int, module: str, *words: str) -> None:
    """Run the module as `python -m` does, until the module or the process `parent` has ended."""
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: int) -> None:
    """Ask the whole session of this process to end once the parent has ended, and kill what remains.

    A process outside of the session does that, because this process may be the first to end.
    """
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    session = f"-{os.getpid()}"
    script = f"kill -s TERM -- {session}; sleep {ORPHAN_TIMEOUT_S}; kill -s KILL -- {session}"
    nothing = subprocess.DEVNULL
    subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
    )


def _default_signals() -> None:
    """A shell in the background hands on an ignored SIGINT, and Dagster would copy that to SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _started(pid: int) -> str | None:
    """A mark of when the process began, in ticks of the system; None where it has ended or is a zombie.

    A later process with the same id has another mark. Linux counts from the start of the machine, so the
    marks do not move when the clock is set.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        began_s = process.create_time() - (psutil.boot_time() if psutil.LINUX else 0)
    except psutil.Error:
        return None
    return str(round(began_s * TICKS_PER_S))


if __name__ == "__main__":
    run_watched(int(sys.argv[1]), *sys.argv[3:])
