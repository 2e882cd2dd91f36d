"""What threads do on a store: housekeeping, and the check whether the store can serve a release."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from serving.contract.bundle import Release
from serving.store.base import BadStore, ServingStore, StoreBusy, StoreError
from serving.store.version_counts import Counts, VersionCounts

STEP_EVERY_S = 0.02
ROUND_EVERY_S = 0.5  # Counts are written, and what no window reaches is looked for.
FORGET_PAUSE_S = 0.003  # Between two commits of deletions, so that requests get their turn.
SETTLE_PAUSE_S = 0.01  # Between two commits that pack keys, each of about 1 ms.
AGAIN_S = 1.0  # After the housekeeping died.
SILENT_S = 10.0  # Longer than any step takes, also on a slow disk.
# More than the journal ever needs. Something holds it: a reader that does not end, or a full disk.
LARGE_JOURNAL_BYTES = 400_000_000

log = logging.getLogger("serving.store.upkeep")
T = TypeVar("T")


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


class Between(Protocol):
    """Calls a function on the store that requests use, between two requests, and returns its result."""

    def __call__(self, work: Callable[[ServingStore], T]) -> T:
        """Raises what the function raises."""


class Upkeep:
    """Does a store's housekeeping from a thread, so that no request has to do it.

    Writes the counts of this process, and settles what its questions have shown to be due. Of several
    processes on one store, one forgets the events that no window of the release reaches, and tidies. What the
    store refuses is tried again half a second later.
    Where the housekeeping dies of another error, that is logged and counted, and it is started again.
    """

    def __init__(
        self,
        opened: Callable[[], ServingStore],
        release: Callable[[], Release | None],
        counts: VersionCounts,
        between: Between,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._opened, self._release, self._counts = opened, release, counts
        self._between, self._on_death = between, on_death
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watched, name="upkeep", daemon=True)
        self._alive_s = time.monotonic()
        self._trouble = ""
        self._on_duty, self._duty_known = False, threading.Event()
        self.journal_bytes = 0  # Of the store, as the last step found it.

    @property
    def silent_s(self) -> float:
        """For how many seconds the thread has given no sign of life."""
        return time.monotonic() - self._alive_s

    @property
    def trouble(self) -> str:
        """What is wrong, in one line; empty where nothing is."""
        if (silent_s := self.silent_s) > SILENT_S:
            return f"the store's housekeeping has given no sign of life for {silent_s:.0f} s"
        return self._trouble

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def another_is_on_duty(self) -> bool:
        """Whether another process does the housekeeping. Waits for the first look, at most 5 s."""
        return self._duty_known.wait(5.0) and not self._on_duty

    def start(self) -> None:
        """Begin."""
        self._alive_s = time.monotonic()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write the last counts and end. Wait for it no longer than `timeout_s`."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _watched(self) -> None:
        while True:
            try:
                with contextlib.closing(self._opened()) as store:
                    self._until_stopped(store)
                return
            except Exception as error:
                self._trouble = f"the store's housekeeping died and is started again: {error!r}"
                self._on_death()
                log.exception("the store's housekeeping died and is started again")
            if self._stop.wait(AGAIN_S):
                return

    def _until_stopped(self, store: ServingStore) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.is_set()
            try:
                self._round(store)
                self._say("")
            except StoreError as error:
                self._say(f"the store's housekeeping has to wait: {error}")
                self._stop.wait(ROUND_EVERY_S)

    def _round(self, store: ServingStore) -> None:
        try:
            self._steps(store)
        finally:
            self._counts.write(self._add_measured)

    def _add_measured(self, counts: Counts) -> None:
        """Between two requests, too: where they write without a pause, this thread would wait for seconds."""
        now_us = time.time_ns() // 1_000
        self._between(lambda used: used.add_measured(now_us, counts))

    def _steps(self, store: ServingStore) -> None:
        on_duty = self._on_duty = store.on_duty()
        self._duty_known.set()
        forgets = True
        until_s = time.monotonic() + ROUND_EVERY_S
        while time.monotonic() < until_s and not self._stop.is_set():
            if on_duty:
                # First, because it makes room on a full disk.
                self.journal_bytes = store.tidy(lambda: self._between(lambda used: used.begin_again()))
                forgets = forgets and self._forget_some()
            settles = self._settle_some()
            self._alive_s = time.monotonic()
            pause_s = SETTLE_PAUSE_S if settles else STEP_EVERY_S
            self._stop.wait(FORGET_PAUSE_S if on_duty and forgets else pause_s)

    def _forget_some(self) -> bool:
        """Forget a few events; False where nothing is left to be forgotten."""
        if (release := self._release()) is None:
            return False
        stream, lateness_us = release.subject.event.dataset, release.bounds.lateness_us
        try:
            return self._between(lambda used: used.forget_some(stream, lateness_us)) > 0
        except StoreBusy:
            return True

    def _settle_some(self) -> bool:
        """Settle a little; False where nothing was due."""
        try:
            return self._between(lambda used: used.settle_some())
        except StoreBusy:
            return True

    def _say(self, trouble: str) -> None:
        """Log what is wrong once, and not in every round."""
        if not trouble and self.journal_bytes > LARGE_JOURNAL_BYTES:
            trouble = (
                f"the store's journal grows: it has {self.journal_bytes // 1_000_000} MB; end what reads old"
                " pages of serving.db, such as a backup or a shell"
            )
        if trouble.split(":")[0] != self._trouble.split(":")[0]:
            log.warning("%s", trouble or "the store's housekeeping goes on")
        self._trouble = trouble
