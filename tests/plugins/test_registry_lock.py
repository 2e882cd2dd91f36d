"""The lock of a registry's folder: one process and thread at a time, and none that outlives its process."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from feature_repo.plugins.registry_store import locked

HOLDER = """
import sys, time
from pathlib import Path
from feature_repo.plugins.registry_store import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
SOON_S = 0.3


def waits(folder: Path) -> tuple[threading.Thread, threading.Event]:
    """A thread that wants the lock, and whether it has got it."""
    entered = threading.Event()

    def enter() -> None:
        with locked(folder):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    return thread, entered


def test_who_holds_the_lock_may_take_it_again_and_another_thread_waits(tmp_path: Path) -> None:
    folder = tmp_path / "feast"
    with locked(folder):
        with locked(folder):
            thread, entered = waits(folder)
        assert not entered.wait(SOON_S)
    thread.join(10)
    assert entered.is_set()


@pytest.mark.slow
def test_a_process_that_is_killed_holds_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        thread, entered = waits(tmp_path)
        assert not entered.wait(SOON_S)
        process.send_signal(signal.SIGKILL)
    thread.join(10)
    assert entered.is_set()
