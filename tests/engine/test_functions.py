"""Each aggregate function gives what it says, its states merge to the same, and a new one works on every
path.
"""

import math
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from event_kit import HOUR, KINDS, MINUTE, START, event, table_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import WRITTEN_OUT, Event, oracle

from feature_repo.engine.functions import FUNCTIONS, function_name
from feature_repo.engine.functions.base import EVENT, Function, Kind, SeenEvent, Value, present
from feature_repo.engine.functions.terms import NOTHING, Term, merged, states_of_latest
from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import Aggregate, FeaturePlan, PlanError, ViewPlan
from feature_repo.online.sqlite.state import SqliteOnlineState

AT = START + HOUR
# Two events of one instant, the second created later; then one without a value; the oldest comes last.
SEEN = [
    SeenEvent(START + 20 * MINUTE, START + 20 * MINUTE, 300),
    SeenEvent(START + 20 * MINUTE, START + 30 * MINUTE, 100),
    SeenEvent(START + 50 * MINUTE, START + 50 * MINUTE, None),
    SeenEvent(START, START, 200),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 4),
        ("sum", 6.0),
        ("avg", 2.0),
        ("std", 1.0),
        ("min", 1.0),
        ("max", 3.0),
        ("count_distinct", 3),
        ("last", 1.0),
    ],
)
def test_a_function_of_four_events_is_what_a_person_would_say(name: str, value: float) -> None:
    assert FUNCTIONS[name].define("money", SEEN, AT, 100) == value
    assert FUNCTIONS[name].define("money", SEEN[::-1], AT, 100) == value


def test_ages_are_those_of_the_events_or_of_the_flags_that_are_set() -> None:
    flags = [SeenEvent(s.event_us, s.created_us, s.value == 300) for s in SEEN]
    ages = {
        (name, column): FUNCTIONS[name].define(column, flags, AT, None)
        for name in ("seconds_since_last", "seconds_since_first")
        for column in (EVENT, "declined")
    }
    assert ages == {
        ("seconds_since_last", EVENT): 600.0,
        ("seconds_since_first", EVENT): 3600.0,
        ("seconds_since_last", "declined"): 2400.0,
        ("seconds_since_first", "declined"): 2400.0,
    }


def test_of_one_instant_and_one_creation_the_greatest_value_is_the_last() -> None:
    twins = [SeenEvent(START, START, v) for v in (2, 5, 3)]
    assert FUNCTIONS["last"].define("items", twins, AT, None) == 5.0


def test_every_function_has_a_value_of_no_events() -> None:
    nothing = {name: function.define("money", [], AT, 100) for name, function in FUNCTIONS.items()}
    assert {name for name, value in nothing.items() if value == 0} == {"count", "sum", "count_distinct"}
    assert all(value is None or value == 0 for value in nothing.values())


def test_a_declaration_may_use_a_synonym_and_an_unknown_function_is_named() -> None:
    assert [function_name(n) for n in ("mean", "stddev", "approx_count_distinct", "last", "median")] == [
        "avg",
        "std",
        "count_distinct",
        "last",
        "median",
    ]
    with pytest.raises(PlanError, match=r"x: unknown function 'median', expected one of count, .*last"):
        Aggregate("x", "money", "median", HOUR)


def test_the_definitions_of_the_tests_are_functions_that_there_are() -> None:
    assert set(WRITTEN_OUT) <= FUNCTIONS.keys()


seen_of = st.lists(
    st.builds(
        lambda at, late, value: SeenEvent(START + at, START + at + late, value),
        st.integers(0, 5),
        st.integers(0, 2),
        st.none() | st.integers(-3, 3) | st.integers(-(2**30), 2**30),
    ),
    max_size=12,
)


def state_of(terms: Sequence[Term], seen: Sequence[SeenEvent]) -> list[int]:
    """The terms of some events, as a pack would compute them."""
    rows = sorted(seen, key=lambda s: s.event_us, reverse=True)
    if not rows:
        return [NOTHING[term.kind] for term in terms]
    moments, created, values = (list(column) for column in zip(*rows, strict=True))
    if terms[0].kind == "latest":
        return list(max(states_of_latest(moments, created, values)))
    merge: dict[str, Callable[[Sequence[int]], int]] = {"sum": sum, "max": max, "min": min}
    return [merge[term.kind](term.each(moments, values)) for term in terms if term.each is not None]


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seen_of, seen_of)
def test_the_states_of_two_parts_merge_and_finish_to_the_definition(
    name: str, one: list[SeenEvent], other: list[SeenEvent]
) -> None:
    function = FUNCTIONS[name]
    for column in ("money", EVENT):
        if KINDS[column] not in function.takes or not function.in_packs(column, 2):
            continue
        terms = function.terms(column)
        state = merged(terms, state_of(terms, one), state_of(terms, other))
        expected = function.define(column, [*one, *other], AT, 100)
        assert function.finish(state, AT, 100) == expected
        places = range(len(terms))
        finish = function.finisher(column, places, 100)
        assert finish(state_of(terms, one), state_of(terms, other), None, AT) == expected


class Middle(Function):
    """The lower median: a function that only defines itself."""

    name = "middle"
    takes = frozenset[Kind]({"number", "flag"})

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        values = sorted(present(seen))
        return float(values[(len(values) - 1) // 2] / (unit or 1)) if values else None


class Newest(Middle):
    """The creation of the event that was created last, in seconds after START; 0 where there is none."""

    name = "newest"
    takes = frozenset[Kind]({"event"})
    by_creation = True

    def reads(self, column: str) -> bool:
        return False

    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        return max((s.created_us - START for s in seen), default=0) / 1_000_000


@pytest.fixture
def two_more(monkeypatch: pytest.MonkeyPatch) -> ViewPlan:
    monkeypatch.setitem(FUNCTIONS, "middle", Middle())
    monkeypatch.setitem(FUNCTIONS, "newest", Newest())
    wanted = [
        ("middle", "money"),
        ("middle", "ratio"),
        ("middle", "declined"),
        ("newest", EVENT),
        ("count", "who"),
    ]
    aggregates = (Aggregate(f"{f}_{c}_{w}", c, f, w) for w in (HOUR, 5 * HOUR) for f, c in wanted)
    return ViewPlan("v", "key", "s", 0, tuple(aggregates), {"money": 2, "declined": 0})


def test_a_function_that_only_defines_itself_is_computed_on_every_path(
    two_more: ViewPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TAIL": 3, "KEPT": 1, "FEW": 5}.items():
        monkeypatch.setattr(f"feature_repo.online.sqlite.packs.{name}", value)
    rng = np.random.default_rng(5)
    events = [
        event(int(m), late=int(late), money=float(m % 7), ratio=m / 3, declined=bool(m % 3))
        for m, late in zip(rng.integers(0, 400, 60), rng.choice([0, 0, 0, 45], 60), strict=True)
    ]
    events.sort(key=lambda e: e["created_us"])
    moments = [START + int(m) * MINUTE for m in rng.integers(0, 600, 30)]
    expected = [oracle(two_more, events, "a", at_us) for at_us in moments]
    assert offline(two_more, events, moments) == expected
    assert sum(row["middle_money_3600000000"] is not None for row in expected) > 10

    plan = FeaturePlan("s", (two_more,), (), ())
    state = SqliteOnlineState(sqlite3.connect(":memory:"), plan)
    for number, e in enumerate(events):
        state.push("s", str(number), e, e["event_us"], e["created_us"])
    for _ in range(2):  # The second time from packs, where they can answer.
        assert [state.aggregates({"key": "a"}, at_us) for at_us in moments] == expected
        state.settle()
    assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (1,)


def offline(view: ViewPlan, events: list[Event], moments: list[int]) -> list[dict[str, Any]]:
    keys, at_us = pa.array(["a"] * len(moments)), np.array(moments, np.int64)
    values = view_values(view, table_of(events), keys, at_us)
    return [
        {n: None if math.isnan(v[i]) else v[i].item() for n, v in values.items()} for i in range(len(at_us))
    ]


def test_a_correction_of_the_same_instant_is_the_last_value_once_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"TAIL": 3, "KEPT": 1, "FEW": 5}.items():
        monkeypatch.setattr(f"feature_repo.online.sqlite.packs.{name}", value)
    view = ViewPlan("v", "key", "s", 0, (Aggregate("last", "money", "last", 5 * HOUR),), {"money": 2})
    events = [event(m, money=float(m)) for m in range(10)]
    events += [event(9, late=30, money=-1.0), event(10)]
    moments = [START + m * MINUTE for m in (0, 9, 10, 20, 38, 39, 120)]
    expected = [None, 8.0, 9.0, 9.0, 9.0, -1.0, -1.0]
    assert [row["last"] for row in offline(view, events, moments)] == expected
    state = SqliteOnlineState(sqlite3.connect(":memory:"), FeaturePlan("s", (view,), (), ("last",)))
    for number, e in enumerate(events):
        if number == 10:
            state.aggregates({"key": "a"}, START + 20 * MINUTE)
            state.settle()
            assert state.connection.execute("SELECT count(*) FROM online_packs").fetchone() == (1,)
        state.push("s", str(number), e, e["event_us"], e["created_us"])
    assert [state.aggregates({"key": "a"}, at_us)["last"] for at_us in moments] == expected
