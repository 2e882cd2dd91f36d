"""The housekeeping is watched: what dies is told and started again, and one process of several does it."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest
from serving_kit import Bench, Running, paid

from serving.store import upkeep as module
from serving.store.base import ServingStore, StoreError
from serving.store.opening import serving_store
from serving.store.upkeep import Upkeep


@contextmanager
def at_work(upkeep: Upkeep) -> Iterator[None]:
    upkeep.start()
    try:
        yield
    finally:
        upkeep.stop()


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def keeping(bench: Bench, opened: Callable[[], ServingStore], on_death: Callable[[], None]) -> Upkeep:
    return Upkeep(opened, lambda: None, bench.plane.counts, bench.plane.between_requests, on_death)


def test_housekeeping_that_dies_is_told_and_started_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.2)
    deaths: list[str] = []
    troubles: list[str] = []

    def opened() -> ServingStore:
        troubles.append(upkeep.trouble)
        if len(troubles) < 3:
            raise RuntimeError("out of descriptors")
        return serving_store(bench.settings.database, patient=True)

    bench.predict(paid(1))
    upkeep = keeping(bench, opened, lambda: deaths.append("died"))
    with caplog.at_level(logging.ERROR), at_work(upkeep):
        until(lambda: len(troubles) == 3 and upkeep.trouble == "")
        until(lambda: bench.log.measured("1", 0).scored == 1)
    assert deaths == ["died", "died"]
    assert troubles[1:] == [
        "the store's housekeeping died and is started again: RuntimeError('out of descriptors')"
    ] * 2  # fmt: skip
    assert "out of descriptors" in caplog.text
    assert not upkeep.alive


def test_keys_are_packed_beside_the_requests_and_not_in_them(bench: Bench) -> None:
    def packs() -> int:
        with closing(sqlite3.connect(bench.settings.database)) as connection:
            found: int = connection.execute("SELECT count(*) FROM online_packs").fetchone()[0]
            return found

    for number in range(30):
        bench.predict(paid(number))
    assert packs() == 0
    with at_work(bench.upkeep()):
        until(packs)


def test_what_the_store_refuses_is_told_once_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ROUND_EVERY_S", 0.02)
    tried: list[int] = []
    store = serving_store(bench.settings.database, patient=True)

    def full_disk(begin_again: Callable[[], bool]) -> int:
        tried.append(1)
        if len(tried) < 5:
            raise StoreError("serving.db: database or disk is full")
        return 0

    monkeypatch.setattr(store, "tidy", full_disk)
    upkeep = keeping(bench, lambda: store, lambda: pytest.fail("it did not die"))
    with caplog.at_level(logging.WARNING), at_work(upkeep):
        until(lambda: upkeep.trouble)
        assert upkeep.trouble.endswith("database or disk is full")
        until(lambda: len(tried) > 5 and not upkeep.trouble)
    said = [record.getMessage() for record in caplog.records if record.name == "serving.store.upkeep"]
    assert said == [
        "the store's housekeeping has to wait: serving.db: database or disk is full",
        "the store's housekeeping goes on",
    ]


def test_housekeeping_that_gives_no_sign_of_life_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    go_on = threading.Event()

    def stuck() -> ServingStore:
        assert go_on.wait(20)
        return serving_store(bench.settings.database, patient=True)

    upkeep = keeping(bench, stuck, lambda: None)
    with at_work(upkeep):
        until(lambda: "no sign of life" in upkeep.trouble)
        go_on.set()
        until(lambda: not upkeep.trouble)


def test_the_journal_that_a_reader_keeps_from_beginning_again_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_JOURNAL_BYTES", 0)
    bench.predict(paid(1))
    upkeep = bench.upkeep()
    with at_work(upkeep):
        until(lambda: "the store's journal grows" in upkeep.trouble)


def test_the_duty_of_a_killed_process_goes_to_another(bench: Bench) -> None:
    opened = partial(serving_store, bench.settings.database, patient=True)
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            dutiful = opened()
            os.write(told, b"y" if dutiful.on_duty() else b"n")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"y"
        store = opened()
        assert not store.on_duty()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
    assert store.on_duty()
    store.close()


@pytest.mark.slow
def test_the_service_shows_its_housekeeping(served: Running) -> None:
    shown = served.client.get("/metrics").text
    assert "serving_upkeep_deaths_total 0.0" in shown
    silent = next(line for line in shown.splitlines() if line.startswith("serving_upkeep_silent_seconds "))
    assert float(silent.split()[1]) < module.SILENT_S
    assert "serving_journal_bytes " in shown
    assert served.client.get("/health").json()["reason"] == ""
