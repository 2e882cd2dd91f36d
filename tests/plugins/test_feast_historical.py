"""Windowed views through Feast's historical call, equal to what is computed online."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast_kit import START, Bank, make_bank

from feature_repo.lake.datasets import Lake
from feature_repo.online.lake_events import load_day
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.store import open_store


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make_bank(tmp_path_factory.mktemp("home"))


def test_historical_features_keep_rows_and_extra_columns_in_their_order(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.sample(60, random_state=1))
    asked = pd.concat([asked, asked.head(5)], ignore_index=True).assign(
        note=lambda f: [f"row {i}" for i in range(len(f))]
    )
    found = bank.historical(asked)
    pd.testing.assert_frame_equal(found[list(asked.columns)], asked)
    assert list(found.columns) == [*asked.columns, *bank.plan.features]
    pd.testing.assert_frame_equal(
        found.tail(5).drop(columns="note").reset_index(drop=True), found.head(5).drop(columns="note")
    )


def test_historical_and_online_vectors_are_equal_to_the_last_bit(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.sample(120, random_state=2))
    found = bank.historical(asked)[list(bank.plan.features)].astype("float64").to_numpy()
    with closing(sqlite3.connect(":memory:")) as connection:
        state = SqliteOnlineState(connection, bank.plan)
        for stream in ("transactions", "verdicts"):
            for day in bank.lake.partitions(stream):
                load_day(state, bank.lake, stream, day)
            assert state.count(stream) == 900
        for row, values in zip(asked.itertuples(), found, strict=True):
            keys = {"customer_id": row.customer_id, "merchant_id": row.merchant_id}
            vector = state.vector(
                keys, row.event_time_us, {"amount": row.amount, "event_time_us": row.event_time_us}
            )
            assert list(vector) == list(bank.plan.features)
            np.testing.assert_array_equal(
                np.array([np.nan if v is None else v for v in vector.values()]), values
            )


def test_some_values_are_what_a_person_would_count(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.iloc[[700]])
    (row,) = bank.historical(asked).to_dict("records")
    at, t = row["event_timestamp"], bank.transactions
    mine = t[(t.customer_id == row["customer_id"]) & (t.event_timestamp < at) & (t.created_timestamp <= at)]
    week = mine[mine.event_timestamp >= at - pd.Timedelta(days=7)]
    assert row["num_txns_7d"] == len(week)
    assert row["avg_txn_amount_7d"] == pytest.approx(week.amount.mean())
    assert row["max_txn_amount_7d"] == week.amount.max()
    assert row["std_txn_amount_90d"] == pytest.approx(mine.amount.std())
    assert row["num_declines_7d"] == week.is_declined.sum()
    assert row["amount_to_customer_avg_7d"] == pytest.approx(row["amount"] / week.amount.mean())


def test_a_day_that_arrives_later_changes_no_earlier_row(bank: Bank, tmp_path: Path) -> None:
    asked = bank.entities(
        bank.transactions[bank.transactions.event_timestamp < START + pd.Timedelta(days=6)].tail(50)
    )
    before = bank.historical(asked)
    shutil.copytree(bank.home / "lake", tmp_path / "lake")
    future = asked.assign(
        created_timestamp=START + pd.Timedelta(days=40),
        event_timestamp=asked.event_timestamp - pd.Timedelta("1us"),
        amount=1e9,
    )
    future = future.drop(columns="event_time_us").assign(
        transaction_id=[f"poison{i}" for i in range(50)], is_declined=True
    )
    Lake(tmp_path / "lake").write(
        "transactions", "2018-04-07", pa.Table.from_pandas(future, preserve_index=False), validated=True
    )
    poisoned = Bank(tmp_path, open_store(tmp_path, "feature_repo.fraud"), bank.plan, bank.transactions)
    pd.testing.assert_frame_equal(poisoned.historical(asked), before)


def test_an_entity_frame_can_be_sql_over_the_lake(bank: Bank) -> None:
    query = (
        "SELECT transaction_id, customer_id, event_timestamp FROM transactions WHERE amount > 250 ORDER BY"
        " transaction_id"
    )
    found = bank.store.get_historical_features(query, features=["customer_stats:num_txns_7d"]).to_df()
    expensive = bank.transactions[bank.transactions.amount > 250]
    assert found["transaction_id"].tolist() == sorted(expensive["transaction_id"])
    pd.testing.assert_series_equal(
        found["num_txns_7d"],
        bank.historical(bank.entities(expensive.sort_values("transaction_id")))["num_txns_7d"].reset_index(
            drop=True
        ),
    )


def test_times_without_a_zone_are_utc_and_other_zones_are_converted(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.tail(20))[["customer_id", "event_timestamp"]].reset_index(
        drop=True
    )
    features = ["customer_stats:num_txns_7d"]
    expected = bank.store.get_historical_features(asked, features=features).to_df()["num_txns_7d"]
    for zone in (None, "Europe/Berlin"):
        shifted = asked.assign(event_timestamp=asked["event_timestamp"].dt.tz_convert(zone))
        found = bank.store.get_historical_features(shifted, features=features).to_df()["num_txns_7d"]
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({"event_timestamp": [START]}, "customer_id: this key column is missing"),
        (
            {"event_timestamp": [START], "customer_id": [True]},
            "customer_id: ids are text or whole numbers, these are bool",
        ),
        (
            {"event_timestamp": [START], "customer_id": [5.5]},
            "customer_id, row 0: 5.5 is not an identifier; it has a fraction",
        ),
        (
            {"event_timestamp": [START], "customer_id": [float("inf")]},
            "customer_id, row 0: inf is not an identifier",
        ),
        (
            {"event_timestamp": [START], "customer_id": [2.0**53]},
            "customer_id, row 0: .* a float of this size skips integers",
        ),
        ({"event_timestamp": [pd.NaT], "customer_id": ["c1"]}, "have no time"),
        ({"event_timestamp": [START], "customer_id": ["c1"], "num_txns_7d": [0]}, "num_txns_7d"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_by_name(bank: Bank, frame: dict[str, Any], why: str) -> None:
    asked = pd.DataFrame(frame).assign(event_timestamp=pd.to_datetime(frame["event_timestamp"], utc=True))
    with pytest.raises(ValueError, match=why):
        bank.store.get_historical_features(asked, features=["customer_stats:num_txns_7d"]).to_df()


def test_keys_and_times_of_which_nothing_is_known_give_zero_and_null(bank: Bank) -> None:
    asked = pd.DataFrame(
        {
            "event_timestamp": [START + pd.Timedelta(days=5), START - pd.Timedelta(days=900)],
            "customer_id": ["new", "c1"],
        }
    )
    features = ["customer_stats:num_txns_7d", "customer_stats:avg_txn_amount_7d"]
    found = bank.store.get_historical_features(asked, features=features).to_df()
    assert found["num_txns_7d"].tolist() == [0, 0]
    assert found["avg_txn_amount_7d"].isna().all()


def test_full_feature_names_are_prefixed_and_on_demand_still_works(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.tail(3))
    service = bank.store.get_feature_service("fraud_v1")
    found = bank.store.get_historical_features(asked, features=service, full_feature_names=True).to_df()
    short = bank.historical(asked)
    assert found["transaction_context__amount_zscore_90d"].tolist() == short["amount_zscore_90d"].tolist()
    assert found["merchant_stats__fraud_rate_90d"].tolist() == short["fraud_rate_90d"].tolist()
