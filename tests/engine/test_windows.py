"""Offline windows, online state and the definition of a feature agree to the last bit, whatever the events
are.
"""

import sqlite3
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from event_kit import HOUR, MINUTE, START, event, plan_of, table_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Event, oracle

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.local.key_order import Clock
from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.online.sqlite.state import SqliteOnlineState


def offline(
    view: ViewPlan, events: list[Event], questions: list[tuple[str | None, int]]
) -> list[dict[str, Any]]:
    values = view_values(
        view,
        table_of(events),
        pa.array([k for k, _ in questions], pa.string()),
        np.array([t for _, t in questions], np.int64),
    )
    return [
        {n: None if np.isnan(v[i]) else v[i].item() for n, v in values.items()} for i in range(len(questions))
    ]


def state_of(view: ViewPlan) -> SqliteOnlineState:
    connection = sqlite3.connect(":memory:")
    SqliteOnlineState.create_tables(connection)
    return SqliteOnlineState(
        connection, FeaturePlan("s", (view,), (), tuple(a.name for a in view.aggregates))
    )


def push(state: SqliteOnlineState, number: int, event: Event) -> bool:
    return state.push("s", str(number), event, event["event_us"], event["created_us"])


moments = st.integers(0, 60).map(lambda n: START + n * 10 * MINUTE)
moneys = st.one_of(st.integers(-500, 90_000), st.integers(10**9, 10**13)).map(lambda cents: cents / 100)
events_of = st.lists(
    st.builds(
        lambda key, at, jitter, late, **values: {
            "key": key,
            "event_us": at + jitter,
            "created_us": at + jitter + late,
            **values,
        },
        st.sampled_from(["a", "b", None]),
        moments,
        st.sampled_from([0, 0, 0, -1, 1]),
        st.sampled_from([0, 0, 0, 1, 10 * MINUTE, 90 * MINUTE, 9 * HOUR]),
        money=st.none() | moneys,
        items=st.integers(-(2**40), 2**40) | st.integers(0, 3),
        declined=st.booleans(),
        ratio=st.none() | st.floats(-1e12, 1e12) | st.sampled_from([0.1, 0.2, 1e-300]),
        who=st.none() | st.sampled_from(["x", "y", "z"]),
    ),
    max_size=25,
)
questions_of = st.lists(
    st.tuples(st.sampled_from(["a", "b", "nobody", None]), moments, st.sampled_from([0, 0, 1])),
    min_size=1,
    max_size=12,
).map(lambda asked: [(key, at + jitter) for key, at, jitter in asked])


@settings(max_examples=150)
@given(events_of, questions_of, st.sampled_from([0, 30 * MINUTE, 7 * MINUTE]))
def test_offline_online_and_the_definition_agree(
    events: list[Event], questions: list[tuple[str | None, int]], hop_us: int
) -> None:
    view = plan_of(hop_us)
    expected = [oracle(view, events, key, at) for key, at in questions]
    assert offline(view, events, questions) == expected

    # Online, each question is asked when only what was known by then has come.
    state, arrivals = state_of(view), sorted(enumerate(events), key=lambda e: e[1]["created_us"])
    for place in sorted(range(len(questions)), key=lambda i: questions[i][1]):
        key, at = questions[place]
        while arrivals and arrivals[0][1]["created_us"] <= at:
            push(state, *arrivals.pop(0))
        if key is not None:
            assert state.aggregates({"key": key}, at) == expected[place]
    for late in arrivals:
        push(state, *late)
    for (key, at), value in zip(questions, expected, strict=True):
        if key is not None:
            assert state.aggregates({"key": key}, at) == value


@settings(max_examples=60)
@given(
    events_of,
    questions_of,
    st.sampled_from([0, 30 * MINUTE]),
    st.sampled_from([30 * MINUTE, 2 * HOUR, 9 * HOUR]),
)
def test_a_key_without_an_event_for_its_time_to_live_has_no_values(
    events: list[Event], questions: list[tuple[str | None, int]], hop_us: int, ttl_us: int
) -> None:
    view = replace(plan_of(hop_us), ttl_us=ttl_us)
    assert offline(view, events, questions) == [oracle(view, events, key, at) for key, at in questions]


@settings(max_examples=60)
@given(events_of, questions_of, st.sampled_from([0, 30 * MINUTE]), st.sampled_from([1, 7]))
def test_key_partitions_of_any_size_give_the_same_bits(
    events: list[Event], questions: list[tuple[str | None, int]], hop_us: int, rows: int
) -> None:
    view = plan_of(hop_us)
    whole = offline(view, events, questions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feature_repo.engine.local.key_partitions.PARTITION_ROWS", rows)
        assert offline(view, events, questions) == whole


@settings(max_examples=40)
@given(events_of, questions_of)
def test_events_created_later_never_change_a_value(
    events: list[Event], questions: list[tuple[str | None, int]]
) -> None:
    view, last = plan_of(), max(at for _, at in questions)
    poison = {"money": 1e13, "items": 2**61, "declined": True, "ratio": 1e300, "who": "poison"}
    future = [{**poison, "key": key, "event_us": at - 1, "created_us": last + 1} for key, at in questions]
    assert offline(view, events + future, questions) == offline(view, events, questions)


def test_a_late_event_is_not_visible_before_it_was_created() -> None:
    view = plan_of()
    late = [event(0, late=30, money=7.0)]
    before, at, after = offline(view, late, [("a", START + m * MINUTE) for m in (29, 30, 60)])
    assert (before["count_who_60"], before["sum_money_60"]) == (0, 0.0)
    assert (at["count_who_60"], at["sum_money_60"]) == (1, 7.0)
    assert after["max_money_60"] == 7.0  # the lower bound belongs to the window


def test_an_event_and_its_peers_of_the_same_instant_are_not_in_their_own_window() -> None:
    assert offline(plan_of(), [event(0), event(0)], [("a", START)])[0]["count_who_60"] == 0


def test_an_empty_window_counts_zero_and_averages_null() -> None:
    (empty,) = offline(plan_of(), [], [("a", START)])
    assert {empty["count_who_60"], empty["sum_money_60"], empty["count_distinct_who_60"]} == {0}
    assert {
        empty["avg_money_60"],
        empty["std_money_60"],
        empty["min_ratio_60"],
        empty["seconds_since_last_declined_60"],
    } == {None}


def test_the_first_flag_is_the_oldest_of_the_window_that_is_known() -> None:
    events = [event(0, declined=True), event(10), event(20, late=30, declined=True), event(40, declined=True)]
    asked = [("a", START + minute * MINUTE) for minute in (40, 60, 61, 100, 101)]
    answers = offline(plan_of(windows=(HOUR,)), [*events[::-1]], asked)
    assert [a["seconds_since_first_declined_60"] for a in answers] == [
        40 * 60.0,
        60 * 60.0,
        41 * 60.0,
        60 * 60.0,
        None,
    ]
    assert [a["seconds_since_first_event_timestamp_60"] for a in answers] == [
        40 * 60.0,
        60 * 60.0,
        51 * 60.0,
        60 * 60.0,
        None,
    ]
    tiled = offline(plan_of(30 * MINUTE, windows=(HOUR,)), events, asked)
    assert [a["seconds_since_first_declined_60"] for a in tiled] == [
        40 * 60.0,
        60 * 60.0,
        61 * 60.0,
        60 * 60.0,
        61 * 60.0,
    ]


def test_an_event_keeps_its_key_alive_up_to_the_last_moment_of_the_time_to_live() -> None:
    view = replace(plan_of(windows=(5 * HOUR,)), ttl_us=HOUR)
    alive, dead = offline(view, [event(0, money=7.0)], [("a", START + HOUR), ("a", START + HOUR + 1)])
    assert (alive["count_who_300"], alive["sum_money_300"]) == (1, 7.0)
    assert set(dead.values()) == {None}


def test_a_late_event_keeps_its_key_alive_only_once_it_is_known() -> None:
    view = replace(plan_of(), ttl_us=5 * HOUR)
    before, after = offline(view, [event(0, late=30)], [("a", START + m * MINUTE) for m in (29, 30)])
    assert set(before.values()) == {None}
    assert after["count_who_60"] == 1


def test_the_events_themselves_may_be_the_moments_in_any_order() -> None:
    rng = np.random.default_rng(7)
    events = [
        event(int(m), late=int(d), money=float(m), key="abc"[k])
        for m, d, k in rng.integers(0, [90, 3, 3], (80, 3))
    ]
    questions = [(e["key"], e["event_us"]) for e in events]
    assert offline(plan_of(), events, questions) == [oracle(plan_of(), events, k, t) for k, t in questions]


def test_more_keys_than_sixteen_bits_are_kept_apart() -> None:
    keys = [f"k{number}" for number in range(70_000)]
    events = [{**event(number % 7), "key": key} for number, key in enumerate(keys[::-1])]
    counts = [
        row["count_who_60"]
        for row in offline(plan_of(windows=(HOUR,)), events, [(key, START + 10 * MINUTE) for key in keys])
    ]
    assert counts == [1] * len(keys)


def test_no_question_gets_no_answer() -> None:
    assert offline(plan_of(), [event(0)], []) == []


def test_sums_beyond_64_bits_stay_exact() -> None:
    view, events = plan_of(), [event(m, money=4e13 + m, items=2**61 + m) for m in range(5)]
    question = [("a", START + HOUR)]
    expected = oracle(view, events, *question[0])
    assert offline(view, events, question) == [expected]
    state = state_of(view)
    for number, e in enumerate(events):
        push(state, number, e)
    assert state.vector({"key": "a"}, START + HOUR, {}) == expected


def test_an_infinite_or_unthinkable_amount_is_refused_by_name() -> None:
    for value in (float("inf"), 1e30):
        with pytest.raises(BadEvent, match="money"):
            offline(plan_of(), [event(0, money=value)], [("a", START + 1)])


def test_times_that_do_not_fit_beside_the_keys_are_ranked_instead() -> None:
    codes, times = np.array([0, 0, 1, 1]), np.array([5, 7, 5, 2**61])
    places = Clock.over(2, times).place(codes, times)
    assert list(np.argsort(places, kind="stable")) == [0, 1, 2, 3]
    assert Clock.over(2, times).times is not None
    view, century = plan_of(windows=(HOUR,)), 100 * 365 * 24 * HOUR
    events = [event(0), {**event(0), "event_us": START + century, "created_us": START + century}]
    keys = [f"k{i}" for i in range(2000)] + ["a", "a"]
    times_asked = [START] * 2000 + [START + MINUTE, START + century + MINUTE]
    assert [r["count_who_60"] for r in offline(view, events, list(zip(keys, times_asked, strict=True)))][
        -2:
    ] == [1, 1]


def test_many_late_events_agree_with_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_repo.engine.functions.window_bounds.PAIRS_AT_ONCE", 7)
    rng = np.random.default_rng(3)
    events = [
        event(int(m), late=int(d), money=float(m), who="xyz"[m % 3], declined=bool(m % 2))
        for m, d in rng.integers(0, 200, (60, 2))
    ]
    questions = [("a", START + int(m) * MINUTE) for m in rng.integers(0, 500, 40)]
    view = plan_of(30 * MINUTE)
    assert offline(view, events, questions) == [oracle(view, events, k, t) for k, t in questions]
