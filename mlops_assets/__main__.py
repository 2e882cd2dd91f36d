"""The entry point of `mlops`. It handles Ctrl-C before it imports anything else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

INTERRUPTED = 128 + signal.SIGINT  # A shell reports this code for a process that Ctrl-C ended
AGAIN_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command in a process of its own, and return its exit code.

    Ctrl-C gives exit code 130 without a traceback at any moment, also during the imports.
    """
    interrupts = Interrupts()
    try:
        _keep_out_of_logs()
        from mlops_assets.cli.command_line import main as command

        code = command(arguments, interrupts.came)
    except BaseException:
        if not interrupts.came():
            raise
        code = INTERRUPTED
    if interrupts.came():
        _leave(code)
    return code


class Interrupts:
    """Whether Ctrl-C has come. No library can hide it.

    DuckDB and NumPy turn the `KeyboardInterrupt` into an error of their own, and Dagster replaces the
    handler. Neither reaches the wakeup pipe, to which the system writes. Python ignores an exception in a
    callback from C, so the interrupt is raised again a moment later.
    """

    def __init__(self) -> None:
        self._came = self._is_answered = False
        # A shell lets a process in the background ignore SIGINT. That stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._ignored, sys.unraisablehook = sys.unraisablehook, self._again

    def came(self) -> bool:
        """Whether Ctrl-C has come since the process began.

        The caller is about to end the command. A second Ctrl-C afterwards ends the process at once.
        """
        self._is_answered = True
        try:
            written = os.read(self._read, 65_536)
        except BlockingIOError:
            written = b""
        self._came |= signal.SIGINT in written
        return self._came

    def _interrupt(self, number: int, frame: object) -> None:
        if self._is_answered:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    def _again(self, ignored: Any) -> None:
        if issubclass(ignored.exc_type, Exception) or sys.is_finalizing():
            self._ignored(ignored)
            return
        import threading

        # A real signal wakes a thread that waits. An interrupt inside Python would not.
        later = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        later.daemon = True
        later.start()


def _keep_out_of_logs() -> None:
    """Keep the interrupt out of the log of libraries. SQLAlchemy would log it with its traceback."""
    import logging

    make = logging.getLogRecordFactory()

    def factory(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        if record.exc_info and record.exc_info[0] and not issubclass(record.exc_info[0], Exception):
            record.levelno = -1  # Below the level of every handler
        return record

    logging.setLogRecordFactory(factory)


def _leave(code: int) -> None:
    """Run the exit functions and end the process, without Python's own shutdown.

    Python's shutdown waits for threads. After an interrupt within `exec` it ends by the signal.
    """
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
