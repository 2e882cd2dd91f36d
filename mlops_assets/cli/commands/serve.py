"""`mlops serve`: start the scoring service."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from mlops_assets.cli.arguments import Once, day
from mlops_assets.cli.platform import case_of, configured, untrained
from mlops_assets.resources.home import bring_up


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--host", default="127.0.0.1", action=Once)
    parser.add_argument("--port", type=int, default=8000, action=Once)
    parser.add_argument("--workers", type=int, default=1, action=Once)
    parser.add_argument(
        "--clock",
        choices=["wall", "event"],
        default="wall",
        action=Once,
        help="event: replay past days by their own time",
    )
    parser.add_argument(
        "--now",
        type=day,
        action=Once,
        metavar="DAY",
        help="with --clock event: the day from which event time goes on",
    )


def run(options: argparse.Namespace) -> None:
    """Replace this process by the service."""
    settings = configured()
    bring_up(settings.home)
    if not Path(settings.tracking_uri.removeprefix("sqlite:///")).exists():
        print(
            f"mlops: {untrained(settings)}. The service answers 503 until a version is promoted",
            file=sys.stderr,
            flush=True,
        )
    words = [
        "--home",
        str(settings.home),
        "--name",
        settings.use_case,
        "--events",
        case_of(settings).event.dataset,
        "--lake",
        settings.lake_root,
    ]
    words += ["--host", options.host, "--port", str(options.port), "--workers", str(options.workers)]
    words += ["--clock", options.clock, *(["--now", options.now] if options.now else [])]
    words += ["--far-days", str(settings.serving.far_days), "--when-far", settings.serving.when_far]
    sys.stdout.flush()
    # A Ctrl-C during the start of Python waits until the service can handle it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(sys.executable, [sys.executable, "-m", "serving", *words])
