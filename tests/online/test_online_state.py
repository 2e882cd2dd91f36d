"""What is SQLite's own about the online state: packs, transactions, the file's format."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from event_kit import HOUR, MINUTE, START, event, plan_of
from stores import connect
from test_any_store import KEY, one, push, views_of

from feature_repo.engine.plan import Aggregate, FeaturePlan, PlanError, ViewPlan
from feature_repo.online.sqlite.state import SqliteOnlineState

ASKED = START + 300 * MINUTE


@contextmanager
def small_packs() -> Iterator[None]:
    with patch.multiple("feature_repo.online.sqlite.packs", TAIL=3, KEPT=1, FEW=5):
        yield


@contextmanager
def answers_from_packs() -> Iterator[None]:
    """Where a pack cannot answer, the test fails."""
    with patch(
        "feature_repo.online.sqlite.queries.ViewQuery.answer",
        side_effect=AssertionError("read from the events"),
    ):
        yield


def packed_view(function: str = "sum", column: str = "money") -> ViewPlan:
    return ViewPlan(
        "v",
        "key",
        "s",
        0,
        (Aggregate("x", column, function, 5 * HOUR), Aggregate("n", "x", "count", HOUR)),
        {"money": 2, "items": 0},
    )


def full_state(view: ViewPlan) -> SqliteOnlineState:
    """Ten events a minute apart, asked about, and settled."""
    state = SqliteOnlineState(sqlite3.connect(":memory:"), one(view))
    for number in range(10):
        push(state, number, event(number, money=float(number), items=2**40 if number == 5 else 1))
    state.aggregates(KEY, ASKED)
    state.settle()
    return state


def test_a_long_tail_is_packed_and_the_pack_answers() -> None:
    with small_packs():
        state = full_state(packed_view())
        with answers_from_packs():
            assert state.aggregates(KEY, ASKED) == {"x": 45.0, "n": 0}
            assert state.aggregates(KEY, START + 9 * MINUTE) == {"x": 36.0, "n": 9}
        assert state.aggregates(KEY, START + 8 * MINUTE) == {"x": 28.0, "n": 8}  # before the end of the pack


def test_a_late_event_is_brought_into_the_pack() -> None:
    with small_packs():
        state = full_state(packed_view())
        push(state, 100, event(3, late=60, money=1000.0))
        with answers_from_packs():
            assert state.aggregates(KEY, ASKED)["x"] == 1045.0
        assert state.aggregates(KEY, START + 62 * MINUTE)["x"] == 45.0  # not known yet


@pytest.mark.parametrize("change", ["remove", "load"])
def test_a_pack_goes_when_what_it_holds_changes(change: str) -> None:
    with small_packs():
        state = full_state(packed_view("max"))
        if change == "remove":
            state.remove("s", "8")
        else:
            state.load("s", [("8", event(8, money=2.0), START, START)])
        assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (0,)
        assert state.aggregates(KEY, ASKED)["x"] == 9.0


def test_loading_what_is_there_already_leaves_the_packs_alone() -> None:
    with small_packs():
        state = full_state(packed_view())
        state.load("s", [("8", event(8, money=8.0), START + 8 * MINUTE, START + 8 * MINUTE)])
        assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (1,)


def test_a_key_whose_sums_are_beyond_64_bits_is_answered_without_a_pack() -> None:
    with small_packs():
        state = full_state(packed_view("std", "items"))
        assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (0,)
        assert state.aggregates(KEY, ASKED)["x"] == pytest.approx(2**40 / 10**0.5)


def test_a_pack_made_for_other_windows_is_not_read() -> None:
    with small_packs():
        state = full_state(packed_view())
        longer = ViewPlan("v", "key", "s", 0, (Aggregate("x", "money", "sum", 9 * HOUR),), {"money": 2})
        push(state, 100, event(-200, money=0.25))
        assert SqliteOnlineState(state.connection, one(longer)).aggregates(KEY, ASKED) == {"x": 45.25}


def test_a_pack_without_the_first_flag_is_not_read_for_it_and_a_new_pack_has_its_exact_moment() -> None:
    def view(*functions: str) -> ViewPlan:
        return ViewPlan(
            "v", "key", "s", HOUR, tuple(Aggregate(f, "declined", f, 5 * HOUR) for f in functions)
        )

    with small_packs():
        before = SqliteOnlineState(sqlite3.connect(":memory:"), one(view("seconds_since_last")))
        for number in range(10):
            push(before, number, event(number, declined=number in (3, 7)))
        before.aggregates(KEY, ASKED)
        before.settle()
        state = SqliteOnlineState(before.connection, one(view("seconds_since_last", "seconds_since_first")))
        expected = {"seconds_since_last": 293 * 60.0, "seconds_since_first": 297 * 60.0}
        assert state.aggregates(KEY, ASKED) == expected
        state.settle()
        push(state, 100, event(1, late=20, declined=True))
        with answers_from_packs():
            assert state.aggregates(KEY, ASKED) == {**expected, "seconds_since_first": 299 * 60.0}
        assert state.aggregates(KEY, START + 20 * MINUTE)["seconds_since_first"] == 17 * 60.0  # not known yet


def test_another_plan_gives_up_the_packs_that_it_cannot_change() -> None:
    with small_packs():
        state = full_state(packed_view())
        push(SqliteOnlineState(state.connection, one(packed_view("min"))), 100, event(3, money=7.0))
        assert state.aggregates(KEY, ASKED)["x"] == 52.0


def test_packs_go_with_the_last_event_of_their_key() -> None:
    with small_packs():
        state = full_state(packed_view())
        push(state, 100, event(20, key="b"))
        assert state.prune(START + 15 * MINUTE, 100) == 10
        assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (0,)


def test_nothing_is_committed_by_the_state_itself(tmp_path: Path) -> None:
    plan = one(plan_of())
    with sqlite3.connect(tmp_path / "s.db") as connection:
        SqliteOnlineState.create_tables(connection)
        SqliteOnlineState(connection, plan)
    state = SqliteOnlineState(connection, plan)
    push(state, 1, event(0))
    connection.rollback()
    assert state.last_event_us("s") is None
    connection.close()


def test_a_writer_goes_over_to_a_new_generation_with_its_next_transaction(tmp_path: Path) -> None:
    state, plain = (
        SqliteOnlineState(connect(tmp_path / "s.db"), one(plan_of())),
        sqlite3.connect(tmp_path / "s.db"),
    )
    implicit = SqliteOnlineState(
        plain, one(plan_of())
    )  # Python's own way: a transaction begins with the first change
    state.connection.execute("UPDATE online_generation SET current = 1")
    push(implicit, 1, event(0))
    plain.commit()
    assert state.last_event_us("s") is None
    with state.transaction():
        assert state.last_event_us("s") == START
    plain.close()


def test_a_view_that_comes_later_finds_the_events_that_are_there() -> None:
    def view(entity: str) -> ViewPlan:
        return ViewPlan(
            f"by_{entity}",
            entity,
            "s",
            0,
            (Aggregate(f"n_{entity}", "x", "count", HOUR),),
            keys=("key", "who"),
        )

    connection = sqlite3.connect(":memory:")
    push(SqliteOnlineState(connection, FeaturePlan("one", (view("key"),), (), ())), 1, event(0, who="x"))
    both = SqliteOnlineState(connection, FeaturePlan("two", (view("key"), view("who")), (), ()))
    assert both.aggregates({"key": "a", "who": "x"}, START + 1) == {"n_key": 1, "n_who": 1}


def test_the_quarantine_keeps_the_newest_rows_as_they_came() -> None:
    state = SqliteOnlineState(sqlite3.connect(":memory:"), one(plan_of()))
    with patch("feature_repo.online.sqlite.state.QUARANTINED", 3):
        for number in range(5):
            state.quarantine("s", {"money": float("inf"), "n": number}, "money", number)
    kept = state.connection.execute("SELECT event, at_us FROM online_quarantine ORDER BY id").fetchall()
    assert [(json.loads(text), at) for text, at in kept] == [({"money": "inf", "n": n}, n) for n in (2, 3, 4)]
    assert state.refusals()["s", "money"].events == 5


def test_a_file_of_the_first_format_goes_on_as_it_is_and_one_of_the_future_is_refused() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE online_format (version INTEGER PRIMARY KEY) WITHOUT ROWID")
    connection.execute("INSERT INTO online_format VALUES (1)")
    connection.execute(
        "CREATE TABLE online_s (event_id TEXT PRIMARY KEY, event_us INTEGER, created_us INTEGER, key, money)"
        " WITHOUT ROWID"
    )
    connection.execute("INSERT INTO online_s VALUES ('1', ?, ?, 'a', 450)", (START, START))
    assert SqliteOnlineState(connection, one(packed_view())).aggregates(KEY, START + 1) == {"x": 4.5, "n": 1}
    connection.execute("UPDATE online_format SET version = 4")
    with pytest.raises(PlanError, match="format 4"):
        SqliteOnlineState(connection, one(packed_view()))


def test_a_file_of_the_format_without_versions_gets_them() -> None:
    connection = sqlite3.connect(":memory:")
    push(SqliteOnlineState(connection, one(plan_of())), 1, event(0))
    for statement in (
        "DROP TABLE online_versions",
        "DROP TABLE online_epoch",
        "UPDATE online_format SET version = 2",
    ):
        connection.execute(statement)
    state = SqliteOnlineState(connection, one(plan_of()))
    before = state.versions(KEY)["s.key"]
    assert push(state, 2, event(1)) == {"s.key": before + 1}
    assert state.count("s") == 2


def test_what_is_rolled_back_raises_no_version(tmp_path: Path) -> None:
    state = SqliteOnlineState(connect(tmp_path / "s.db"), one(plan_of()))
    before = state.versions(KEY)

    def half_a_change() -> None:
        with state.transaction():
            push(state, 1, event(0))
            assert state.versions(KEY) != before
            raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        half_a_change()
    assert state.versions(KEY) == before


@pytest.mark.parametrize("name", ["packs", "s_g2", "a b"])
def test_a_stream_whose_name_the_state_cannot_use_is_named(name: str) -> None:
    with pytest.raises(PlanError, match=name):
        SqliteOnlineState(
            sqlite3.connect(":memory:"),
            one(ViewPlan("v", "key", name, 0, (Aggregate("n", "x", "count", HOUR),))),
        )


def test_a_state_that_has_all_its_tables_is_opened_without_writing(tmp_path: Path) -> None:
    plan = FeaturePlan("s", views_of(HOUR, 0), (), ())
    SqliteOnlineState(connect(tmp_path / "s.db"), plan)
    holder, reader = connect(tmp_path / "s.db"), connect(tmp_path / "s.db")
    reader.execute("PRAGMA busy_timeout = 0")
    holder.execute("BEGIN IMMEDIATE")
    assert SqliteOnlineState(reader, plan).count("s") == 0
