"""The tables of a stream follow from its declaration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest

from mlops_assets.core.data.streams import event_stream, feed_stream, label_stream, streams_of
from mlops_assets.core.data.validation import validate
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.subject import Event, Feed, Flag, Key, Number, Text

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")
ORDER = Event(
    noun="order",
    dataset="orders",
    id="order_id",
    keys=(Key("shop"), Key("voucher", nullable=True)),
    columns=(Number("price", 1.0, 100.0), Number("weight"), Flag("gift"), Text("level")),
    believable=("price",),
)


def rows(**changes: object) -> pd.DataFrame:
    """One order that holds, with changes."""
    order = {"order_id": "o1", "event_timestamp": NOW, "created_timestamp": NOW, "shop": "s", "voucher": None}
    return pd.DataFrame([{**order, "price": 10.0, "weight": 0.5, "gift": False, "level": "fast", **changes}])


def reason(frame: pd.DataFrame, **highest: float) -> str:
    """Why the row is quarantined; empty where it is accepted."""
    stream = event_stream(ORDER, highest)
    outcome = validate(frame, stream.schema(NOW.date()), key=stream.key, order=stream.order)
    return "; ".join(outcome.reasons)


def test_the_fraud_cases_columns_keys_and_orders_are_those_of_its_lake() -> None:
    payments, reports = streams_of(FRAUD)
    assert payments.columns == pa.schema(
        [
            ("transaction_id", pa.string()),
            ("event_timestamp", TIME),
            ("created_timestamp", TIME),
            ("customer_id", pa.string()),
            ("merchant_id", pa.string()),
            ("amount", pa.float64()),
            ("is_declined", pa.bool_()),
        ]
    )
    assert payments.raw_columns.names[-2:] == ["malformed", "arrival_day"]
    assert (payments.key, payments.order, payments.prefer) == (
        ("transaction_id",),
        ("event_timestamp", "transaction_id"),
        ("created_timestamp",),
    )
    assert (payments.raw, payments.quarantined) == ("raw_transactions", "quarantined_transactions")
    assert reports.columns.names == ["transaction_id", "is_fraud", "label_timestamp"]
    assert reports.key == ("transaction_id", "is_fraud", "label_timestamp")
    assert reports.order == ("label_timestamp", "transaction_id", "is_fraud")
    assert (payments.once, reports.once) == (True, False)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ""),
        ({"price": 0.5}, "price: below 1"),
        ({"price": 100.5}, "price: above 100, the highest believable price ([bounds] max_price)"),
        ({"weight": 2e10}, "weight: above 10000000000"),
        ({"shop": None}, "shop: missing"),
        ({"level": "x" * 201}, "level: longer than 200 characters"),
        ({"event_timestamp": NOW + timedelta(hours=1)}, "created_timestamp: before event_timestamp"),
        ({"created_timestamp": NOW + timedelta(days=1)}, "created_timestamp: after its day of arrival"),
        ({"event_timestamp": datetime(1999, 1, 1, tzinfo=UTC)}, "event_timestamp: before 2000-01-01"),
    ],
)
def test_a_row_has_to_be_as_declared(changes: dict[str, object], found: str) -> None:
    assert reason(rows(**changes)) == found


def test_the_configuration_may_change_what_is_believable() -> None:
    assert reason(rows(price=150.0), price=200.0) == ""
    assert reason(rows(price=50.0), price=20.0) == (
        "price: above 20, the highest believable price ([bounds] max_price)"
    )


def test_a_row_of_a_feed_is_known_by_its_columns_together() -> None:
    feed = feed_stream(Feed("rebates", ("shop", "event_timestamp"), (Key("shop"),), (Number("rebate"),)))
    one = {"event_timestamp": NOW, "created_timestamp": NOW, "shop": "s", "rebate": 1.0}
    later = {**one, "event_timestamp": NOW - timedelta(hours=1)}
    known = pd.MultiIndex.from_tuples([("s", pd.Timestamp(NOW))])
    frame = pd.DataFrame([one, later, {**one, "shop": "t"}])
    outcome = validate(frame, feed.schema(), key=feed.key, order=feed.order, prefer=feed.prefer, known=known)
    assert outcome.reasons == {"shop, event_timestamp: accepted on another day": 1}
    assert outcome.accepted[["shop", "event_timestamp"]].to_numpy().tolist() == [
        ["s", pd.Timestamp(NOW - timedelta(hours=1))],
        ["t", pd.Timestamp(NOW)],
    ]


def test_labels_contradict_each_other_and_rows_of_a_source_are_typed() -> None:
    labels = label_stream(ORDER, FRAUD.labels)
    said = {"order_id": ["o1"] * 2, "is_fraud": [True, False], "label_timestamp": [NOW] * 2}
    table = labels.delivered(said)
    assert table.schema == labels.raw_columns
    assert table.column("arrival_day").to_pylist() == [NOW.date()] * 2
    outcome = validate(pd.DataFrame(said), labels.schema(), key=labels.key, order=labels.order)
    assert len(outcome.accepted) == 2
