"""Processes of this machine: a child does not outlive its parent, and a run knows the process that executes
it.

So a killed parent leaves nothing on its ports, and a killed run does not count as working for ever.
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

WATCH_S = 0.5  # how often a process looks whether the one that started it is there
ORPHAN_TIMEOUT_S = 3  # for what a killed process leaves behind: whoever starts it again needs its ports
HOST, PID, PROCESS = "mlops/host", "mlops/pid", "mlops/process"


def process_tags(run_id: str) -> dict[str, str]:
    """Which process a run is executed in.

    The run's own id is among them, for a re-execution takes over the tags and not the process.
    """
    return {HOST: platform.node(), PID: str(os.getpid()), PROCESS: f"{run_id}:{_started(os.getpid())}"}


def is_gone(run_id: str, tags: Mapping[str, str]) -> bool | None:
    """Whether the process that `tags` name as that of the run is gone; None where they name none, or one of
    another host.
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
    """Run a Python module in a session of its own; both of its streams go to `output`, or where those of this
    process go.

    Should this process be killed, the module ends, with all that it has started.
    """
    # A shell that runs in the background hands on an ignored SIGINT, which Dagster copies to SIGTERM: signals
    # are set back.
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # Ctrl-C between the start and its result would leave it to nobody
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
    """Run the module as `python -m` does, until it ends or the process `parent`, which started this one, is
    gone.
    """
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: int) -> None:
    """Once the parent is gone, ask the whole session of this process to end, and kill what does not.

    A process outside of the session does that, for this one may be the first to go.
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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _started(pid: int) -> str | None:
    """A mark of when the process began, which a later one under the same id does not have; None where it is
    gone, a zombie included.
    """
    if Path("/proc/self/stat").exists():
        try:
            state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state in "ZX" else others[18]
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    state, _, began = shown.stdout.strip().partition(" ")
    return began.strip() if began and not state.startswith("Z") else None


if __name__ == "__main__":
    run_watched(int(sys.argv[1]), *sys.argv[3:])
