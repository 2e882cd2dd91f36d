"""Online state is a set of events: order and repetition do not matter, and what cannot be aggregated does not get in."""

import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from test_windows import HOUR, MINUTE, START, event, plan_of, push, state_of, table_of

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.lake import Lake
from feature_repo.engine.online import OnlineState, rebuild
from feature_repo.engine.plan import Aggregate, FeaturePlan, OnDemandPlan, PlanError, ViewPlan

KEY = {"key": "a"}
DAY = 24 * HOUR


def test_a_known_id_changes_nothing() -> None:
    state = state_of(plan_of())
    assert push(state, 1, event(0, money=5.0))
    assert not push(state, 1, event(0, money=500.0))
    assert state.aggregates(KEY, START + MINUTE)["sum_money_60"] == 5.0


def test_the_order_of_arrival_does_not_matter() -> None:
    events = [event(m, money=m / 3) for m in (5, 1, 9, 1, 7)]
    forward, backward = state_of(plan_of()), state_of(plan_of())
    for number, e in enumerate(events):
        push(forward, number, e)
    for number, e in reversed(list(enumerate(events))):
        push(backward, number, e)
    assert forward.aggregates(KEY, START + HOUR) == backward.aggregates(KEY, START + HOUR)


def test_a_removed_event_is_gone_and_its_id_is_free_again() -> None:
    state = state_of(plan_of())
    push(state, 1, event(0, declined=False))
    assert state.remove("s", "1")
    assert not state.remove("s", "1")
    assert push(state, 1, event(0, declined=True))
    assert state.aggregates(KEY, START + MINUTE)["sum_declined_60"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "12", 1e40, object()])
def test_a_value_that_cannot_be_aggregated_is_refused_by_name(value: object) -> None:
    state = state_of(plan_of())
    with pytest.raises(BadEvent) as refused:
        push(state, 1, event(0, money=value))
    assert refused.value.field == "money"
    assert state.last_event_us("s") is None


def test_floats_of_no_declared_scale_are_checked_too() -> None:
    with pytest.raises(BadEvent, match="ratio"):
        push(state_of(plan_of()), 1, event(0, ratio=float("nan")))


def test_an_event_without_a_column_that_is_aggregated_is_refused() -> None:
    incomplete = event(0)
    del incomplete["money"]
    with pytest.raises(BadEvent, match="money"):
        push(state_of(plan_of()), 1, incomplete)


def test_an_id_that_is_no_string_is_refused() -> None:
    with pytest.raises(BadEvent, match="key"):
        push(state_of(plan_of()), 1, event(0, key=7))
    with pytest.raises(BadEvent, match="key"):
        state_of(plan_of()).aggregates({}, START)


def test_pruning_forgets_what_happened_before() -> None:
    state = state_of(plan_of())
    for number in range(5):
        push(state, number, event(number))
    assert state.prune(START + 3 * MINUTE) == 3
    assert state.aggregates(KEY, START + HOUR)["count_who_60"] == 2
    assert state.last_event_us("s") == START + 4 * MINUTE


def test_an_unknown_stream_is_named() -> None:
    with pytest.raises(PlanError, match="elsewhere"):
        state_of(plan_of()).remove("elsewhere", "1")


def test_nothing_is_committed_by_the_state_itself(tmp_path: Path) -> None:
    view = plan_of()
    plan = FeaturePlan("s", (view,), (), ())
    with sqlite3.connect(tmp_path / "s.db") as connection:
        OnlineState.create_tables(connection)
        OnlineState(connection, plan)
    state = OnlineState(connection, plan)
    push(state, 1, event(0))
    connection.rollback()
    assert state.last_event_us("s") is None
    connection.close()


def test_a_view_that_comes_later_finds_the_events_that_are_there() -> None:
    def view(entity: str) -> ViewPlan:
        return ViewPlan(f"by_{entity}", entity, "s", 0, (Aggregate(f"n_{entity}", "x", "count", HOUR),), keys=("key", "who"))

    connection = sqlite3.connect(":memory:")
    OnlineState.create_tables(connection)
    push(OnlineState(connection, FeaturePlan("one", (view("key"),), (), ())), 1, event(0, who="x"))
    both = OnlineState(connection, FeaturePlan("two", (view("key"), view("who")), (), ()))
    assert both.aggregates({"key": "a", "who": "x"}, START + 1) == {"n_key": 1, "n_who": 1}


def test_a_vector_has_the_order_of_the_service_and_on_demand_features() -> None:
    view = ViewPlan("v", "key", "s", 0, (Aggregate("avg_txn_amount_7d", "money", "avg", DAY), Aggregate("n", "x", "count", DAY)), {"money": 2})
    others = ("avg_txn_amount_30d", "std_txn_amount_30d", "merchant_avg_amount_30d")
    inputs = ("avg_txn_amount_7d", *others, "amount", "event_time_us")
    on_demand = OnDemandPlan("c", "feature_repo.fraud.context:transaction_context", inputs, ("amount_to_customer_avg_7d", "hour_of_day"))
    plan = FeaturePlan("s", (view,), (on_demand,), ("hour_of_day", "n", "amount_to_customer_avg_7d", "avg_txn_amount_7d"))
    connection = sqlite3.connect(":memory:")
    state = OnlineState(connection, plan)
    push(state, 1, event(0, money=4.0))
    request = {"amount": 8.0, "event_time_us": START + 5 * HOUR, **dict.fromkeys(others, 0.0)}
    vector = state.vector(KEY, START + 5 * HOUR, request)
    assert list(vector.items()) == [("hour_of_day", 5.0), ("n", 1.0), ("amount_to_customer_avg_7d", 2.0), ("avg_txn_amount_7d", 4.0)]


def lake_of(path: Path, days: dict[str, list[int]]) -> Lake:
    lake = Lake(path)
    for day, minutes in days.items():
        table = table_of([event(m, money=1.0) for m in minutes])
        lake.write("s", day, table.append_column("transaction_id", pa.array([f"{day}/{i}" for i in range(len(minutes))])), validated=True)
    return lake


def test_a_rebuild_loads_what_windows_can_reach_and_again_changes_nothing(tmp_path: Path) -> None:
    view = ViewPlan("v", "key", "s", 0, (Aggregate("n", "x", "count", DAY),))
    plan = FeaturePlan("s", (view,), (), ("n",))
    lake = lake_of(tmp_path, {f"2018-04-0{d + 1}": [d * 1440, d * 1440 + 60] for d in range(4)})
    connection = sqlite3.connect(":memory:")
    OnlineState.create_tables(connection)
    assert rebuild(connection, plan, lake, "2018-04-03") == {"s": 4}
    assert rebuild(connection, plan, lake, "2018-04-03") == {"s": 0}
    assert rebuild(connection, plan, lake) == {"s": 2}
    half_past = START + 3 * DAY + 30 * MINUTE
    assert OnlineState(connection, plan).aggregates(KEY, half_past) == {"n": 2}  # 1:00 of the day before, 0:00 of this one


def test_a_rebuild_of_an_empty_lake_is_empty(tmp_path: Path) -> None:
    view = ViewPlan("v", "key", "s", 0, (Aggregate("n", "x", "count", DAY),))
    assert rebuild(sqlite3.connect(":memory:"), FeaturePlan("s", (view,), (), ("n",)), Lake(tmp_path)) == {"s": 0}
