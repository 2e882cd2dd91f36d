"""`python -m serving`: the scoring service in the foreground, until SIGTERM."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from functools import partial

from serving.clock import check_home
from serving.contract.log import LogError
from serving.settings import BadSetting, ServingSettings, from_arguments

COULD_NOT_START = 3
GRACE_S = 30  # for what is in flight at SIGTERM
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"serving": {"level": "INFO"}, "uvicorn.error": {"level": "INFO"}},
}


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        settings = from_arguments(arguments)
        check_home(settings, time.time_ns() // 1_000)
    except (BadSetting, LogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return COULD_NOT_START
    return serve(settings)


def serve(settings: ServingSettings) -> int:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from serving.app import create_app

    settings.folder.mkdir(parents=True, exist_ok=True)
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
        timeout_keep_alive=75,  # longer than the minute for which load balancers keep an idle connection, so that they hang up first
        h11_max_incomplete_event_size=64 * 1024,
    )
    if settings.workers > 1:
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return 0
    # Once the server has shut down in good order it raises the signal again, which would turn exit 0 into a death by SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else COULD_NOT_START


if __name__ == "__main__":
    sys.exit(main())
