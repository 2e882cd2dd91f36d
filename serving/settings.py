"""Every setting of the scoring service, as one value that is made from the command line and passed in."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from serving.contract.before_subjects import BEFORE
from serving.errors import ServingError

Clock = Literal["wall", "event"]
WhenFar = Literal["refuse", "warn"]


class BadSetting(ServingError, ValueError):
    """A setting that the service refuses to start with."""


@dataclass(frozen=True)
class Limits:
    """What the service refuses of any client, and when the service gives up.

    What is believable of an event stands in the release (`Bounds`).
    """

    body_bytes: int = 1_000_000  # A full batch of labels has 200 kB.
    in_flight: int = 512  # At 0.4 ms each, the last of them waits 200 ms. One more is answered 503.
    store_deadline_s: float = 0.25  # How long a request waits for the lock of the store.
    check_timeout_s: float = 60.0  # Loading LightGBM and scoring the golden rows takes about 4 s.
    retry_s: float = 60.0  # Until a release that could not be tried to the end is tried again.
    # How long a cold start waits for a silent registry before it takes the copy on disk.
    registry_patience_s: float = 20.0


@dataclass(frozen=True)
class ServingSettings:
    """The settings of one service. `home` is MLOPS_HOME. `BadSetting` for a value that cannot be used.

    With `clock="event"` the newest event is now, for simulated time. `now` is the day from which a person
    wants event time to go on. A home whose newest day is more than `far_days` from the clock is refused at
    the start, or warned of, as `when_far` says.

    `fsync` makes each commit survive a power cut, at the price of a disk flush each. Without it, a crash of
    the process loses nothing, and a power cut loses the last moments.
    """

    home: Path
    use_case: str = BEFORE.name
    events: str = BEFORE.event.dataset  # The dataset of events. Its days say how far the lake is.
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    clock: Clock = "wall"
    now: date | None = None
    lake: str = ""  # Where the newest day is asked for. Empty: the folder lake/ of the home.
    far_days: int = 30
    when_far: WhenFar = "refuse"
    poll_seconds: float = 2.0
    registry: str = ""  # MLflow's tracking URI. Empty: SQLite under the home.
    fsync: bool = False
    drain_seconds: float = 0.5  # Between 503 on readiness and the closed socket.
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise BadSetting(
                f"--host {self.host}: the service has no keys yet, so it listens on loopback only (127.0.0.1,"
                " ::1 or localhost)"
            )
        if not 0 <= self.port <= 65_535:
            raise BadSetting(f"--port {self.port}: not a port")
        if self.workers < 1:
            raise BadSetting(f"--workers {self.workers}: at least 1")
        if not self.poll_seconds > 0:
            raise BadSetting(f"--poll {self.poll_seconds}: seconds, more than 0")
        if self.now is not None and self.clock != "event":
            raise BadSetting(
                f"--now {self.now}: only with --clock event; the wall clock is the machine's own"
            )
        if self.far_days < 1:
            raise BadSetting(f"--far-days {self.far_days}: at least 1")

    @property
    def tracking_uri(self) -> str:
        """Where MLflow's registry is."""
        return self.registry or f"sqlite:///{self.home.resolve()}/mlflow/mlflow.db"

    @property
    def lake_root(self) -> str:
        """Where the lake is."""
        return self.lake or str(self.home / "lake")

    @property
    def folder(self) -> Path:
        """The service's own folder in the home: the store, and copies of bundles."""
        return self.home / "serving"

    @property
    def database(self) -> Path:
        """The file of the store."""
        return self.folder / "serving.db"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def from_arguments(
    arguments: Sequence[str] | None, environment: Mapping[str, str] = os.environ
) -> ServingSettings:
    """The settings of a command line; `MLOPS_HOME` is the default of `--home`.

    Usage errors exit 2, a refused value is `BadSetting`.
    """
    parser = argparse.ArgumentParser(
        "python -m serving",
        description="The scoring service: follows the registry's champion and answers /predict.",
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(environment.get("MLOPS_HOME") or "var"),
        help="the platform's folder (default: MLOPS_HOME or var)",
    )
    parser.add_argument(
        "--name", default=BEFORE.name, help="the use case, which is the registered model's name"
    )
    parser.add_argument(
        "--events",
        default=BEFORE.event.dataset,
        metavar="DATASET",
        help="the lake's dataset of events, whose days say how far the lake is",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; each has its own connection and its own /metrics"
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "event"],
        default="wall",
        help="event: the newest event is now, for simulated time",
    )
    parser.add_argument(
        "--now", type=_day, metavar="DAY", help="with --clock event: the day from which event time goes on"
    )
    parser.add_argument(
        "--lake", default="", help="where the lake is (default: the folder lake/ of the home)"
    )
    parser.add_argument(
        "--far-days",
        type=int,
        default=30,
        metavar="DAYS",
        help="how far the home's newest day may be from the clock",
    )
    parser.add_argument(
        "--when-far",
        choices=["refuse", "warn"],
        default="refuse",
        help="what to do about a home that is further off",
    )
    parser.add_argument(
        "--poll",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how often the registry is asked for its champion",
    )
    parser.add_argument("--tracking-uri", default="", help="MLflow's registry (default: SQLite under home)")
    parser.add_argument("--fsync", action="store_true", help="flush every commit to the disk")
    given = parser.parse_args(arguments)
    return ServingSettings(
        home=given.home,
        use_case=given.name,
        events=given.events,
        host=given.host,
        port=given.port,
        workers=given.workers,
        clock=given.clock,
        now=given.now,
        lake=given.lake,
        far_days=given.far_days,
        when_far=given.when_far,
        poll_seconds=given.poll,
        registry=given.tracking_uri,
        fsync=given.fsync,
    )


def _day(text: str) -> date:
    try:
        if (day := date.fromisoformat(text)).isoformat() == text:
            return day
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2018-04-01")
