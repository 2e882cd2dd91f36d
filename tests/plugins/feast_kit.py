"""A small bank behind real Feast, and materialized views beside its windowed ones."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, Field, FileSource, PushSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String, UnixTimestamp

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.engine.plan import FeaturePlan
from feature_repo.fraud.entities import customer, merchant
from feature_repo.fraud.views import customer_stats
from feature_repo.lake.datasets import Lake
from feature_repo.plugins.online_store import reading
from feature_repo.store import open_store

START = pd.Timestamp("2018-04-01", tz="UTC")
NOW = pd.Timestamp.now(tz="UTC").floor(
    "us"
)  # when the tests were collected: they run minutes later, so bounds keep hours away from it
TTL = timedelta(days=3)
RISK = ["profile:risk", "profile:segment"]


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
        return self.store.get_historical_features(
            entities, features=self.store.get_feature_service("fraud_v1")
        ).to_df()


def make_bank(home: Path) -> Bank:
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
    verdicts = transactions.rename(columns={"event_timestamp": "transaction_timestamp"}).drop(
        columns=["created_timestamp", "is_declined"]
    )
    verdicts = verdicts.assign(event_timestamp=known, created_timestamp=known, is_fraud=rng.random(n) < 0.2)
    for name, rows in {"transactions": transactions, "verdicts": verdicts}.items():
        write_days(Lake(home / "lake"), name, rows)
    store = open_store(home, "feature_repo.fraud")
    return Bank(home, store, plan_from_feast(store, "fraud_v1"), transactions)


def write_days(lake: Lake, dataset: str, rows: pd.DataFrame) -> None:
    """By arrival day, as the platform does."""
    for day, arrived in rows.groupby(rows["created_timestamp"].dt.strftime("%Y-%m-%d")):
        lake.write(dataset, str(day), pa.Table.from_pandas(arrived, preserve_index=False), validated=True)


profiles = FileSource(
    name="profiles",
    path="lake://profiles",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
profiles_push = PushSource(name="profiles_push", batch_source=profiles)
profile = FeatureView(
    name="profile",
    entities=[customer],
    source=profiles_push,
    ttl=TTL,
    schema=[
        Field(name="customer_id", dtype=String),
        Field(name="risk", dtype=Float64),
        Field(name="cards", dtype=Int64),
        Field(name="segment", dtype=String),
        Field(name="is_staff", dtype=Bool),
        Field(name="joined_at", dtype=UnixTimestamp),
    ],
)
# Two keys, no created_timestamp, no ttl, and a column of another name in the lake.
pairs = FileSource(
    name="pairs",
    path="lake://pairs",
    timestamp_field="event_timestamp",
    field_mapping={"raw_affinity": "affinity"},
)
affinity = FeatureView(
    name="affinity",
    entities=[customer, merchant],
    source=pairs,
    ttl=timedelta(0),
    schema=[
        Field(name="customer_id", dtype=String),
        Field(name="merchant_id", dtype=String),
        Field(name="affinity", dtype=Float64),
    ],
)


@on_demand_feature_view(
    name="risk_per_txn",
    sources=[profile[["risk"]], customer_stats[["num_txns_7d"]]],
    schema=[Field(name="risk_per_txn", dtype=Float64)],
    mode="python",
)
def risk_per_txn(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "risk_per_txn": [
            None if r is None or not n else r / n
            for r, n in zip(inputs["risk"], inputs["num_txns_7d"], strict=True)
        ]
    }


def make_profiles(bank: Bank, seed: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Profiles of the bank's customers, a third of them late and some corrected, and affinities; in the lake
    and declared.
    """
    rng = np.random.default_rng(seed)
    n = 300
    happened = (START + pd.to_timedelta(rng.integers(0, 10 * 24, n), unit="h")).as_unit(
        "us"
    )  # by the hour: several at once
    late = pd.to_timedelta(np.where(rng.random(n) < 0.3, rng.integers(1, 48, n), 0), unit="h")
    rows = pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in rng.integers(0, 12, n)],
            "event_timestamp": happened,
            "created_timestamp": (happened + late).as_unit("us"),
            "risk": pd.Series(rng.integers(0, 1000, n) / 1000).where(rng.random(n) < 0.9, None),
            "cards": rng.integers(1, 5, n),
            "segment": [f"s{i}" for i in range(n)],
            "is_staff": rng.random(n) < 0.5,
            "joined_at": (happened - pd.Timedelta(days=400)).as_unit("us"),
        }
    )
    rows = rows.drop_duplicates(["customer_id", "event_timestamp", "created_timestamp"]).reset_index(
        drop=True
    )
    write_days(bank.lake, "profiles", rows)
    both = rows[["customer_id", "event_timestamp"]].assign(
        merchant_id=[f"m{i}" for i in rng.integers(0, 4, len(rows))], raw_affinity=np.arange(len(rows)) / 8
    )
    write_days(bank.lake, "pairs", both.assign(created_timestamp=both["event_timestamp"]))
    bank.store.apply([customer, merchant, profile, affinity, risk_per_txn])
    return rows, both


def pushed(**changes: Any) -> pd.DataFrame:
    row = {
        "transaction_id": "t1",
        "customer_id": "c1",
        "merchant_id": "m1",
        "amount": 20.0,
        "is_declined": True,
        "event_timestamp": NOW - pd.Timedelta("2h"),
    }
    return pd.DataFrame([{**row, **changes}])


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([row for frame in frames for row in frame.to_dict("records")])


def finished(**changes: Any) -> pd.DataFrame:
    row = {
        "customer_id": "c1",
        "event_timestamp": NOW - pd.Timedelta("2h"),
        "created_timestamp": NOW - pd.Timedelta("1h"),
        "risk": 0.5,
        "cards": 2,
        "segment": "gold",
        "is_staff": False,
        "joined_at": START,
    }
    return pd.DataFrame([{**row, **changes}])


def online(store: Any) -> dict[str, Any]:
    row = {"customer_id": "c1", "merchant_id": "m1", "amount": 30.0, "event_time_us": 0}
    return first(store.get_online_features(features=store.get_feature_service("fraud_v1"), entity_rows=[row]))


def first(response: Any) -> dict[str, Any]:
    return {name: values[0] for name, values in response.to_dict().items()}


def read(store: Any, features: list[str] = RISK, **keys: str) -> dict[str, Any]:
    return first(store.get_online_features(features=features, entity_rows=[keys or {"customer_id": "c1"}]))


def refusals(store: Any) -> dict[tuple[str, str], int]:
    with reading(store.config.online_store.database) as state:
        return {key: refused.events for key, refused in state.refusals().items()}


def open_with_profiles(home: Path, lake: Path | None = None) -> Any:
    """The store of a home, the materialized views declared too."""
    store = open_store(home, "feature_repo.fraud", lake=None if lake is None else str(lake))
    store.apply([customer, merchant, profile, affinity, risk_per_txn])
    return store
