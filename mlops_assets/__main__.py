"""The `mlops` command from its first moment on: what Ctrl-C does is settled before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

INTERRUPTED = 128 + signal.SIGINT  # what a shell makes of a process that Ctrl-C ended
AGAIN_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """One command in a process of its own.

    Ctrl-C is exit 130 without a traceback at any moment, the imports among them.
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
    """Whether Ctrl-C has come, which no library can hide.

    A library may turn the `KeyboardInterrupt` into an error of its own, as DuckDB and NumPy do. Dagster
    exchanges the handler. What the system writes to the wakeup pipe is out of the reach of both. Where Python
    can only ignore an exception, as in a callback from C, the interrupt is given again a moment later.
    """

    def __init__(self) -> None:
        self._came = self._is_answered = False
        if (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):  # a shell has it ignored in the background
            signal.signal(signal.SIGINT, self._interrupt)
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._ignored, sys.unraisablehook = sys.unraisablehook, self._again

    def came(self) -> bool:
        """Whether it has come since the process began.

        Who asks is about to end the command: another Ctrl-C ends the process at once.
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

        # A signal to the thread, since one that only Python knows of wakes nobody who waits.
        later = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        later.daemon = True
        later.start()


def _keep_out_of_logs() -> None:
    """A library that logs what it cannot handle, as SQLAlchemy does, would log the interrupt with its
    traceback.
    """
    import logging

    make = logging.getLogRecordFactory()

    def factory(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        if record.exc_info and record.exc_info[0] and not issubclass(record.exc_info[0], Exception):
            record.levelno = -1  # below every handler
        return record

    logging.setLogRecordFactory(factory)


def _leave(code: int) -> None:
    """End the process with its exit functions and without Python's own end.

    That waits for threads, and kills the process by the signal where the interrupt met an `exec`.
    """
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
