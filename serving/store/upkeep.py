"""What threads do on a store: housekeeping, and the check whether the store can serve a release."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from serving.contract.bundle import Release
from serving.store.base import BadStore, ServingStore, StoreError
from serving.store.version_counts import VersionCounts

TIDY_EVERY_S = 0.5
PRUNE_PAUSE_S = 0.02  # Between two commits of deletions, so that requests get their turn.

log = logging.getLogger("serving.store.upkeep")


def state_check(opened: Callable[[], ServingStore]) -> Callable[[Release], list[str]]:
    """For the follower's thread: a function that gives the reasons why the store cannot serve a release.

    Where the store can serve it, what the release needs is made here, and not while a request waits.
    """

    def reasons_against(release: Release) -> list[str]:
        with contextlib.closing(opened()) as store:
            if reasons := store.lacks(release.plan):
                return reasons
            try:
                store.hold(release.subject, release.plan)
            except BadStore as error:
                return [str(error)]
            return []

    return reasons_against


def tidy_until(
    stop: threading.Event,
    opened: Callable[[], ServingStore],
    release: Callable[[], Release | None],
    counts: VersionCounts,
) -> None:
    """Do the store's housekeeping until `stop` is set. It runs in a thread, so that no request has to do it.

    Writes the counts, forgets the events that no window of the release reaches, and tidies. What the store
    refuses is tried again half a second later.
    """
    with contextlib.closing(opened()) as store:
        last = False
        while not last:
            last = stop.wait(TIDY_EVERY_S)
            try:
                counts.write(partial(store.add_measured, time.time_ns() // 1_000))
                if current := release():
                    stream, lateness_us = current.subject.event.dataset, current.bounds.lateness_us
                    store.forget(current.plan, stream, lateness_us, lambda: stop.wait(PRUNE_PAUSE_S))
                store.tidy()
            except StoreError as error:
                log.warning("tidying the store has to wait: %s", error)
