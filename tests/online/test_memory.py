"""What is held in memory is what the file holds: whoever writes it, and whatever is undone."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from event_kit import HOUR, MINUTE, START, event
from stores import connect
from test_any_store import KEY, SMALL_PACKS, one, push
from test_online_state import packed_view, small_packs

from feature_repo.engine.plan import Aggregate, FeaturePlan, ViewPlan
from feature_repo.online.sqlite.memory import EVENT_BYTES, KEY_BYTES, Held, Memory
from feature_repo.online.sqlite.rebuild import OnlineRebuild
from feature_repo.online.sqlite.state import SqliteOnlineState

ASKED = START + 300 * MINUTE


class Undo(Exception):
    pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(file: Path) -> SqliteOnlineState:
    """Twelve events with a pack of them, all of which the state holds in memory."""
    state = SqliteOnlineState(connect(file), one(packed_view()))
    with small_packs():
        with state.transaction():
            for number in range(12):
                push(state, number, event(number, money=float(number)))
            state.aggregates(KEY, ASKED)
            state.settle()
        for _ in range(2):
            assert asked(state) == 66.0
    assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (1,)
    return state


def asked(state: SqliteOnlineState) -> object:
    with state.transaction():
        return state.aggregates(KEY, ASKED)["x"]


@contextmanager
def statements(connection: sqlite3.Connection) -> Iterator[list[str]]:
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    try:
        yield seen
    finally:
        connection.set_trace_callback(None)


def test_a_key_that_was_asked_before_is_answered_without_a_look_into_the_file(
    state: SqliteOnlineState,
) -> None:
    with statements(state.connection) as seen:
        assert asked(state) == 66.0
    assert seen == ["BEGIN IMMEDIATE", "PRAGMA data_version", "COMMIT"]


def test_an_event_in_order_is_pushed_without_a_look_for_packs_and_is_in_the_next_answer(
    state: SqliteOnlineState,
) -> None:
    with state.transaction():
        push(state, 20, event(20, money=100.0))
    with statements(state.connection) as seen:
        with state.transaction():
            push(state, 21, event(21, money=1000.0))
        assert asked(state) == 1166.0
    assert not [statement for statement in seen if statement.startswith("SELECT")]


def test_what_another_connection_writes_between_two_transactions_is_in_the_next_answer(
    state: SqliteOnlineState, file: Path
) -> None:
    other = SqliteOnlineState(connect(file), state.plan)
    for number, expected in ((30, 166.0), (31, 266.0)):
        with other.transaction():
            push(other, number, event(number, money=100.0))
        assert asked(state) == expected
        assert asked(state) == expected
    with other.transaction():
        other.remove("s", "3")
    assert asked(state) == 263.0


def test_what_others_write_on_the_same_connection_is_in_the_next_answer(state: SqliteOnlineState) -> None:
    push(SqliteOnlineState(state.connection, state.plan), 30, event(30, money=100.0))
    assert asked(state) == 166.0
    assert asked(state) == 166.0
    state.connection.execute("UPDATE online_s SET money = money + 100 WHERE event_id = '30'")
    assert asked(state) == 167.0


@pytest.mark.parametrize("minute", [3, 30])
@pytest.mark.parametrize("held", [True, False])
def test_what_is_undone_is_not_in_the_next_answer(
    state: SqliteOnlineState, file: Path, minute: int, held: bool
) -> None:
    if not held:
        state = SqliteOnlineState(connect(file), state.plan)
        with state.transaction():
            pass

    def written_and_asked() -> object:
        push(state, 100, event(minute, money=100.0))
        return state.aggregates(KEY, ASKED)["x"]

    with suppress(Undo), state.transaction():
        assert written_and_asked() == 166.0
        raise Undo
    assert asked(state) == 66.0


def test_packs_that_an_undone_removal_brought_back_take_late_events(state: SqliteOnlineState) -> None:
    with suppress(Undo), state.transaction():
        state.remove("s", "3")
        push(state, 100, event(2, money=100.0))
        raise Undo
    with state.transaction():
        push(state, 101, event(4, money=1000.0))
    again = SqliteOnlineState(state.connection, state.plan)
    assert again.aggregates(KEY, ASKED)["x"] == 1066.0


def test_a_late_event_outside_of_a_transaction_is_brought_into_a_pack_that_another_connection_made(
    file: Path,
) -> None:
    state = SqliteOnlineState(connect(file), one(packed_view()))
    for number in range(12):  # In the last ones, the state knows that there is no pack.
        with state.transaction():
            push(state, number, event(number, money=float(number)))
    other = SqliteOnlineState(connect(file), state.plan)
    with small_packs(), other.transaction():
        other.aggregates(KEY, ASKED)
        other.settle()
    push(state, 100, event(3, money=100.0))
    assert other.aggregates(KEY, ASKED)["x"] == 166.0


def test_a_pack_that_is_made_anew_is_held_with_the_events_after_it(state: SqliteOnlineState) -> None:
    with small_packs():
        with state.transaction():
            for number in range(20, 26):
                push(state, number, event(number, money=100.0))
        assert asked(state) == 666.0
        with state.transaction():
            assert state.due
            state.settle()
            assert not state.due
        with statements(state.connection) as seen:
            assert asked(state) == 666.0
    assert not [statement for statement in seen if statement.startswith("SELECT")]
    ends = state.connection.execute("SELECT upto_us FROM online_packs").fetchall()
    assert ends == [(START + 25 * MINUTE,)]


def test_a_new_generation_is_not_answered_from_the_memory_of_the_old_one(
    state: SqliteOnlineState, file: Path
) -> None:
    with OnlineRebuild(connect(file), state.plan) as rebuild:
        rebuild.load("s", [("1", event(1, money=7.0), START + MINUTE, START + MINUTE)])
        rebuild.switch()
    for _ in range(2):
        assert asked(state) == 7.0
    with OnlineRebuild(state.connection, state.plan) as rebuild:
        rebuild.switch()
    assert asked(state) == 0


def test_questions_outside_of_a_transaction_read_the_file(state: SqliteOnlineState) -> None:
    with statements(state.connection) as seen:
        assert state.aggregates(KEY, ASKED)["x"] == 66.0
    assert len(seen) == 2


def test_the_newest_event_before_a_moment_is_found_without_a_look_into_the_file(
    state: SqliteOnlineState,
) -> None:
    def newest(minute: int) -> int:
        found = state.newest_us("s", START + minute * MINUTE)
        assert found is not None
        return (found - START) // MINUTE

    with state.transaction():
        assert newest(6) == 5
    with statements(state.connection) as seen, state.transaction():
        push(state, 100, event(30))
        assert [newest(minute) for minute in (6, 7, 30, 31, 99)] == [5, 6, 11, 30, 30]
        push(state, 101, event(8))
        assert newest(9) == 8
    assert not [statement for statement in seen if statement.startswith("SELECT max")]
    with state.transaction():
        assert newest(3) == 2
        state.remove("s", "100")
        assert newest(40) == 11
        assert newest(12) == 11
        state.prune(START + 5 * MINUTE, 100)
        assert state.newest_us("s", START + 5 * MINUTE) is None


def test_versions_are_written_once_a_transaction_however_often_they_rise(state: SqliteOnlineState) -> None:
    before = state.versions(KEY)["s.key"]
    with statements(state.connection) as seen, state.transaction():
        for number in range(20, 25):
            push(state, number, event(number))
            assert state.versions(KEY) == {"s.key": before + number - 19}
        assert not [statement for statement in seen if "INSERT INTO online_versions" in statement]
    assert len([statement for statement in seen if "INSERT INTO online_versions" in statement]) == 1
    assert SqliteOnlineState(state.connection, state.plan).versions(KEY) == {"s.key": before + 5}


def test_of_a_key_with_many_events_only_the_first_are_held_and_every_answer_is_right(file: Path) -> None:
    view = ViewPlan("v", "key", "s", 0, (Aggregate("x", "money", "sum", 5 * HOUR),), {"money": 2})
    state, total = SqliteOnlineState(connect(file), one(view)), 0.0
    with patch.multiple("feature_repo.online.sqlite.packs", **SMALL_PACKS):
        for number in range(40):  # The state learns of each ten minutes before it happens.
            with state.transaction():
                push(state, number, event(number, late=-10, money=1.0))
                assert state.aggregates(KEY, START + number * MINUTE - 9 * MINUTE)["x"] == max(0, number - 9)
                total = float(str(state.aggregates(KEY, ASKED)["x"]))
            assert total == number + 1
    held = list(state._memory._held.values())
    assert len(held) == 1
    assert len(held[0].rows) <= SMALL_PACKS["HELD"]


def test_the_keys_that_were_not_asked_for_longest_are_dropped_when_the_memory_is_full() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    memory = Memory(connection, most_bytes=3 * (KEY_BYTES + 2 * EVENT_BYTES))
    rows = ((2, 2), (1, 1))
    assert not memory.begin()
    memory.end()
    assert memory.begin()
    for key in "abc":
        memory.keep((1, key), Held(None, 0, 9, 0, rows))
    assert memory.get((1, "a")) is not None
    memory.keep((1, "d"), Held(None, 0, 9, 0, rows))
    assert [key for key in "abcd" if memory.get((1, key)) is not None] == ["a", "c", "d"]
    pack = (0, 0, 0, 0, "bb", b"12", bytes(2 * (KEY_BYTES + 2 * EVENT_BYTES)))
    memory.keep((1, "e"), Held(pack, 0, 9, 0, rows))
    assert [key for key in "abcde" if memory.get((1, key)) is not None] == []


def test_two_views_of_one_key_are_held_apart(file: Path) -> None:
    views = tuple(
        ViewPlan(name, "key", "s", hop, (Aggregate(name, "x", "count", HOUR),))
        for name, hop in (("exact", 0), ("tiled", HOUR))
    )
    state = SqliteOnlineState(connect(file), FeaturePlan("s", views, (), ()))
    with state.transaction():
        push(state, 1, event(10))
    for _ in range(3):
        with state.transaction():
            assert state.aggregates(KEY, START + 80 * MINUTE) == {"exact": 0, "tiled": 1}
