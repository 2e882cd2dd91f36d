"""The parts of a running service, and how the service starts and stops.

At a stop, readiness goes first, requests in flight are answered, then the socket closes.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from serving import garbage
from serving.champion_registry import MlflowRegistry, Registry
from serving.contract.bundle import Release
from serving.data_plane import DataPlane
from serving.metrics import Metrics
from serving.releases import Champion, Follower
from serving.settings import ServingSettings
from serving.store.base import ServingStore
from serving.store.opening import serving_store
from serving.store.upkeep import Upkeep, state_check

ORPHAN_TIMEOUT_S = 40  # More than the grace for requests in flight.
log = logging.getLogger("serving")
Result = TypeVar("Result")


class Service:
    """The service of one process: settings, counters, the follower of the registry, the data plane."""

    def __init__(self, settings: ServingSettings, registry: Registry | None = None) -> None:
        self.settings = settings
        self.draining = False
        self.metrics = Metrics()
        registry = registry or MlflowRegistry(settings.tracking_uri, settings.use_case)
        # Each thread opens its own store, which may wait longer for the lock.
        patient_store = partial(serving_store, settings.database, settings.fsync, patient=True)
        self.follower = Follower(
            settings,
            registry,
            state_check(patient_store),
            lambda outcome: self.metrics.swaps[outcome].inc(),
            warm_up=self._warm_up,
        )
        self.plane = DataPlane(
            settings,
            serving_store(settings.database, settings.fsync, in_turns=settings.workers > 1),
            lambda: self.follower.current,
            lambda: time.time_ns() // 1_000,
        )
        self.upkeep = Upkeep(
            patient_store,
            self._release,
            self.plane.counts,
            self._between_requests,
            self.metrics.upkeep_deaths.inc,
        )
        self.metrics.watch_upkeep(lambda: self.upkeep.silent_s, lambda: self.upkeep.journal_bytes)
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self, app: Any) -> AsyncIterator[None]:
        """The lifespan of the application: starts the threads, and stops everything at the end."""
        self._loop = asyncio.get_running_loop()
        collecting = asyncio.ensure_future(garbage.collect_while_idle())
        self.follower.start()
        self.upkeep.start()
        self._end_with_the_supervisor()
        self._drain_before_exit()
        try:
            if self.settings.workers > 1 and await asyncio.to_thread(self.upkeep.another_is_on_duty):
                # The workers share a socket. One that is started again leaves requests to the others until it
                # has a model. Of workers that start together, the one on duty answers at once.
                await asyncio.to_thread(self.follower.asked.wait, self.settings.limits.registry_patience_s)
            yield
        finally:
            collecting.cancel()
            self.follower.stop()
            await asyncio.to_thread(self.upkeep.stop)  # Its last step may need this loop.
            self.plane.close()
            log.info("stopped")

    def _release(self) -> Release | None:
        champion = self.follower.current
        return champion.release if champion else None

    def _warm_up(self, champion: Champion) -> None:
        """Before the first release serves. A swap finds the service warm, and requests must not wait for it.

        Where it fails, the first request is slower. That is no reason against a release whose golden rows
        were right: the store may be busy, or the model may fail for an event of nobody.
        """
        if self.follower.current is not None:
            return
        try:
            self.plane.warm_up(champion)
        except Exception as error:
            log.warning("version %s serves without having been warmed up: %r", champion.version, error)
        garbage.keep_what_is_there()

    def _between_requests(self, work: Callable[[ServingStore], Result]) -> Result:
        """On the loop, where requests are answered. A thread would compete with them for the store."""

        async def now() -> Result:
            return self.plane.between_requests(work)

        if self._loop is None:
            raise RuntimeError("the service does not run")
        return asyncio.run_coroutine_threadsafe(now(), self._loop).result()

    def _end_with_the_supervisor(self) -> None:
        """Stop a worker whose supervisor was killed, because the next supervisor needs the port.

        Requests in flight are answered within the grace that the server gives at SIGTERM.
        """
        supervisor = multiprocessing.parent_process()
        if supervisor is None or threading.current_thread() is not threading.main_thread():
            return
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def watch() -> None:
            supervisor.join()
            log.error("the supervisor of this worker is gone: the worker ends")
            if callable(stop):
                loop.call_soon_threadsafe(stop, signal.SIGTERM, None)
            time.sleep(ORPHAN_TIMEOUT_S)
            os._exit(1)

        threading.Thread(target=watch, name="supervisor", daemon=True).start()

    def _drain_before_exit(self) -> None:
        """On SIGTERM answer 503 on readiness first, and hand the signal to the server a moment later.

        A load balancer can turn away in between.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: FrameType | None) -> None:
            self.draining = True
            self.follower.asked.set()
            if callable(before):
                loop.call_soon_threadsafe(loop.call_later, self.settings.drain_seconds, before, number, None)

        signal.signal(signal.SIGTERM, drain)
