"""A number that stands for an id is its decimal text, in every call of Feast's."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureView, Field, FileSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.types import Float64, String
from feast_kit import NOW, START, finished, first, open_with_profiles, pushed, read, together, write_days
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.engine.ids import NotAnId, id_text, ids_of_numbers
from feature_repo.fraud.entities import customer
from feature_repo.lake.datasets import Lake
from feature_repo.plugins.finished_values import with_text_ids

COUNT = ["customer_stats:num_txns_7d"]
NUMBERS = [654, 654.0, np.int64(654), np.float32(654), Decimal("654.00")]
NO_IDS = [
    True,
    np.bool_(False),
    5.5,
    float("nan"),
    float("inf"),
    None,
    Decimal("0.5"),
    2.0**53,
    np.float32(2**24),
    b"5",
]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_with_profiles(tmp_path)


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_whole_number_is_its_decimal_text(number: Any) -> None:
    assert id_text(number) == "654"


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_what_is_no_id_is_refused_with_the_value(value: Any) -> None:
    with pytest.raises(NotAnId) as refused:
        id_text(value)
    assert repr(value) in str(refused.value)


@given(
    st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 2**53, 2**53 - 1, -(2**53)])))
)
def test_a_column_of_numbers_gives_what_its_values_give_alone(numbers: list[int]) -> None:
    def alone(value: Any) -> str | None:
        try:
            return id_text(value)
        except NotAnId:
            return None

    floats = [float(n) for n in numbers] + [n / 8 for n in numbers]
    assert ids_of_numbers(pa.array(numbers, pa.int64())).to_pylist() == [str(n) for n in numbers]  # type: ignore[union-attr]
    assert ids_of_numbers(pa.array(floats, pa.float64())).to_pylist() == [alone(f) for f in floats]  # type: ignore[union-attr]
    decimals = [Decimal(n).scaleb(-1) for n in numbers]
    assert ids_of_numbers(pa.array(decimals, pa.decimal128(38, 1))).to_pylist() == [
        alone(d) for d in decimals
    ]  # type: ignore[union-attr]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_online_features_asked_by_a_number_are_those_of_its_text(store: Any, number: Any) -> None:
    store.push("transactions_push", pushed(customer_id="654"))
    expected = {"customer_id": "654", "num_txns_7d": 1}
    assert first(store.get_online_features(features=COUNT, entity_rows=[{"customer_id": number}])) == expected
    assert first(store.get_online_features(features=COUNT, entity_rows={"customer_id": [number]})) == expected


def test_online_features_may_be_asked_by_arrays_and_by_feasts_own_values(store: Any) -> None:
    store.push("transactions_push", pushed(customer_id="654"))
    for column in (
        np.array([654.0]),
        RepeatedValue(val=[Value(double_val=654.0)]),
        [Value(int64_val=654)],
        [Value(string_val="654")],
    ):
        assert (
            first(store.get_online_features(features=COUNT, entity_rows={"customer_id": column}))[
                "num_txns_7d"
            ]
            == 1
        )


@pytest.mark.parametrize("value", [True, 5.5, float("inf"), b"5"], ids=repr)
def test_an_entity_row_without_an_id_is_refused_with_its_number(store: Any, value: Any) -> None:
    with pytest.raises(NotAnId, match=r"customer_id, row 1: .* is not an identifier"):
        store.get_online_features(features=COUNT, entity_rows=[{"customer_id": "c1"}, {"customer_id": value}])


def test_numbers_that_are_no_ids_reach_the_on_demand_views_as_numbers(store: Any) -> None:
    row = {"customer_id": 654, "merchant_id": 7.0, "amount": 30.0, "event_time_us": 0}
    store.push("transactions_push", together(pushed(customer_id=654, merchant_id=7.0, transaction_id=1)))
    found = first(
        store.get_online_features(features=store.get_feature_service("fraud_v1"), entity_rows=[row])
    )
    assert (found["num_txns_7d"], found["merchant_num_txns_30d"], found["txn_amount"]) == (1, 1, 30.0)


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_pushed_number_is_the_same_customer_as_its_text(store: Any, number: Any) -> None:
    store.push("transactions_push", pushed(customer_id=number, transaction_id=number))
    store.push("transactions_push", pushed(customer_id="654", transaction_id="654"))  # the same event again
    assert read(store, COUNT, customer_id="654")["num_txns_7d"] == 1
    store.write_to_online_store("profile", finished(customer_id=number, risk=0.25))
    assert read(store, customer_id="654")["risk"] == 0.25


def test_keys_of_feasts_write_batches_are_text() -> None:
    def key(value: Value) -> EntityKey:
        return EntityKey(join_keys=["customer_id"], entity_values=[value])

    assert (
        with_text_ids(key(Value(int64_val=5)))
        == with_text_ids(key(Value(double_val=5.0)))
        == key(Value(string_val="5"))
    )


def test_a_push_with_nanoseconds_is_one_with_microseconds(store: Any) -> None:
    fine = NOW - pd.Timedelta("2h") + pd.Timedelta(999, "ns")
    store.push("transactions_push", pushed(event_timestamp=fine, created_timestamp=fine))
    store.push("transactions_push", pushed(event_timestamp=fine.floor("us")))  # the same event again
    assert read(store, COUNT)["num_txns_7d"] == 1
    store.push("profiles_push", finished(event_timestamp=fine, created_timestamp=fine, joined_at=fine))
    assert read(store, ["profile:joined_at"])["joined_at"] == fine.floor(
        "s"
    )  # all that Feast's own values hold


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bank whose customers have numbers, as text in the lake; and finished rows of theirs, by number."""
    home = tmp_path_factory.mktemp("numbered")
    times = pd.date_range(START, periods=20, freq="h").as_unit("us")
    rows = pd.DataFrame(
        {
            "event_timestamp": times,
            "created_timestamp": times,
            "customer_id": [str(5 + i % 3) for i in range(20)],
        }
    )
    lake = Lake(home / "lake")
    write_days(
        lake,
        "transactions",
        rows.assign(transaction_id=rows.index.astype(str), merchant_id="m", amount=1.0, is_declined=False),
    )
    write_days(
        lake, "heights", rows.assign(customer_id=rows["customer_id"].astype("int64"), height=np.arange(20.0))
    )
    store = open_with_profiles(home)
    source = FileSource(
        name="heights",
        path="lake://heights",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [Field(name="customer_id", dtype=String), Field(name="height", dtype=Float64)]
    store.apply([FeatureView(name="heights", entities=[customer], source=source, schema=schema)])
    return store


@pytest.mark.parametrize(
    "ids",
    [
        np.array([5, 6, 9]),
        np.array([5.0, 6.0, 9.0]),
        pd.array([5, 6, 9], "Int64"),
        pd.Categorical([5, 6, 9]),
        [Decimal(5), Decimal(6), Decimal(9)],
        [5, "6", 9.0],
    ],
    ids=lambda ids: str(getattr(ids, "dtype", ids)),
)
def test_historical_features_at_numbers_are_those_at_their_text(numbered: Any, ids: Any) -> None:
    at = START + pd.Timedelta("19h") + pd.Timedelta(999, "ns")
    frame = pd.DataFrame({"customer_id": ids, "event_timestamp": pd.DatetimeIndex([at] * 3)})
    found = numbered.get_historical_features(frame, features=[*COUNT, "heights:height"]).to_df()
    assert found["num_txns_7d"].tolist() == [7, 6, 0]
    assert found["height"].dropna().tolist() == [18.0, 19.0]
    assert found["customer_id"].tolist() == list(ids)  # what was given stays as it came


def test_an_sql_entity_frame_may_hold_numbers(numbered: Any) -> None:
    query = "SELECT customer_id, event_timestamp FROM heights ORDER BY event_timestamp DESC LIMIT 1"
    found = numbered.get_historical_features(query, features=COUNT).to_df()
    assert found["num_txns_7d"].tolist() == [6]
