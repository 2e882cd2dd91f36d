"""`python -m serving`: the scoring service in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from serving.settings import ServingSettings

COULD_NOT_START = 3
GRACE_S = 30  # For requests in flight at SIGTERM.
INTERRUPTED = 128 + signal.SIGINT  # A shell's code for a process that Ctrl-C ended.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"serving": {"level": "INFO"}, "uvicorn.error": {"level": "INFO"}},
}


def in_a_process_of_its_own() -> int:
    """`main` for a process that Ctrl-C ends with exit code 130 and without a traceback, at any moment.

    During the imports the process ends at once. Later it ends once requests in flight are answered.
    """
    came = list[int]()

    def note(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `mlops serve` blocks Ctrl-C until here.
        code = main()
    except BaseException:  # A library may have turned the interrupt into an error of its own.
        if came:
            # Python's own end would kill the process by the signal where the interrupt met an `exec`.
            _leave()
        raise
    signal.signal(signal.SIGINT, _leave)  # Only Python's own tidying up is left.
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the home and serve it; returns the exit code. Each refusal is one line on stderr."""
    from serving.home_check import check_home
    from serving.settings import BadSetting, from_arguments
    from serving.store.base import BadStore
    from serving.store.opening import serving_store

    try:
        settings = from_arguments(arguments)
        check_home(settings, time.time_ns() // 1_000)
        # Otherwise each worker would meet a full disk with a traceback, and would be started again.
        serving_store(settings.database, settings.fsync).close()
    except (BadSetting, BadStore) as error:
        print(f"error: {error}", file=sys.stderr)
        return COULD_NOT_START
    return serve(settings)


def serve(settings: ServingSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    import uvicorn

    from serving.app import create_app
    from serving.connection import Connection

    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        http=Connection,
        ws="none",  # Here is no WebSocket. A request for one is answered as any other.
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # Nothing here asks who the client is.
        timeout_graceful_shutdown=GRACE_S,
        # Load balancers keep an idle connection for a minute. With a longer time here they hang up first.
        timeout_keep_alive=75,
    )
    if settings.workers > 1:
        return _serve_with_workers(config)
    # The server raises the signal again once it has shut down in good order. That would turn exit code 0 into
    # a death by SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else COULD_NOT_START


def _serve_with_workers(config: Any) -> int:
    """Worker processes behind one socket.

    A terminal sends Ctrl-C to all processes. Only this one answers it, and asks the workers to stop.
    """
    from multiprocessing import resource_tracker

    from uvicorn.supervisors import Multiprocess

    resource_tracker.ensure_running()  # Whoever starts the tracker unblocks Ctrl-C.

    class Workers(Multiprocess):
        interrupted = False

        def handle_int(self) -> None:
            self.interrupted = True
            super().handle_int()

        def init_processes(self) -> None:
            with _blocked():
                super().init_processes()

        def keep_subprocess_alive(self) -> None:
            with _blocked():
                super().keep_subprocess_alive()

        def restart_all(self) -> None:
            with _blocked():
                super().restart_all()

    workers = Workers(config, sockets=[config.bind_socket()])
    workers.run()
    return INTERRUPTED if workers.interrupted else 0


class _blocked:
    """Block Ctrl-C. Processes that start within never see it, and this process sees it afterwards."""

    def __enter__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _leave(*signalled: object) -> NoReturn:
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(in_a_process_of_its_own())
