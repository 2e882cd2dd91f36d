"""Online state is a set of events in whatever store: order and repetition do not matter, and the answers are
the definition's at every moment.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from event_kit import HOUR, MINUTE, START, event, every_function, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Event
from stores import STORES, ListStore

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.plan import Aggregate, FeaturePlan, OnDemandPlan, PlanError, ViewPlan
from feature_repo.online.base import OnlineState, Refused, Versions

DAY = 24 * HOUR
KEY = {"key": "a"}
Open = Callable[[FeaturePlan], OnlineState]
# So that a handful of events goes through all of it.
SMALL_PACKS = {"TAIL": 3, "KEPT": 1, "FEW": 5, "HELD": 6}


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return lambda plan: STORES[request.param](tmp_path, plan)


@pytest.fixture
def state(opened: Open) -> OnlineState:
    return opened(one(plan_of()))


def one(view: ViewPlan) -> FeaturePlan:
    return FeaturePlan("s", (view,), (), tuple(a.name for a in view.aggregates))


def push(state: OnlineState, number: int, event: Event) -> Versions | None:
    return state.push("s", str(number), event, event["event_us"], event["created_us"])


def test_a_known_id_changes_nothing(state: OnlineState) -> None:
    assert push(state, 1, event(0, money=5.0)) is not None
    before = state.versions(KEY)
    assert push(state, 1, event(0, money=500.0)) is None
    assert state.versions(KEY) == before
    assert state.aggregates(KEY, START + MINUTE)["sum_money_60"] == 5.0


def test_what_the_lake_says_of_a_known_id_holds_and_what_it_leaves_out_stays(state: OnlineState) -> None:
    push(state, 1, event(0, money=5.0, who="x"))
    state.load("s", [("1", event(0, money=7.0, who=None), START + MINUTE, START + MINUTE)])
    found = state.find("s", "1") or {}
    assert (found["money"], found["who"], found["event_us"]) == (7.0, "x", START + MINUTE)
    assert state.count("s") == 1


def test_the_order_of_arrival_does_not_matter(opened: Open) -> None:
    forward, events = opened(one(plan_of())), [event(m, money=m / 3) for m in (5, 1, 9, 1, 7)]
    for number, e in enumerate(events):
        push(forward, number, e)
    expected = forward.aggregates(KEY, START + HOUR)
    for number in range(len(events)):
        assert forward.remove("s", str(number)) is not None
    for number, e in reversed(list(enumerate(events))):
        push(forward, number, e)
    assert forward.aggregates(KEY, START + HOUR) == expected


def test_a_removed_event_is_gone_and_its_id_is_free_again(state: OnlineState) -> None:
    push(state, 1, event(0, declined=False))
    assert state.remove("s", "1") is not None
    assert state.remove("s", "1") is None
    assert push(state, 1, event(0, declined=True)) is not None
    assert state.aggregates(KEY, START + MINUTE)["sum_declined_60"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "12", 1e40, object()])
def test_a_value_that_cannot_be_aggregated_is_refused_by_name(state: OnlineState, value: object) -> None:
    with pytest.raises(BadEvent) as refused:
        push(state, 1, event(0, money=value))
    assert refused.value.field == "money"
    assert state.last_event_us("s") is None


def test_floats_of_no_declared_scale_are_checked_too(state: OnlineState) -> None:
    with pytest.raises(BadEvent, match="ratio"):
        push(state, 1, event(0, ratio=float("nan")))


def test_an_event_without_a_column_that_is_aggregated_is_refused(state: OnlineState) -> None:
    incomplete = event(0)
    del incomplete["money"]
    with pytest.raises(BadEvent, match="money"):
        push(state, 1, incomplete)


def test_an_id_that_is_no_string_is_refused(state: OnlineState) -> None:
    with pytest.raises(BadEvent, match="key"):
        push(state, 1, event(0, key=7))
    with pytest.raises(BadEvent, match="key"):
        state.aggregates({"key": 7}, START)  # type: ignore[dict-item]


def test_a_question_that_leaves_a_key_out_is_refused(state: OnlineState) -> None:
    with pytest.raises(BadEvent, match="key"):
        state.aggregates({}, START)


def test_a_null_key_has_an_empty_history_whatever_happened_without_the_key(state: OnlineState) -> None:
    asked = START + HOUR
    nothing = state.aggregates({"key": "nobody"}, asked)
    for number in range(60):
        push(state, number, event(number, key=None, money=5.0, declined=True))
    for _ in range(2):  # the second time from what settled after the first
        assert state.aggregates({"key": None}, asked) == nothing
        state.settle()
    assert {nothing[f"{f}_money_60"] for f in ("sum", "count_distinct")} == {0}
    assert {nothing[f"{f}_money_60"] for f in ("avg", "std", "min", "max")} == {None}
    assert (nothing["count_who_60"], nothing["seconds_since_last_event_timestamp_60"]) == (0, None)
    assert state.count("s") == 60


def test_an_event_without_one_key_counts_for_its_other_key(opened: Open) -> None:
    views = tuple(
        ViewPlan(f"by_{key}", key, "s", 0, (Aggregate(f"n_{key}", "x", "count", DAY),))
        for key in ("key", "who")
    )
    state = opened(FeaturePlan("s", views, (), ()))
    push(state, 1, event(0, key=None, who="x"))
    push(state, 2, event(0, key="a", who=None))
    push(state, 3, event(0, key=None, who=None))
    assert state.aggregates({"key": "a", "who": "x"}, START + 1) == {"n_key": 1, "n_who": 1}
    assert state.aggregates({"key": None, "who": "x"}, START + 1) == {"n_key": 0, "n_who": 1}
    assert state.aggregates({"key": None, "who": None}, START + 1) == {"n_key": 0, "n_who": 0}


def test_an_event_gets_its_key_from_the_lake(state: OnlineState) -> None:
    push(state, 1, event(0, key=None))
    state.load("s", [("1", event(0, key="a"), START, START)])
    assert state.aggregates(KEY, START + 1)["count_who_60"] == 1


def test_each_change_raises_the_version_of_each_key_of_the_event_and_of_no_other(opened: Open) -> None:
    views = tuple(
        ViewPlan(f"by_{key}", key, "s", 0, (Aggregate(f"n_{key}", "x", "count", DAY),), asked=asked)
        for key, asked in (("key", ""), ("who", ""), ("who", "also"))
    )
    state = opened(FeaturePlan("s", views, (), ()))
    keys = {"key": "a", "who": "x", "also": "y"}
    start = state.versions(keys)
    assert sorted(start) == ["s.key", "s.who", "s.who=also"]
    assert all(version > 0 for version in start.values())
    made = [push(state, n, event(n, key="a", who=who)) for n, who in enumerate(("x", "y", "y", None))]
    made.append(state.remove("s", "0"))
    risen = [{name: version - start[name] for name, version in (one or {}).items()} for one in made]
    assert risen == [
        {"s.key": 1, "s.who": 1},
        {"s.key": 2, "s.who": 1},
        {"s.key": 3, "s.who": 2},
        {"s.key": 4},
        {"s.key": 5, "s.who": 2},
    ]
    now = state.versions(keys)
    assert {name: now[name] - start[name] for name in now} == {"s.key": 5, "s.who": 2, "s.who=also": 2}
    assert state.versions({"key": None, "who": None, "also": "z"}) == {"s.who=also": start["s.who=also"]}


def test_what_the_lake_brings_what_is_pruned_and_what_is_refused_raise_no_version(state: OnlineState) -> None:
    push(state, 1, event(0))
    before = state.versions(KEY)
    state.load("s", [("1", event(0, money=7.0), START, START), ("2", event(1), START, START)])
    state.prune(START + HOUR, 10)
    with pytest.raises(BadEvent):
        push(state, 3, event(0, money="12"))
    state.settle()
    assert state.versions(KEY) == before


def test_a_view_is_asked_by_the_column_of_the_scored_event(opened: Open) -> None:
    state = opened(one(replace(plan_of(), asked="origin")))
    push(state, 1, event(0, money=5.0))
    assert state.aggregates({"origin": "a"}, START + MINUTE)["sum_money_60"] == 5.0
    with pytest.raises(BadEvent, match="origin"):
        state.aggregates(KEY, START + MINUTE)


def test_an_unknown_stream_is_named(state: OnlineState) -> None:
    with pytest.raises(PlanError, match="elsewhere"):
        state.remove("elsewhere", "1")


def test_pruning_forgets_what_happened_before_a_few_at_a_time(state: OnlineState) -> None:
    for number in range(5):
        push(state, number, event(number))
    assert [state.prune(START + 3 * MINUTE, 2) for _ in range(3)] == [2, 1, 0]
    assert state.aggregates(KEY, START + HOUR)["count_who_60"] == 2
    assert (state.last_event_us("s"), state.count("s")) == (START + 4 * MINUTE, 2)


def test_events_are_found_by_id_and_by_subject(state: OnlineState) -> None:
    at, later = START, START + MINUTE
    for event_id, minute in ((f"t:{at}", 0), (f"t:{later}", 1), (f"t:1:{at}", 0), ("t", 2), ("u", 3)):
        state.push("s", event_id, event(minute, money=1.25), START + minute * MINUTE, START + minute * MINUTE)
    assert [e["event_id"] for e in state.find_of("s", "t")] == [f"t:{at}", f"t:{later}"]
    found = state.find("s", "u") or {}
    assert (found["key"], found["money"], found["event_us"], found["created_us"]) == (
        "a",
        1.25,
        START + 3 * MINUTE,
        START + 3 * MINUTE,
    )
    assert state.find("s", "nobody") is None
    assert state.find_of("s", "nobody") == []


def test_the_newest_event_before_a_moment_says_how_fresh_a_stream_is(state: OnlineState) -> None:
    assert state.newest_us("s", START) is None
    for minute in (1, 5, 9):
        push(state, minute, event(minute))
    assert [state.newest_us("s", START + m * MINUTE) for m in (1, 6, 9, 10)] == [
        None,
        START + 5 * MINUTE,
        START + 5 * MINUTE,
        START + 9 * MINUTE,
    ]
    assert sorted(state.ids("s", START + MINUTE, START + 9 * MINUTE)) == ["1", "5"]


def test_refusals_are_counted_by_stream_and_reason(state: OnlineState) -> None:
    for at_us in (5, 9, 7):
        state.refuse("s", "too old", at_us)
    state.quarantine("s", {"money": float("nan"), "who": b"?"}, "money", 3)
    assert state.refusals() == {("s", "too old"): Refused(3, 9), ("s", "money"): Refused(1, 3)}


def against_the_average(row: Mapping[str, Any]) -> dict[str, Any]:
    average = row["average"]
    return {"ratio": None if average is None else row["money"] / average, "double": row["money"] * 2}


def test_a_vector_has_the_order_of_the_service_and_on_demand_features(opened: Open) -> None:
    aggregates = (Aggregate("average", "money", "avg", DAY), Aggregate("n", "x", "count", DAY))
    step = OnDemandPlan("c", f"{__name__}:against_the_average", ("average", "money"), ("ratio", "double"))
    view = ViewPlan("v", "key", "s", 0, aggregates, {"money": 2})
    state = opened(FeaturePlan("s", (view,), (step,), ("double", "n", "ratio", "average")))
    push(state, 1, event(0, money=4.0))
    vector = state.vector(KEY, START + 5 * HOUR, {"money": 8.0})
    assert list(vector.items()) == [("double", 16.0), ("n", 1.0), ("ratio", 2.0), ("average", 4.0)]
    assert state.vector({"key": None}, START + 5 * HOUR, {"money": 8.0}) == {
        "double": 16.0,
        "n": 0.0,
        "ratio": None,
        "average": None,
    }


def test_values_live_as_long_as_their_view_says(opened: Open) -> None:
    aggregates = (Aggregate("n", "x", "count", DAY), Aggregate("total", "money", "sum", DAY))
    state = opened(one(ViewPlan("v", "key", "s", 0, aggregates, {"money": 2}, ttl_us=HOUR)))
    push(state, 1, event(0, money=4.0))
    push(state, 2, event(30, late=60, money=1.0))
    assert tuple(state.aggregates({"key": None}, START + MINUTE).values()) == (None, None)
    asked = {
        minute: tuple(state.aggregates(KEY, START + minute * MINUTE).values())
        for minute in (0, 1, 60, 61, 90, 91)
    }
    assert asked == {
        0: (None, None),
        1: (1, 4.0),
        60: (1, 4.0),
        61: (None, None),
        90: (2, 5.0),
        91: (None, None),
    }


def views_of(hop_us: int, ttl_us: int) -> tuple[ViewPlan, ...]:
    wanted = every_function("who", "money", "items", "declined", "event_timestamp")
    wanted += [("avg", "ratio"), ("last", "ratio")]

    def view(name: str, entity: str, hop_us: int, windows: tuple[int, ...], ttl_us: int = 0) -> ViewPlan:
        aggregates = tuple(
            Aggregate(f"{name}_{f}_{c}_{w // MINUTE}", c, f, w) for w in windows for f, c in wanted
        )
        return ViewPlan(
            name, entity, "s", hop_us, aggregates, {"money": 2, "declined": 0, "items": 0}, ttl_us=ttl_us
        )

    return view("exact", "key", 0, (20 * MINUTE, HOUR, 5 * HOUR)), view(
        "tiled", "who", hop_us, (HOUR, 3 * HOUR), ttl_us
    )


minutes = st.integers(0, 400)
numbers = st.integers(0, 25).map(str)
events = st.builds(
    lambda minute, jitter, late, **values: {
        "event_us": START + minute * MINUTE + jitter,
        "created_us": START + (minute + late) * MINUTE,
        **values,
    },
    minutes,
    st.sampled_from([0, 0, 0, -1, 1]),
    st.sampled_from([0, 0, 0, 0, 1, 30, 200]),
    key=st.sampled_from(["a", "a", "b", None]),
    money=st.none() | st.integers(-500, 90_000).map(lambda cents: cents / 100),
    items=st.sampled_from(
        [*[0, 1, 1, 2, 3, 7, None] * 9, 2**40]
    ),  # rarely one whose square is beyond 64 bits: its key cannot be packed
    declined=st.booleans(),
    ratio=st.none() | st.sampled_from([0.1, 1e-300, 1e12]),
    who=st.sampled_from(["x", "x", "y", None]),
)
keys = st.sampled_from(["a", "a", "a", "b", "b", None])
others = st.sampled_from(["x", "x", "x", "y", "y", None])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), numbers, events),
        st.tuples(st.just("push"), numbers, events),
        st.tuples(st.just("ask"), keys, others, minutes),
        st.tuples(st.just("ask"), keys, others, st.integers(300, 500)),
        st.tuples(st.just("load"), st.lists(st.tuples(numbers, events), max_size=12)),
        st.tuples(st.just("remove"), numbers),
        st.tuples(st.just("settle")),
        st.tuples(st.just("prune"), st.integers(0, 100), st.integers(1, 5)),
    ),
    min_size=20,
    max_size=60,
)


@pytest.mark.parametrize("name", STORES)
@settings(max_examples=120)
@given(
    first=st.lists(events, min_size=8, max_size=16),
    steps=steps,
    hop_us=st.sampled_from([MINUTE, 7 * MINUTE, 30 * MINUTE]),
    ttl_us=st.sampled_from([0, 2 * HOUR]),
)
def test_at_every_step_of_any_history_the_answers_are_those_of_the_definition(
    name: str, first: list[Event], steps: list[Any], hop_us: int, ttl_us: int
) -> None:
    plan = FeaturePlan("s", views_of(hop_us, ttl_us), (), ())
    reach_us, pruned_us = max(v.reach_us for v in plan.views), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.multiple("feature_repo.online.sqlite.packs", **SMALL_PACKS),
        patch("feature_repo.online.sqlite.memory.TIMES", 3),
        patch("feature_repo.online.sqlite.generations.TIMES", 3),
    ):
        state, model = STORES[name](Path(folder), plan), ListStore(plan)
        begun = [
            ("load", list(zip(map(str, range(len(first))), first, strict=True))),
            ("ask", "a", "x", 450),
            ("ask", "b", "y", 450),
        ]
        for step, *details in [*begun, *steps]:
            if step == "ask":
                key, who, minute = details
                at_us = START + minute * MINUTE
                assert state.newest_us("s", at_us) == model.newest_us("s", at_us)
                if at_us - reach_us >= pruned_us:
                    assert state.aggregates({"key": key, "who": who}, at_us) == model.aggregates(
                        {"key": key, "who": who}, at_us
                    )
                    state.settle()
            else:
                done = [_counted(one, _do(one, step, details)) for one in (state, model)]
                assert done[0] == done[1]
                pruned_us = max(pruned_us, START + details[0] * MINUTE) if step == "prune" else pruned_us
        assert state.count("s") == model.count("s")
        assert sorted(state.ids("s", 0, 2**62)) == sorted(model.ids("s", 0, 2**62))
        for asked in ({"key": "a", "who": "x"}, {"key": "b", "who": "y"}, {"key": None, "who": None}):
            assert _counted(state, state.versions(asked)) == _counted(model, model.versions(asked))


def _counted(state: OnlineState, found: Any) -> Any:
    """Versions as numbers of changes. A store begins where it wants to."""
    if not isinstance(found, dict):
        return found
    none = state.versions({"key": "nobody", "who": "nobody"})
    return {name: version - none[name] for name, version in found.items()}


def _do(state: OnlineState, step: str, details: list[Any]) -> Any:
    if step == "push":
        event_id, e = details
        return state.push("s", event_id, e, e["event_us"], e["created_us"])
    if step == "load":
        return state.load("s", [(i, e, e["event_us"], e["created_us"]) for i, e in details[0]])
    if step == "prune":
        return sum(
            iter(lambda: state.prune(START + details[0] * MINUTE, details[1]), 0)
        )  # which of them go first is the store's business
    return state.remove("s", *details) if step == "remove" else state.settle()
