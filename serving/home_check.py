"""The check before the service starts: the home's newest day and the service's clock have to agree."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import date

from feature_repo.times import DAY_US, from_us, midnight_us
from serving.clock import lake_end_us
from serving.settings import BadSetting, ServingSettings
from serving.store.opening import serving_log, serving_store

log = logging.getLogger("serving.home_check")


def check_home(settings: ServingSettings, now_us: int) -> None:
    """Set event time to `settings.now`, or compare the home's newest day with the service's clock.

    Raises `BadSetting` where the two are more than `far_days` apart. The message names both moments and the
    remedy. Where `when_far` is "warn" it is logged instead. Raises `BadStore` where the home's log cannot be
    used.
    """
    newest_us = lake_end_us(settings)
    if settings.now is not None:
        _set_clock(settings, settings.now, newest_us)
        return
    stored = serving_log(settings.database)
    newest_us = max(newest_us, stored.agreed_us(settings.events))
    _, *clocks_us = stored.position()
    clock_us = max(clocks_us)
    # Event time may be behind the lake. The service then goes on from the lake's end.
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
        raise BadSetting(f'{why}, [serving] when_far = "warn" starts the service with a warning')
    log.warning("%s", why)


def _set_clock(settings: ServingSettings, wanted: date, lake_us: int) -> None:
    at_us = midnight_us(wanted.isoformat())
    if at_us < lake_us:
        newest = f"the lake has events up to {from_us(lake_us - 1):%Y-%m-%d}"
        raise BadSetting(f"--now {wanted}: {newest}; event time cannot go back behind them")
    with (
        closing(serving_store(settings.database, settings.fsync, patient=True)) as store,
        store.one_commit(),
    ):
        before = store.position()
        store.move_to(before._replace(clock_us=at_us, newest_us=at_us))
    before_us = max(before.clock_us, before.newest_us)
    told = from_us(before_us) if before_us else "nothing"
    log.warning("event time goes on from %s; before, it stood at %s", wanted, told)
