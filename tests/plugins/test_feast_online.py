"""Feast's online calls: pushed events of windowed views, and finished values of plain ones."""

import asyncio
from datetime import UTC
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService
from feast.data_source import PushMode
from feast.errors import PushSourceNotFoundException
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast_kit import (
    NOW,
    RISK,
    START,
    TTL,
    finished,
    first,
    online,
    open_with_profiles,
    profile,
    pushed,
    read,
    refusals,
    risk_per_txn,
    together,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.plugins.offline_store import NotWritten
from feature_repo.plugins.online_store import FinishedValues
from feature_repo.plugins.refusals import RefusedPush, RefusedRows


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_with_profiles(tmp_path)


# Events of windowed views.


def test_pushed_events_are_seen_online_by_every_view_of_their_stream(store: Any) -> None:
    store.push(
        "transactions_push",
        together(pushed(), pushed(transaction_id="t2", amount=40.0, is_declined=False), pushed()),
    )
    store.push("transactions_push", pushed(amount=9_999.0))  # an id that is known
    store.push("verdicts_push", pushed(is_fraud=True).drop(columns="is_declined"))
    found = online(store)
    assert (found["num_txns_1d"], found["avg_txn_amount_7d"], found["num_declines_7d"]) == (2, 30.0, 1)
    assert (found["merchant_num_txns_1d"], found["merchant_num_txns_30d"]) == (2, 2)
    assert (found["fraud_rate_90d"], found["num_verdicts_7d"]) == (1.0, 1)
    assert (found["amount_to_customer_avg_7d"], found["txn_amount"]) == (1.0, 30.0)


def test_an_older_event_that_is_pushed_later_does_not_hide_the_newer(store: Any) -> None:
    store.push("transactions_push", pushed())
    newest = online(store)["customer_seconds_since_last_txn"]
    store.push("transactions_push", pushed(transaction_id="t0", event_timestamp=NOW - pd.Timedelta("5d")))
    found = online(store)
    assert found["customer_seconds_since_last_txn"] == pytest.approx(newest, abs=60)
    assert (found["num_txns_1d"], found["num_txns_7d"]) == (1, 2)


def test_what_is_older_than_its_window_is_missing_online(store: Any) -> None:
    store.push("transactions_push", pushed(event_timestamp=NOW - pd.Timedelta("100d")))
    found = online(store)
    assert (found["num_txns_7d"], found["avg_txn_amount_90d"], found["customer_seconds_since_last_txn"]) == (
        0,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (
            {"created_timestamp": NOW - pd.Timedelta("3h")},
            "created_timestamp",
            "created_timestamp: before event_timestamp",
        ),
        ({"amount": float("nan")}, "amount", "amount: not finite"),
        ({"amount": float("inf")}, "amount", "amount: not finite"),
        ({"customer_id": True}, "customer_id", "customer_id: cannot be used as bool"),
        ({"customer_id": 5.5}, "customer_id", "customer_id: cannot be used as float"),
        ({"customer_id": float("nan")}, "customer_id", "customer_id: missing"),
        ({"merchant_id": None}, "merchant_id", "merchant_id: missing"),
        ({"transaction_id": None}, "transaction_id", "transaction_id: missing"),
        ({"event_timestamp": None}, "event_timestamp", "event_timestamp: missing"),
        ({"event_timestamp": "soon"}, "event_timestamp", "event_timestamp: cannot be used as str"),
        (
            {"event_timestamp": NOW + pd.Timedelta("400d")},
            "event_timestamp",
            "event_timestamp: more than a day ahead",
        ),
        (
            {"created_timestamp": NOW + pd.Timedelta("400d")},
            "created_timestamp",
            "created_timestamp: more than a day ahead",
        ),
    ],
)
def test_of_a_push_the_good_events_go_in_and_the_bad_ones_to_quarantine(
    store: Any, bad: dict[str, Any], field: str, reason: str
) -> None:
    frame = together(pushed(), pushed(**{"transaction_id": "t2", **bad}), pushed(transaction_id="t3"))
    said = (
        f"2 rows were taken and 1 refused; the first of these is row 1, with {field}: .*"
        f" \\({reason.removeprefix(field + ': ')}\\)$"
    )
    with pytest.raises(RefusedRows, match=said) as refused:
        store.push("transactions_push", frame)
    assert (refused.value.taken, refused.value.refused, refused.value.row, refused.value.field) == (
        2,
        1,
        1,
        field,
    )
    found = online(store)
    assert (found["num_txns_1d"], found["merchant_num_txns_1d"]) == (2, 2)
    assert refusals(store) == {("transactions", reason): 1}


def test_a_frame_without_the_event_time_is_refused_row_by_row(store: Any) -> None:
    with pytest.raises(RefusedRows, match=r"0 rows were taken and 2 refused.*event_timestamp: None"):
        store.push(
            "transactions_push",
            together(pushed(), pushed(transaction_id="t2")).drop(columns="event_timestamp"),
        )
    with pytest.raises(RefusedRows, match=r"0 rows were taken and 1 refused.*amount: None"):
        store.push("transactions_push", pushed().drop(columns="amount"))


@pytest.mark.parametrize("given", [None, [{"amount": 1.0}], {"amount": [1.0]}, pa.table({"amount": [1.0]})])
def test_a_push_of_something_else_than_a_frame_is_refused_with_its_reason(store: Any, given: object) -> None:
    for put in (
        lambda: store.push("transactions_push", given),
        lambda: store.write_to_online_store("profile", given),
    ):
        with pytest.raises(
            RefusedPush,
            match=f"_push|profile: a push takes a pandas DataFrame, and got {type(given).__name__}",
        ):
            put()


@pytest.mark.parametrize(
    ("source", "made", "twice"),
    [("transactions_push", pushed, "event_timestamp"), ("profiles_push", finished, "risk")],
)
def test_a_frame_with_a_column_twice_is_refused_with_its_name(
    store: Any, source: str, made: Any, twice: str
) -> None:
    frame = pd.concat([made(), made()[[twice]]], axis=1)
    with pytest.raises(RefusedPush, match=f"^{source}: more than one column is called '{twice}'"):
        store.push(source, frame)
    assert refusals(store) == {}


def test_a_push_without_rows_is_told_and_needs_a_source_all_the_same(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store.push("transactions_push", pushed().head(0))
    store.write_to_online_store("profile", finished().head(0))
    assert [record.getMessage() for record in caplog.records if "without rows" in record.getMessage()] == [
        "transactions_push: a push without rows; nothing was taken",
        "profile: a write without rows; nothing was taken",
    ]
    with pytest.raises(PushSourceNotFoundException, match="'nope'"):
        store.push("nope", pushed().head(0))


def test_values_of_a_view_that_is_computed_when_asked_are_refused(store: Any) -> None:
    with pytest.raises(RefusedPush, match="risk_per_txn: its values are computed when they are asked for"):
        store.write_to_online_store("risk_per_txn", finished())


def test_finished_values_of_a_windowed_view_are_refused(store: Any) -> None:
    view = store.get_stream_feature_view("customer_stats")
    with pytest.raises(FinishedValues, match="customer_stats"):
        store._get_provider().online_write_batch(store.config, view, [], None)


def test_a_push_to_the_offline_store_is_refused_before_anything_is_written(store: Any) -> None:
    for mode in (PushMode.OFFLINE, PushMode.ONLINE_AND_OFFLINE):
        with pytest.raises(NotWritten, match="transactions_push"):
            store.push("transactions_push", pushed(), to=mode)
    assert online(store)["num_txns_1d"] == 0


# Finished values of materialized views.


def test_pushed_values_come_back_with_their_types(store: Any) -> None:
    store.push("profiles_push", finished())
    found = read(
        store, ["profile:risk", "profile:cards", "profile:segment", "profile:is_staff", "profile:joined_at"]
    )
    assert found == {
        "customer_id": "c1",
        "risk": 0.5,
        "cards": 2,
        "segment": "gold",
        "is_staff": False,
        "joined_at": START.to_pydatetime(),
    }


def test_asynchronous_pushes_do_the_same(store: Any) -> None:
    asyncio.run(store.push_async("profiles_push", finished()))
    asyncio.run(store.write_to_online_store_async("profile", finished(customer_id="c2", segment="iron")))
    assert (read(store)["segment"], read(store, customer_id="c2")["segment"]) == ("gold", "iron")


def test_a_view_of_two_keys_is_written_and_read(store: Any) -> None:
    rows = pd.DataFrame(
        {
            "customer_id": ["c1", "c1"],
            "merchant_id": ["m1", "m2"],
            "raw_affinity": [0.25, 0.75],
            "event_timestamp": NOW,
        }
    )
    store.write_to_online_store("affinity", rows)
    assert read(store, ["affinity:affinity"], customer_id="c1", merchant_id="m2")["affinity"] == 0.75
    assert read(store, ["affinity:affinity"], customer_id="c1", merchant_id="m1")["affinity"] == 0.25
    assert read(store, ["affinity:affinity"], customer_id="m1", merchant_id="c1")["affinity"] is None


def test_a_null_is_a_value_that_replaces_the_older_one(store: Any) -> None:
    store.write_to_online_store("profile", finished(event_timestamp=NOW - pd.Timedelta("3h")))
    store.write_to_online_store(
        "profile", finished().astype({"risk": object}).assign(risk=None, segment=None)
    )
    assert read(store, ["profile:risk", "profile:segment", "profile:cards"]) == {
        "customer_id": "c1",
        "risk": None,
        "segment": None,
        "cards": 2,
    }


stamps = st.tuples(st.integers(0, 5), st.integers(0, 3))


@given(
    writes=st.lists(stamps, min_size=1, max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
    again=st.integers(1, 3),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_newest_write_is_read_whatever_the_order(
    store: Any, writes: list[tuple[int, int]], order: Any, again: int
) -> None:
    """By event_timestamp, then created_timestamp. Each example has an entity of its own."""
    who = f"c{writes}{again}{order.random()}"
    attempts = writes * again
    order.shuffle(attempts)
    batches = [attempts[: len(attempts) // 2], attempts[len(attempts) // 2 :]]
    for batch in filter(None, batches):
        rows = [
            finished(
                customer_id=who,
                event_timestamp=NOW - pd.Timedelta(hours=10 - event),
                created_timestamp=NOW - pd.Timedelta(hours=10 - event - late),
                segment=f"{event} {late}",
            )
            for event, late in batch
        ]
        store.write_to_online_store("profile", together(*rows))
    assert read(store, customer_id=who)["segment"] == "{} {}".format(*max(writes))


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({"risk": float("nan")}, "risk", "risk: not finite"),
        ({"risk": float("-inf")}, "risk", "risk: not finite"),
        ({"cards": "many"}, "cards", "cards: cannot be used as str"),
        ({"customer_id": None}, "customer_id", "customer_id: missing"),
        ({"event_timestamp": None}, "event_timestamp", "event_timestamp: missing"),
        (
            {"event_timestamp": NOW + pd.Timedelta("400d")},
            "event_timestamp",
            "event_timestamp: more than a day ahead",
        ),
    ],
)
def test_of_finished_values_the_good_rows_go_in_and_the_bad_ones_are_counted(
    store: Any, bad: dict[str, Any], field: str, reason: str
) -> None:
    old = finished(customer_id="c2", event_timestamp=NOW - pd.Timedelta("3h"))
    store.write_to_online_store("profile", old)
    frame = together(
        finished(), finished(**{"customer_id": "c2", "segment": "bad", **bad}), finished(customer_id="c3")
    )
    with pytest.raises(RefusedRows, match="2 rows were taken and 1 refused") as refused:
        store.push("profiles_push", frame)
    assert (refused.value.row, refused.value.field) == (1, field)
    assert [read(store, customer_id=c)["segment"] for c in ("c1", "c2", "c3")] == ["gold", "gold", "gold"]
    assert refusals(store) == {("profile", reason): 1}


def test_a_value_older_than_its_ttl_is_not_found(store: Any) -> None:
    store.write_to_online_store(
        "profile", finished(event_timestamp=NOW - TTL - pd.Timedelta("1min"), created_timestamp=NOW)
    )
    response = store.get_online_features(
        features=RISK, entity_rows=[{"customer_id": "c1"}, {"customer_id": "nobody"}]
    ).proto
    names = list(response.metadata.feature_names.val)
    answer = response.results[names.index("risk")]
    assert list(answer.statuses) == [FieldStatus.NOT_FOUND, FieldStatus.NOT_FOUND]
    assert answer.values[0].WhichOneof("val") is None
    assert answer.event_timestamps[0].ToDatetime(UTC) == (NOW - TTL - pd.Timedelta("1min")).to_pydatetime()
    store.write_to_online_store("profile", finished(event_timestamp=NOW - TTL + pd.Timedelta("12h")))
    assert read(store)["risk"] == 0.5


def test_windowed_plain_and_on_demand_views_are_read_together(store: Any) -> None:
    store.push("transactions_push", together(pushed(), pushed(transaction_id="t2")))
    store.push("profiles_push", finished())
    store.apply(
        [
            FeatureService(
                name="mixed",
                features=[
                    store.get_stream_feature_view("customer_stats")[["num_txns_7d"]],
                    profile[["risk"]],
                    risk_per_txn,
                ],
            )
        ]
    )
    rows = [{"customer_id": "c1"}, {"customer_id": "c9"}]
    found = store.get_online_features(features=store.get_feature_service("mixed"), entity_rows=rows).to_dict()
    assert found == {
        "customer_id": ["c1", "c9"],
        "num_txns_7d": [2, 0],
        "risk": [0.5, None],
        "risk_per_txn": [0.25, None],
    }


def test_two_names_of_one_view_are_read_for_their_own_keys(store: Any) -> None:
    store.push("profiles_push", together(finished(), finished(customer_id="c2", segment="iron")))
    named = [
        profile[["segment"]].with_name(n).with_join_key_map({"customer_id": f"{n}_id"})
        for n in ("payer", "friend")
    ]
    store.apply([FeatureService(name="pair", features=named)])
    found = store.get_online_features(
        features=store.get_feature_service("pair"),
        entity_rows=[{"payer_id": "c1", "friend_id": "c2"}],
        full_feature_names=True,
    )
    assert (first(found)["payer__segment"], first(found)["friend__segment"]) == ("gold", "iron")
