"""Where a service's clock stands when it starts, and whether its home is of another time.

One event alone is no evidence of what time it is. A wrong date in a single event would make all others too
late, or all history too old to be kept.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import date

from feature_repo.errors import LakeError
from feature_repo.lake.datasets import Lake
from feature_repo.times import DAY_US, from_us, midnight_us
from serving.contract.bundle import Release
from serving.settings import BadSetting, ServingSettings
from serving.store.sqlite.database import open_database
from serving.store.sqlite.log_tables import open_read_only
from serving.store.sqlite.state_compatibility import AGREE, agreed_us

log = logging.getLogger("serving.clock")


def check_home(settings: ServingSettings, now_us: int) -> None:
    """Before anything is served: put event time where a person wants it (`now`), or compare the home's newest
    day with the service's clock.

    A home that is further off than `far_days` is `BadSetting`, with both moments and what to do, or a warning
    where `when_far` says so.
    """
    newest_us = lake_end_us(settings)
    if settings.now is not None:
        _set_clock(settings, settings.now, newest_us)
        return
    clock_us = 0
    with open_read_only(settings.database, "sequence") as connection:
        if connection is not None:
            newest_us = max(newest_us, agreed_us(connection, settings.events))
            clock_us = max(connection.execute("SELECT clock_us, newest_us FROM sequence").fetchone())
    # Event time that is behind the lake goes on from the lake's end.
    off_us = abs(now_us - newest_us) if settings.clock == "wall" else clock_us - newest_us
    if not newest_us or off_us <= settings.far_days * DAY_US:
        return
    newest, clock = from_us(newest_us - 1), from_us(now_us if settings.clock == "wall" else clock_us)
    wall, event = (
        "--clock event serves past days",
        f"--clock event --now {from_us(newest_us):%Y-%m-%d} goes on from there",
    )
    why = (
        f"the newest events of {settings.home} are of {newest:%Y-%m-%d}, and the service's clock says"
        f" {clock:%Y-%m-%d %H:%M}: more than {settings.far_days} days apart;"
        f" {wall if settings.clock == 'wall' else event}"
    )
    if settings.when_far == "refuse":
        raise BadSetting(f'{why}, [serving] when_far = "warn" starts all the same')
    log.warning("%s", why)


def lake_end_us(settings: ServingSettings) -> int:
    """Midnight after the newest day of the lake's events, in microseconds since the epoch; 0 without any.

    It takes three rows to reach a day. Where the lake cannot be read, a warning says so: the service needs
    nothing else of it.
    """
    try:
        lake, rows, newest = Lake(settings.lake_root), 0, ""
        for day in reversed(lake.partitions(settings.events)):
            manifest = lake.manifest(settings.events, day)
            if manifest is None or not manifest.rows:
                continue
            rows, newest = rows + manifest.rows, newest or day
            if rows >= AGREE:
                newest = day
                break
    except (LakeError, OSError, ImportError, ValueError) as error:
        log.warning("%s cannot be read, its newest day is not known: %s", settings.lake_root, error)
        return 0
    return midnight_us(newest) + DAY_US if newest else 0


def as_of_us(release: Release) -> int:
    """The day as of which a version was trained, in microseconds since the epoch; 0 where it does not say.

    No event that the version scores is much older.
    """
    try:
        return midnight_us(str(release.facts.get("as_of", "")))
    except ValueError:
        return 0


def _set_clock(settings: ServingSettings, wanted: date, lake_us: int) -> None:
    at_us = midnight_us(wanted.isoformat())
    if at_us < lake_us:
        newest = f"the lake has events up to {from_us(lake_us - 1):%Y-%m-%d}"
        raise BadSetting(f"--now {wanted}: {newest}; event time cannot go back behind them")
    with contextlib.closing(open_database(settings.database, settings.fsync)) as connection:
        (before_us,) = connection.execute("SELECT max(clock_us, newest_us) FROM sequence").fetchone()
        connection.execute("UPDATE sequence SET clock_us = ?, newest_us = ?", (at_us, at_us))
    log.warning(
        "event time goes on from %s; before, it stood at %s",
        wanted,
        from_us(before_us) if before_us else "nothing",
    )
