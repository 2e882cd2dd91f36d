"""The parts of a service together, without HTTP."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from serving_kit import paid, predicted

from feature_repo.online.base import OnlineState
from serving import garbage
from serving.champion_registry import Named
from serving.contract.scorers.lightgbm import Scorer
from serving.releases import Champion
from serving.service import Service
from serving.settings import ServingSettings
from serving.store.base import Position, StoreError
from serving.store.sqlite.writing import SqliteServingStore


class NoRegistry:
    """Names no champion."""

    def champion(self) -> Named | None:
        return None

    def download(self, named: Named, into: Path) -> Path:
        raise AssertionError("there is nothing to fetch")


class Slow(NoRegistry):
    """Names no champion, once the test lets it answer."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def champion(self) -> Named | None:
        self.asked.set()
        assert self.may_answer.wait(60)
        return None


class Failing(Scorer):
    """Has no score for some vectors."""

    def score_one(self, values: Sequence[float]) -> float:
        return math.nan


def service_of(home: Path) -> Service:
    return Service(ServingSettings(home, clock="event"), NoRegistry())


def state_of(service: Service) -> OnlineState:
    return service.plane.between_requests(lambda store: store.state)


def test_the_first_release_is_warmed_up(tmp_path: Path, champion: Champion) -> None:
    service = service_of(tmp_path)
    service._warm_up(champion)
    assert state_of(service).count("transactions") == 0
    service.plane.close()


def test_no_request_waits_for_garbage_to_be_looked_for_among_all_that_stays(
    tmp_path: Path, champion: Champion
) -> None:
    service = service_of(tmp_path)
    stays = [service]
    assert gc.is_tracked(stays)
    thresholds = gc.get_threshold()
    service._warm_up(champion)
    assert not any(one is stays for one in gc.get_objects())
    assert gc.get_threshold() == garbage.THRESHOLDS
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    service.plane.close()


class Cycle:
    """Only a look through all objects frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_while_no_request_comes_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(garbage, "AT_MOST_EVERY_S", 0.0)
    busy = [True]  # The thread uses all of the processor's time, or none.
    monkeypatch.setattr(time, "thread_time", lambda: time.monotonic() if busy[0] else 0.0)
    lost = Cycle()
    gone = weakref.ref(lost)
    del lost

    async def busy_then_idle() -> None:
        collecting = asyncio.ensure_future(garbage.collect_while_idle())
        await asyncio.sleep(0.2)
        assert gone() is not None
        busy[0] = False
        await asyncio.sleep(0.2)
        assert gone() is None
        collecting.cancel()

    gc.disable()
    try:
        asyncio.run(busy_then_idle())
    finally:
        gc.enable()


def test_a_swap_makes_no_request_wait_for_a_warm_up(tmp_path: Path, champion: Champion) -> None:
    service = service_of(tmp_path)
    service.follower.current = champion
    service._warm_up(champion)
    with pytest.raises(StoreError, match="no release is held"):
        state_of(service)
    service.plane.close()


def test_a_model_that_fails_for_an_event_of_nobody_serves_all_the_same(
    tmp_path: Path, champion: Champion, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_of(tmp_path)
    failing = Failing(champion.release.model_text, champion.release.calibrator)
    service._warm_up(replace(champion, scorer=failing))
    assert "serves without having been warmed up: ValueError" in caplog.text
    assert service.plane.between_requests(lambda store: store.position()) == Position(0, 0, 0)
    service.plane.close()


def test_a_store_that_is_busy_is_no_reason_against_a_release(tmp_path: Path, champion: Champion) -> None:
    service = service_of(tmp_path)
    service.plane.warm_up(champion)
    other = SqliteServingStore(service.settings.database)
    other.hold(champion.release.subject, champion.release.plan)
    with other.one_commit():
        service._warm_up(champion)
    other.close()
    service.plane.close()


@pytest.mark.parametrize(("workers", "another_serves"), [(1, False), (2, False), (2, True)])
def test_a_worker_beside_others_takes_requests_once_the_registry_was_asked(
    tmp_path: Path, workers: int, another_serves: bool
) -> None:
    registry = Slow()
    service = Service(ServingSettings(tmp_path, clock="event", workers=workers), registry)
    another = SqliteServingStore(service.settings.database)
    if another_serves:
        assert another.on_duty()

    async def takes_requests() -> bool:
        """Whether it takes requests before the registry has answered."""
        async with service.running(None):
            early = not registry.may_answer.is_set()
            registry.may_answer.set()
            return early

    async def serve() -> bool:
        serving = asyncio.create_task(takes_requests())
        assert await asyncio.to_thread(registry.asked.wait, 60)
        if another_serves:
            await asyncio.sleep(0.1)
            registry.may_answer.set()
        return await serving

    assert asyncio.run(serve()) == (not another_serves)
    another.close()


@pytest.mark.fault(39)
def test_the_housekeeping_works_between_requests_on_their_own_thread(
    tmp_path: Path, champion: Champion
) -> None:
    service, seen = service_of(tmp_path), list[str]()

    async def serve() -> None:
        async with service.running(None):
            service.follower.current = champion
            for number in range(5):
                predicted(service.plane, paid(number))
                await asyncio.sleep(0.1)
            seen.append(threading.current_thread().name)
            await asyncio.to_thread(
                service._between_requests, lambda store: seen.append(threading.current_thread().name)
            )
            assert service.upkeep.alive
            assert service.upkeep.journal_bytes > 0

    asyncio.run(serve())
    assert seen[0] == seen[1]
    assert not service.upkeep.alive
    assert service.upkeep.trouble == ""
