"""Checkpoints beside traffic: no commit of a request makes one, and the WAL does not grow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from serving_kit import DAY_US, START_US, Bench, paid

from serving.contract.before_subjects import BEFORE
from serving.store.opening import serving_store
from serving.store.sqlite import checkpoints, database
from serving.store.sqlite.writing import SqliteServingStore

PAGE = 4_096 + 24  # In the WAL, with its header.
BEGIN_AGAIN = 300


@pytest.fixture
def beside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteServingStore]:
    """The store as the housekeeping opens it, whose every step makes a pass."""
    monkeypatch.setattr(checkpoints, "SOONEST_S", 0.0)
    monkeypatch.setattr(checkpoints, "LATEST_S", 0.0)
    monkeypatch.setattr(checkpoints, "BEGIN_AGAIN_PAGES", BEGIN_AGAIN)
    with closing(SqliteServingStore(bench.settings.database, patient=True)) as store:
        yield store


def wal(bench: Bench) -> Path:
    return bench.settings.database.with_name("serving.db-wal")


def pages(bench: Bench) -> int:
    """How many the WAL holds since it began again, without a pass. SQLite has no lock on this file."""
    held = wal(bench).read_bytes()
    salts = held[16:24]
    return next(
        (n for n in range(len(held) // PAGE) if held[32 + n * PAGE + 8 : 32 + n * PAGE + 16] != salts),
        len(held) // PAGE,
    )


@pytest.mark.fault(39)
def test_the_wal_stays_below_its_bound_while_payments_go_on_and_event_time_moves_by_days(
    bench: Bench, beside: SqliteServingStore
) -> None:
    def begin_again() -> bool:
        begun.append(bench.plane.between_requests(lambda store: store.begin_again()))
        return begun[-1]

    assert bench.champion is not None
    lateness_us = bench.champion.release.bounds.lateness_us
    begun: list[bool] = []
    largest = forgotten = 0
    for number in range(600):
        bench.predict(paid(number, START_US + number * DAY_US // 4, f"c{number % 7}"))
        forgotten += bench.store.forget_some("transactions", lateness_us)
        if number % 5 == 0:
            largest = max(largest, beside.tidy(begin_again))
    assert sum(begun) > 10, "without that the WAL would be ten times as large"
    assert largest < 2 * BEGIN_AGAIN * PAGE
    assert forgotten > 0
    assert bench.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.fault(39)
def test_a_payment_moves_no_pages(bench: Bench, beside: SqliteServingStore) -> None:
    size = bench.settings.database.stat().st_size
    for number in range(150):
        bench.predict(paid(number))
    assert pages(bench) > 1_000, "more than SQLite's own bound"
    assert bench.settings.database.stat().st_size == size
    beside.tidy(lambda: False)
    assert bench.settings.database.stat().st_size > size


def test_where_a_reader_keeps_old_pages_the_wal_begins_again_when_the_reader_has_ended(
    bench: Bench, beside: SqliteServingStore
) -> None:
    tried = []

    def begin_again() -> bool:
        tried.append(bench.store.begin_again())
        return tried[-1]

    bench.predict(paid(0))
    with closing(sqlite3.connect(bench.settings.database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        for number in range(1, 60):
            bench.predict(paid(number))
        grown = pages(bench)
        assert grown > BEGIN_AGAIN
        beside.tidy(begin_again)
        beside.tidy(begin_again)
        assert tried == [False, False]
    beside.tidy(begin_again)
    assert tried == [False, False, True], "also where nobody has written since"
    assert pages(bench) == 1
    beside.tidy(begin_again)
    assert len(tried) == 3
    assert len(bench.decisions("2018-04-01")) == 60


@pytest.mark.fault(39)
def test_the_first_commit_into_the_wal_that_begins_again_is_not_a_payments(
    bench: Bench, beside: SqliteServingStore
) -> None:
    """It waits for the disk."""
    bench.predict(paid(0))
    beside.tidy(bench.store.begin_again)
    salts = wal(bench).read_bytes()[16:24]
    assert pages(bench) == 1
    bench.predict(paid(1))
    assert wal(bench).read_bytes()[16:24] == salts
    assert pages(bench) > 1


def test_a_wal_that_has_grown_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAL_BYTES", 100 * PAGE)
    for number in range(60):
        bench.predict(paid(number))
    assert wal(bench).stat().st_size > 200 * PAGE
    with closing(serving_store(bench.settings.database)) as store:
        assert store.begin_again()
    assert wal(bench).stat().st_size <= 101 * PAGE


def test_without_any_housekeeping_the_wal_has_a_bound_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "EMERGENCY_CHECKPOINT_PAGES", BEGIN_AGAIN)
    assert bench.champion is not None
    plan, largest, written = bench.champion.release.plan, 0, 0
    with closing(serving_store(bench.settings.database)) as store:
        store.hold(BEFORE, plan)
        for number in range(300):
            before = pages(bench)
            with store.one_commit():
                row = {"customer_id": f"c{number}", "merchant_id": "m", "amount": 1.0, "is_declined": False}
                store.state.push("transactions", f"t{number}", row, START_US + number, START_US + number)
            written += max(pages(bench) - before, 0)
            largest = max(largest, wal(bench).stat().st_size)
    assert written > 3 * BEGIN_AGAIN
    assert largest < 2 * BEGIN_AGAIN * PAGE
