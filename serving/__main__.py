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
GRACE_S = 30  # for what is in flight at SIGTERM
INTERRUPTED = 128 + signal.SIGINT  # what a shell makes of a process that Ctrl-C ended
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"serving": {"level": "INFO"}, "uvicorn.error": {"level": "INFO"}},
}


def in_a_process_of_its_own() -> int:
    """`main`, where Ctrl-C is exit 130 without a traceback at any moment: during the imports at once, later
    once requests in flight are answered.
    """
    came = list[int]()

    def note(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `mlops serve` blocks it until here
        code = main()
    except BaseException:  # a library may have turned the interrupt into an error of its own
        if came:
            # Python's own end would kill the process by the signal where the interrupt met an `exec`
            _leave()
        raise
    signal.signal(signal.SIGINT, _leave)  # what is left is Python's own tidying up
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    from serving.home_check import check_home
    from serving.settings import BadSetting, from_arguments
    from serving.store.base import BadStore
    from serving.store.opening import serving_store

    try:
        settings = from_arguments(arguments)
        check_home(settings, time.time_ns() // 1_000)
        # Each worker would tell of a full disk with a traceback, and be started again.
        serving_store(settings.database, settings.fsync).close()
    except (BadSetting, BadStore) as error:
        print(f"error: {error}", file=sys.stderr)
        return COULD_NOT_START
    return serve(settings)


def serve(settings: ServingSettings) -> int:
    import uvicorn

    from serving.app import create_app

    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE_S,
        # longer than the minute for which load balancers keep an idle connection, so that they hang up first
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    if settings.workers > 1:
        return _serve_with_workers(config)
    # Once the server has shut down in good order it raises the signal again, which would turn exit 0 into a
    # death by SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else COULD_NOT_START


def _serve_with_workers(config: Any) -> int:
    """Processes of their own behind one socket.

    A terminal sends Ctrl-C to all of them: this one answers it, and asks them to stop.
    """
    from multiprocessing import resource_tracker

    from uvicorn.supervisors import Multiprocess

    resource_tracker.ensure_running()  # what starts it unblocks Ctrl-C

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
    """Processes that are started meanwhile never see Ctrl-C; this one sees it afterwards."""

    def __enter__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _leave(*signalled: object) -> NoReturn:
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(in_a_process_of_its_own())
