"""Through real Feast, on a lake of its own: historical and online retrieval, pushes, the registry and the command line."""

import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.lake import Lake
from feature_repo.engine.online import OnlineState, rebuild
from feature_repo.engine.plan import FeaturePlan, PlanError, plan_from_feast
from feature_repo.engine.roots import serving_db
from feature_repo.engine.store import REPO, open_store

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Feast says of stream views that they are experimental
START = pd.Timestamp("2018-04-01", tz="UTC")


@dataclass(frozen=True)
class Bank:
    home: Path
    store: Any
    plan: FeaturePlan
    transactions: pd.DataFrame

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")

    def entities(self, rows: pd.DataFrame) -> pd.DataFrame:
        asked = rows[["transaction_id", "event_timestamp", "customer_id", "merchant_id", "amount"]].copy()
        return asked.assign(event_time_us=asked["event_timestamp"].astype("int64"))

    def historical(self, entities: pd.DataFrame) -> pd.DataFrame:
        return self.store.get_historical_features(entities, features=self.store.get_feature_service("fraud_v1")).to_df()


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(7)
    n = 900
    happened = START + pd.to_timedelta(np.sort(rng.integers(0, 12 * 86_400, n)), unit="s")
    late = pd.to_timedelta(np.where(rng.random(n) < 0.1, rng.integers(1, 86_400, n), 0), unit="s")
    transactions = pd.DataFrame(
        {
            "transaction_id": [f"t{i}" for i in range(n)],
            "event_timestamp": pd.Series(happened).astype("datetime64[us, UTC]"),
            "created_timestamp": pd.Series(happened + late).astype("datetime64[us, UTC]"),
            "customer_id": [f"c{i}" for i in rng.integers(0, 12, n)],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 9, n)],
            "amount": rng.integers(1, 30_000, n) / 100,
            "is_declined": rng.random(n) < 0.1,
        }
    )
    known = transactions["event_timestamp"] + pd.Timedelta(days=3)
    verdicts = transactions.rename(columns={"event_timestamp": "transaction_timestamp"}).drop(columns=["created_timestamp", "is_declined"])
    verdicts = verdicts.assign(event_timestamp=known, created_timestamp=known, is_fraud=rng.random(n) < 0.2)
    for name, rows in {"transactions": transactions, "verdicts": verdicts}.items():
        for day, arrived in rows.groupby(rows["created_timestamp"].dt.strftime("%Y-%m-%d")):
            Lake(home / "lake").write(name, str(day), pa.Table.from_pandas(arrived, preserve_index=False), validated=True)
    store = open_store(home)
    return Bank(home, store, plan_from_feast(store, "fraud_v1"), transactions)


def test_the_vector_is_the_service_in_its_order(bank: Bank) -> None:
    projections = bank.store.get_feature_service("fraud_v1").feature_view_projections
    assert [p.name for p in projections] == ["customer_stats", "merchant_stats", "merchant_activity", "transaction_context"]
    assert bank.plan.features == tuple(f.name for p in projections for f in p.features)
    assert bank.plan.features[:2] == ("avg_txn_amount_1d", "avg_txn_amount_7d")
    assert bank.plan.features[-1] == "is_night"
    assert {"avg_txn_amount_30d", "num_declines_7d", "fraud_rate_90d"} <= set(bank.plan.features)
    assert bank.plan.request_fields == ("amount", "event_time_us")
    assert bank.plan.keys == ("customer_id", "merchant_id")


def test_historical_features_keep_rows_and_extra_columns_in_their_order(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.sample(60, random_state=1))
    asked = pd.concat([asked, asked.head(5)], ignore_index=True).assign(note=lambda f: [f"row {i}" for i in range(len(f))])
    found = bank.historical(asked)
    pd.testing.assert_frame_equal(found[list(asked.columns)], asked)
    assert list(found.columns) == [*asked.columns, *bank.plan.features]
    pd.testing.assert_frame_equal(found.tail(5).drop(columns="note").reset_index(drop=True), found.head(5).drop(columns="note"))


def test_historical_and_online_vectors_are_equal_to_the_last_bit(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.sample(120, random_state=2))
    found = bank.historical(asked)[list(bank.plan.features)].astype("float64").to_numpy()
    state = OnlineState(connection := sqlite3.connect(":memory:"), bank.plan)
    assert rebuild(connection, bank.plan, bank.lake) == {"transactions": 900, "verdicts": 900}
    for row, values in zip(asked.itertuples(), found, strict=True):
        keys = {"customer_id": row.customer_id, "merchant_id": row.merchant_id}
        vector = state.vector(keys, row.event_time_us, {"amount": row.amount, "event_time_us": row.event_time_us})
        assert list(vector) == list(bank.plan.features)
        np.testing.assert_array_equal(np.array([np.nan if v is None else v for v in vector.values()]), values)


def test_some_values_are_what_a_person_would_count(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.iloc[[700]])
    (row,) = bank.historical(asked).to_dict("records")
    at, t = row["event_timestamp"], bank.transactions
    mine = t[(t.customer_id == row["customer_id"]) & (t.event_timestamp < at) & (t.created_timestamp <= at)]
    week = mine[mine.event_timestamp >= at - pd.Timedelta(days=7)]
    assert row["num_txns_7d"] == len(week)
    assert row["avg_txn_amount_7d"] == pytest.approx(week.amount.mean())
    assert row["std_txn_amount_7d"] == pytest.approx(week.amount.std())
    assert row["num_declines_7d"] == week.is_declined.sum()
    assert row["amount_to_customer_avg_7d"] == pytest.approx(row["amount"] / week.amount.mean())


def test_a_day_that_arrives_later_changes_no_earlier_row(bank: Bank, tmp_path: Path) -> None:
    asked = bank.entities(bank.transactions[bank.transactions.event_timestamp < START + pd.Timedelta(days=6)].tail(50))
    before = bank.historical(asked)
    shutil.copytree(bank.home / "lake", tmp_path / "lake")
    future = asked.assign(created_timestamp=START + pd.Timedelta(days=40), event_timestamp=asked.event_timestamp - pd.Timedelta("1us"), amount=1e9)
    future = future.drop(columns="event_time_us").assign(transaction_id=[f"poison{i}" for i in range(50)], is_declined=True)
    Lake(tmp_path / "lake").write("transactions", "2018-04-07", pa.Table.from_pandas(future, preserve_index=False), validated=True)
    poisoned = Bank(tmp_path, open_store(tmp_path), bank.plan, bank.transactions)
    pd.testing.assert_frame_equal(poisoned.historical(asked), before)


def test_an_entity_frame_can_be_sql_over_the_lake(bank: Bank) -> None:
    query = "SELECT transaction_id, customer_id, event_timestamp FROM transactions WHERE amount > 250 ORDER BY transaction_id"
    found = bank.store.get_historical_features(query, features=["customer_stats:num_txns_30d"]).to_df()
    expensive = bank.transactions[bank.transactions.amount > 250]
    assert found["transaction_id"].tolist() == sorted(expensive["transaction_id"])
    pd.testing.assert_series_equal(
        found["num_txns_30d"], bank.historical(bank.entities(expensive.sort_values("transaction_id")))["num_txns_30d"].reset_index(drop=True)
    )


def test_times_without_a_zone_are_utc_and_other_zones_are_converted(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.tail(20))[["customer_id", "event_timestamp"]].reset_index(drop=True)
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
        ({"event_timestamp": [START], "customer_id": [5]}, "ids are strings"),
        ({"event_timestamp": [pd.NaT], "customer_id": ["c1"]}, "have no time"),
        ({"event_timestamp": [START], "customer_id": ["c1"], "num_txns_7d": [0]}, "num_txns_7d"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_by_name(bank: Bank, frame: dict[str, Any], why: str) -> None:
    asked = pd.DataFrame(frame).assign(event_timestamp=pd.to_datetime(frame["event_timestamp"], utc=True))
    with pytest.raises(ValueError, match=why):
        bank.store.get_historical_features(asked, features=["customer_stats:num_txns_7d"]).to_df()


def test_keys_and_times_of_which_nothing_is_known_give_zero_and_null(bank: Bank) -> None:
    asked = pd.DataFrame({"event_timestamp": [START + pd.Timedelta(days=5), START - pd.Timedelta(days=900)], "customer_id": ["new", "c1"]})
    features = ["customer_stats:num_txns_7d", "customer_stats:avg_txn_amount_7d"]
    found = bank.store.get_historical_features(asked, features=features).to_df()
    assert found["num_txns_7d"].tolist() == [0, 0]
    assert found["avg_txn_amount_7d"].isna().all()


def test_full_feature_names_are_prefixed_and_on_demand_still_works(bank: Bank) -> None:
    asked = bank.entities(bank.transactions.tail(3))
    service = bank.store.get_feature_service("fraud_v1")
    found = bank.store.get_historical_features(asked, features=service, full_feature_names=True).to_df()
    short = bank.historical(asked)
    assert found["transaction_context__amount_zscore_30d"].tolist() == short["amount_zscore_30d"].tolist()
    assert found["merchant_stats__fraud_rate_90d"].tolist() == short["fraud_rate_90d"].tolist()


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    return open_store(tmp_path)


def pushed(**changes: Any) -> pd.DataFrame:
    now = pd.Timestamp.now(tz="UTC").floor("us")
    row = {
        "transaction_id": "t1",
        "customer_id": "c1",
        "merchant_id": "m1",
        "amount": 20.0,
        "is_declined": True,
        "event_timestamp": now - pd.Timedelta("2h"),
    }
    return pd.DataFrame([{**row, **changes}])


def online(store: Any) -> dict[str, Any]:
    row = {"customer_id": "c1", "merchant_id": "m1", "amount": 30.0, "event_time_us": 0}
    return {k: v[0] for k, v in store.get_online_features(features=store.get_feature_service("fraud_v1"), entity_rows=[row]).to_dict().items()}


def test_pushed_events_are_seen_online_by_every_view_of_their_stream(fresh: Any) -> None:
    fresh.push("transactions_push", pd.concat([pushed(), pushed(transaction_id="t2", amount=40.0, is_declined=False), pushed()]))
    fresh.push("transactions_push", pushed(amount=9_999.0))  # an id that is known
    verdict = pushed(is_fraud=True).drop(columns="is_declined")
    fresh.push("verdicts_push", verdict)
    found = online(fresh)
    assert (found["num_txns_1d"], found["avg_txn_amount_1d"], found["num_declines_7d"]) == (2, 30.0, 1)
    assert (found["merchant_num_txns_1d"], found["merchant_num_customers_1d"]) == (2, 1)
    assert (found["fraud_rate_90d"], found["num_verdicts_7d"]) == (1.0, 1)
    assert (found["amount_to_customer_avg_7d"], found["txn_amount"]) == (1.0, 30.0)


def test_an_older_event_that_is_pushed_later_does_not_hide_the_newer(fresh: Any) -> None:
    fresh.push("transactions_push", pushed())
    newest = online(fresh)["customer_seconds_since_last_txn"]
    fresh.push("transactions_push", pushed(transaction_id="t0", event_timestamp=pd.Timestamp.now(tz="UTC") - pd.Timedelta("5d")))
    found = online(fresh)
    assert found["customer_seconds_since_last_txn"] == pytest.approx(newest, abs=60)
    assert (found["num_txns_1d"], found["num_txns_7d"]) == (1, 2)


def test_what_is_older_than_its_window_is_missing_online(fresh: Any) -> None:
    fresh.push("transactions_push", pushed(event_timestamp=pd.Timestamp.now(tz="UTC") - pd.Timedelta("100d")))
    found = online(fresh)
    assert (found["num_txns_90d"], found["avg_txn_amount_90d"], found["customer_seconds_since_last_txn"]) == (0, None, None)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"amount": float("nan")}, "amount"),
        ({"amount": float("inf")}, "amount"),
        ({"customer_id": 5}, "customer_id"),
        ({"event_timestamp": pd.Timestamp.now(tz="UTC") + pd.Timedelta("400d")}, "event_timestamp"),
    ],
)
def test_a_push_with_one_bad_event_changes_nothing_and_names_the_column(fresh: Any, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(BadEvent) as refused:
        fresh.push("transactions_push", pd.concat([pushed(), pushed(transaction_id="t2", **bad)]))
    assert refused.value.field == field
    assert online(fresh)["num_txns_1d"] == 0


def test_materializing_loads_days_of_the_lake(bank: Bank, tmp_path: Path) -> None:
    store = open_store(tmp_path, lake=str(bank.home / "lake"))
    store.materialize(START.to_pydatetime(), (START + pd.Timedelta(days=30)).to_pydatetime())
    with sqlite3.connect(serving_db(tmp_path)) as connection:
        assert connection.execute("SELECT count(*), count(customer_id), count(merchant_id) FROM online_transactions").fetchone() == (900, 900, 900)
        assert connection.execute("SELECT count(*), sum(is_fraud) > 0 FROM online_verdicts").fetchone() == (900, 1)
    connection.close()


def test_opening_again_applies_nothing(bank: Bank) -> None:
    registry = bank.home / "feast" / "registry.db"
    before = registry.stat().st_mtime_ns
    assert plan_from_feast(open_store(bank.home), "fraud_v1").digest == bank.plan.digest
    assert registry.stat().st_mtime_ns == before


def test_a_damaged_registry_is_set_aside_and_made_anew(fresh: Any, tmp_path: Path) -> None:
    registry = tmp_path / "feast" / "registry.db"
    registry.write_bytes(b"")
    assert len(open_store(tmp_path).list_stream_feature_views()) == 3
    assert (tmp_path / "feast" / "registry.damaged").exists()


def digest_of(home: Path) -> str:
    return plan_from_feast(open_store(home), "fraud_v1").digest


@pytest.mark.slow
def test_two_processes_may_open_a_new_home_at_once(tmp_path: Path, bank: Bank) -> None:
    with ProcessPoolExecutor(2) as processes:
        assert set(processes.map(digest_of, [tmp_path] * 2)) == {bank.plan.digest}


def test_a_plan_survives_its_way_through_a_release(bank: Bank) -> None:
    assert FeaturePlan.from_dict(bank.plan.to_dict()) == bank.plan
    assert FeaturePlan.from_dict(bank.plan.to_dict()).digest == bank.plan.digest
    assert bank.plan.event_id("verdicts", {"transaction_id": "t1"}, 7) == "t1:7"
    assert bank.plan.event_id("transactions", {"transaction_id": "t1"}, 7) == "t1"
    with pytest.raises(PlanError, match="nowhere"):
        bank.plan.event_id("nowhere", {}, 7)


@pytest.mark.slow
@pytest.mark.parametrize("home", ["set", None])
def test_feast_on_the_command_line_applies_and_lists(tmp_path: Path, home: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MLOPS_HOME"} | {"FEAST_USAGE": "False"}
    if home:
        environment["MLOPS_HOME"] = home
    feast = Path(sys.executable).with_name("feast")

    def run(*command: str) -> str:
        done = subprocess.run([feast, "-c", REPO, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("apply")
    listed = run("feature-views", "list")
    assert all(name in listed for name in ("customer_stats", "merchant_stats", "merchant_activity", "transaction_context"))
    assert (tmp_path / (home or "var") / "feast" / "registry.db").exists()
    assert {p.name for p in tmp_path.iterdir()} == {home or "var"}
