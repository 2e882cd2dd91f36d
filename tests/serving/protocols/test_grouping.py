"""Requests that wait at the same moment are decided in order, in one commit, and answered after it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_kit import Drawn, Outcome, Row, drawn_rows, left, rows_of, told
from serving_kit import REVIEW_ALL, START_US, Bench, count_from_zero, deciding, paid
from starlette.requests import ClientDisconnect

from serving.contract.events import EventRecord, Labels
from serving.contract.records import Answer
from serving.data_plane import DataPlane
from serving.messages import BadInput, Conflict, ReadyVector
from serving.protocols.grouping import MOST_ROWS, Grouping
from serving.protocols.patience import HungUp
from serving.releases import Champion
from serving.store.base import StoreBusy, StoreError

PATIENCE_S = 30.0  # The deadline where the deadline is not the subject.


async def here() -> bool:
    return False


async def gone() -> bool:
    return True


async def answer(grouping: Grouping, row: Row, hung_up: HungUp) -> Answer:
    """The answer to a row, or its error."""
    reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    grouping.decide(row, hung_up, reply)
    return await reply


def decided(
    grouping: Grouping, rows: list[Row], hung_up: Callable[[int], HungUp] | None = None
) -> list[Outcome]:
    """The outcomes of rows that come in one iteration of the loop."""

    async def at_once() -> list[Outcome]:
        asked = [
            answer(grouping, row, here if hung_up is None else hung_up(number))
            for number, row in enumerate(rows)
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(at_once())


def failing_at(
    *event_ids: str, error: type[Exception] = ZeroDivisionError
) -> Callable[[EventRecord, Labels], list[tuple[int, bool]]]:
    """The verdicts of events, with a fault of the service at some events, which are in the state by then."""
    made = EventRecord.verdicts

    def verdicts(record: EventRecord, labels: Labels) -> list[tuple[int, bool]]:
        if record.event["transaction_id"] in event_ids:
            raise error(record.event["transaction_id"])
        return made(record, labels)

    return verdicts


def commits(bench: Bench, work: Callable[[], object]) -> int:
    """How often the work commits."""
    statements: list[str] = []
    bench.connection.set_trace_callback(statements.append)
    work()
    bench.connection.set_trace_callback(None)
    return statements.count("COMMIT")


@pytest.fixture
def grouping(bench: Bench) -> Grouping:
    bench.predict(paid(0))
    return Grouping(bench.plane, PATIENCE_S)


@pytest.fixture
def holder(bench: Bench) -> Iterator[sqlite3.Connection]:
    """Another process that has the lock of the store."""
    with closing(sqlite3.connect(bench.settings.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@settings(max_examples=30, deadline=None)
@given(
    drawn=drawn_rows(10),
    cuts=st.lists(st.integers(1, 5), max_size=6),
    fault=st.none() | st.integers(0, 5),
)
def test_any_split_into_groups_answers_and_leaves_what_one_at_a_time_does(
    champion: Champion,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[Drawn],
    cuts: list[int],
    fault: int | None,
) -> None:
    champion = deciding(champion, REVIEW_ALL)
    rows = rows_of(champion, drawn)
    grouped, single = (Bench(tmp_path_factory.mktemp("plane"), champion) for _ in range(2))
    for bench in (grouped, single):
        count_from_zero(bench.settings.database)
    ends = [0, *(end for end in accumulate(cuts) if end < len(rows)), len(rows)]
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            patch.setattr(EventRecord, "verdicts", failing_at(f"t{fault}"))
        one, many = Grouping(single.plane, PATIENCE_S), Grouping(grouped.plane, PATIENCE_S)
        alone = [outcome for row in rows for outcome in decided(one, [row])]
        together = [outcome for a, b in pairwise(ends) for outcome in decided(many, rows[a:b])]
    assert told(together) == told(alone)
    assert left(grouped) == left(single)
    grouped.plane.close()
    single.plane.close()


def test_what_comes_in_one_iteration_is_committed_a_few_at_a_time_in_its_order(
    bench: Bench, grouping: Grouping
) -> None:
    rows = [paid(number) for number in range(1, 2 * MOST_ROWS + 4)]
    assert commits(bench, lambda: decided(grouping, list(rows))) == 3
    ids = [row[0] for row in bench.connection.execute("SELECT prediction_id FROM decisions ORDER BY seq")]
    assert ids == ["t0", *(row.id for row in rows)]


def test_an_error_that_no_future_takes_is_told_and_holds_up_nobody(
    bench: Bench, grouping: Grouping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventRecord, "verdicts", failing_at("t3", error=StopIteration))
    outcomes = decided(grouping, [paid(number) for number in range(1, 2 * MOST_ROWS + 4)])
    (failed,) = (one for one in outcomes if not isinstance(one, Answer))
    assert isinstance(failed, RuntimeError)
    assert str(failed) == "StopIteration('t3')"
    assert isinstance(decided(grouping, [paid(100)])[0], Answer)


def test_a_reply_that_fails_is_logged_and_the_others_get_theirs(
    grouping: Grouping, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(asyncio.Future[Answer]):
        def set_result(self, result: Answer, /) -> None:
            raise ZeroDivisionError

    async def asked() -> Answer:
        grouping.decide(paid(1), here, Broken())
        return await answer(grouping, paid(2), here)

    assert asyncio.run(asked()).prediction_id == "t2"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_each_decision_on_record_is_counted_once_whatever_was_undone_in_between(
    bench: Bench, grouping: Grouping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventRecord, "verdicts", failing_at("t3", "t7", "t8"))
    decided(grouping, [paid(number) for number in range(1, 9)])
    counted: dict[tuple[str, str], int] = {}
    bench.plane.counts.write(counted.update)
    on_record = bench.connection.execute("SELECT count(*) FROM decisions").fetchone()[0]
    assert (counted["1", "scored"], on_record) == (6, 6)


def test_a_request_alone_is_decided_without_a_pause(bench: Bench, grouping: Grouping) -> None:
    async def iterations() -> int:
        reply, passed = asyncio.get_running_loop().create_future(), 0
        grouping.decide(paid(1), here, reply)
        while not reply.done():
            await asyncio.sleep(0)
            passed += 1
        return passed

    assert asyncio.run(iterations()) == 1


def test_a_row_that_is_refused_or_fails_leaves_nothing_and_its_group_goes_on(
    bench: Bench, grouping: Grouping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventRecord, "verdicts", failing_at("t3"))
    rows = [paid(1), paid(0, amount=11.0), paid(2, amount=-1.0), paid(3), ReadyVector({}), paid(1), paid(4)]
    outcomes = decided(grouping, [*rows])
    kinds = [Answer, Conflict, BadInput, ZeroDivisionError, BadInput, Answer, Answer]
    assert [type(one) for one in outcomes] == kinds
    ids = bench.connection.execute("SELECT seq, prediction_id FROM decisions ORDER BY seq").fetchall()
    assert ids == [(1, "t0"), (2, "t1"), (3, "t4")]
    stored = bench.connection.execute("SELECT event_id FROM online_transactions ORDER BY 1").fetchall()
    assert stored == [("t0",), ("t1",), ("t4",)]


@pytest.mark.fault(25)
def test_a_full_disk_is_told_to_the_whole_group_and_nothing_of_it_is_kept(
    bench: Bench, grouping: Grouping
) -> None:
    before = left(bench)
    rows = [paid(number) for number in range(1, MOST_ROWS + 1)]
    (pages,) = bench.connection.execute("PRAGMA page_count").fetchone()
    bench.connection.execute(f"PRAGMA max_page_count = {pages}")
    outcomes = decided(grouping, [*rows])
    assert {type(one) for one in outcomes} == {StoreError}
    assert str(outcomes[-1]) == "serving.db: database or disk is full"
    assert left(bench) == before
    bench.connection.execute("PRAGMA max_page_count = 4294967294")
    assert {type(one) for one in decided(grouping, [*rows])} == {Answer}


def test_a_group_waits_for_the_store_and_those_who_hung_up_meanwhile_leave_nothing(
    bench: Bench, grouping: Grouping, holder: sqlite3.Connection
) -> None:
    async def asked() -> list[Outcome]:
        first = [answer(grouping, paid(n), gone if n == 2 else here) for n in (1, 2, 3)]
        waiting = asyncio.gather(*first, return_exceptions=True)
        await asyncio.sleep(0.03)
        later = asyncio.ensure_future(answer(grouping, paid(4), here))
        cancelled = asyncio.ensure_future(answer(grouping, paid(5), here))
        await asyncio.sleep(0.03)
        assert not later.done()
        cancelled.cancel()
        holder.execute("ROLLBACK")
        return [*await waiting, await later]

    outcomes = asyncio.run(asked())
    assert [type(one) for one in outcomes] == [Answer, ClientDisconnect, Answer, Answer]
    ids = [row[0] for row in bench.connection.execute("SELECT prediction_id FROM decisions ORDER BY seq")]
    assert ids == ["t0", "t1", "t3", "t4"]


def test_a_cancelled_request_leaves_nothing_and_keeps_nobody_waiting(
    bench: Bench, grouping: Grouping
) -> None:
    async def asked() -> list[Outcome]:
        requests = [asyncio.ensure_future(answer(grouping, paid(number), here)) for number in (1, 2, 3)]
        asyncio.get_running_loop().call_soon(requests[0].cancel)
        return await asyncio.gather(*requests, return_exceptions=True)

    assert [type(one) for one in asyncio.run(asked())] == [asyncio.CancelledError, Answer, Answer]
    ids = [row[0] for row in bench.connection.execute("SELECT prediction_id FROM decisions ORDER BY seq")]
    assert ids == ["t0", "t2", "t3"]


def test_a_request_waits_for_the_store_no_longer_than_its_own_deadline(
    bench: Bench, holder: sqlite3.Connection
) -> None:
    grouping = Grouping(bench.plane, deadline_s=0.2)

    async def asked() -> Outcome:
        first = asyncio.ensure_future(answer(grouping, paid(1), here))
        await asyncio.sleep(0.05)
        grouping._deadline_s = PATIENCE_S
        second = asyncio.ensure_future(answer(grouping, paid(2), here))
        with pytest.raises(StoreBusy):
            await first
        assert not second.done()
        holder.execute("ROLLBACK")
        return await second

    holder.execute("ROLLBACK")
    bench.predict(paid(0))
    holder.execute("BEGIN IMMEDIATE")
    assert isinstance(asyncio.run(asked()), Answer)
    assert bench.connection.execute("SELECT count(*) FROM decisions").fetchone() == (2,)


def test_a_group_is_of_one_generation(bench: Bench, champion: Champion) -> None:
    champions = (replace(champion, version=str(number)) for number in range(1, 100))
    bench.predict(paid(0))
    plane = DataPlane(bench.settings, bench.store, lambda: next(champions), lambda: START_US)
    answers = decided(Grouping(plane, PATIENCE_S), [paid(number) for number in range(1, MOST_ROWS)])
    assert len({one.model_version for one in answers if isinstance(one, Answer)}) == 1
