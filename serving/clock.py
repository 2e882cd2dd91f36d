"""Event time before the first request, from the home and the release.

One event alone is no evidence of what time it is. A wrong date in a single event would make all others too
late, or all history too old to be kept.
"""

from __future__ import annotations

import logging

from feature_repo.errors import LakeError
from feature_repo.lake.datasets import Lake
from feature_repo.times import DAY_US, midnight_us
from serving.contract.bundle import Release
from serving.settings import ServingSettings
from serving.store.base import AGREE

log = logging.getLogger("serving.clock")


def lake_end_us(settings: ServingSettings) -> int:
    """Midnight after the newest day of the lake's events, in microseconds since the epoch; 0 without any.

    A day counts from its third row on. Where the lake cannot be read, a warning says so. The service needs
    nothing else of the lake.
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
    """The day as of which a version was trained, in microseconds since the epoch; 0 where it names none.

    No event that the version scores is much older.
    """
    try:
        return midnight_us(str(release.facts.get("as_of", "")))
    except ValueError:
        return 0
