"""A platform in a folder, whose assets are called as plain functions on rows that a test wrote itself."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
from dagster import (
    AssetsDefinition,
    ExecuteInProcessResult,
    MaterializeResult,
    PartitionKeyRange,
    build_asset_context,
    materialize,
)
from payment_feeds import RAW_LABELS, RAW_TRANSACTIONS

from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.generations import standing
from feature_repo.online.sqlite.queries import table_name
from feature_repo.times import DAY_US, to_us
from mlops_assets.assets.features import feature_assets
from mlops_assets.assets.ingestion import ingestion_assets
from mlops_assets.assets.model import model_assets
from mlops_assets.assets.monitoring import monitoring_assets
from mlops_assets.resources.decision_history import History
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.resources.history_resource import HistoryResource
from mlops_assets.resources.lake import lake_of
from mlops_assets.resources.registry import ModelRegistry, registry_of
from mlops_assets.resources.serving_log import ServingLogResource
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.store.sqlite import log_tables

DAYWISE = (
    "transactions",
    "labels",
    "verdicts",
    "customer_stats",
    "merchant_stats",
    "merchant_activity",
    "feature_vectors",
)


@dataclass
class ListedSource:
    """A source whose rows a test lists."""

    payments: list[dict[str, Any]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        if dataset == "labels":
            return _arrived(self.reports, "label_timestamp", RAW_LABELS, first, last)
        return _arrived(self.payments, "created_timestamp", RAW_TRANSACTIONS, first, last)

    def pay(
        self,
        name: str,
        at: datetime,
        customer: str = "c1",
        merchant: str = "m1",
        amount: float = 10.0,
        created: datetime | None = None,
        **more: Any,
    ) -> None:
        row = {
            "transaction_id": name,
            "event_timestamp": at,
            "created_timestamp": created or at,
            "customer_id": customer,
            "merchant_id": merchant,
        }
        self.payments.append({**row, "amount": amount, "is_declined": False, "malformed": None, **more})

    def report(self, name: str, at: datetime, is_fraud: bool = True) -> None:
        self.reports.append(
            {"transaction_id": name, "is_fraud": is_fraud, "label_timestamp": at, "malformed": None}
        )


class World:
    """Assets of the fraud case over one source, on a lake of their own."""

    def __init__(self, settings: Settings, source: Any) -> None:
        self.settings, self.source = settings, source
        self.lake = Lake(settings.lake_root)
        made = [
            *ingestion_assets(FRAUD, settings, source),
            *feature_assets(FRAUD, settings),
            *model_assets(FRAUD, settings),
            *monitoring_assets(FRAUD, settings),
        ]
        self.assets: dict[str, AssetsDefinition] = {
            key.to_user_string(): one for one in made for key in one.keys
        }
        self.registry: ModelRegistry = registry_of(settings)
        self.history = History(str(settings.home / "history.jsonl"))
        self.resources = {
            "lake": lake_of(settings, FRAUD),
            "feature_store": feature_store_of(settings, FRAUD),
            "registry": self.registry,
            "history": HistoryResource(path=self.history.path),
            "serving_log": ServingLogResource(path=str(settings.serving_db)),
        }

    def make(self, name: str, first: str, last: str | None = None) -> Any:
        """Call the asset for a day or a range of days. It returns what Dagster would record."""
        definition = self.assets[name]
        needed = {key: self.resources[key] for key in definition.required_resource_keys & set(self.resources)}
        days = (
            {"partition_key": first}
            if last is None
            else {"partition_key_range": PartitionKeyRange(first, last)}
        )
        with build_asset_context(**days) as context:
            outcome = definition(context, **needed)
            return list(outcome) if hasattr(outcome, "__next__") else outcome

    def train(self, as_of: str) -> ExecuteInProcessResult:
        """The model assets in one Dagster run, whose id names the MLflow run."""
        names = ("training_set", "recipe", "trained_model", "evaluation", "promoted_version")
        return materialize(
            [self.assets[name] for name in names],
            partition_key=as_of,
            resources=self.resources,
            raise_on_error=False,
        )

    def ingest(self, first: str, last: str | None = None) -> None:
        for name in (
            "prediction_log",
            "raw_transactions",
            "raw_labels",
            "transactions",
            "labels",
            "verdicts",
        ):
            self.make(name, first, last)

    def features(self, first: str, last: str | None = None) -> None:
        for name in ("customer_stats", "merchant_stats", "merchant_activity", "feature_vectors"):
            self.make(name, first, last)

    def online(self) -> dict[str, tuple[int, bool]]:
        """Bring the online state up to the lake; the verdicts in it by id, with when they became known and
        what they say.
        """
        definition = self.assets["online_store"]
        with build_asset_context() as context:
            self.made_online = definition(
                context, **{key: self.resources[key] for key in ("lake", "feature_store")}
            )
        connection = sqlite3.connect(self.settings.serving_db)
        table = table_name("verdicts", standing(connection).current)
        found = connection.execute(f"SELECT event_id, event_us, is_fraud FROM {table}").fetchall()
        connection.close()
        return {one: (at_us, bool(fraud)) for one, at_us, fraud in found}

    def rows(self, dataset: str, *days: str) -> list[dict[str, Any]]:
        return list(self.lake.read(dataset, days).to_pylist())

    def digests(self, first: str, last: str, *datasets: str) -> dict[str, list[str]]:
        return {
            name: [m.digest for m in self.lake.manifests(name, self.lake.between(name, first, last))]
            for name in datasets or DAYWISE
        }


def served(
    world: World,
    name: str,
    moment: datetime,
    features: dict[str, float | None],
    created: datetime | None = None,
    **changes: Any,
) -> None:
    """Write one decision into the service's log."""
    world.settings.serving_db.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(world.settings.serving_db)
    log_tables.create_tables(connection, FRAUD.subject)
    last = _last_seq(connection)
    values = {
        "seq": last + 1,
        "prediction_id": name,
        "kind": "transaction",
        "event_us": to_us(moment),
        "created_us": to_us(created or moment),
        "customer_id": "c1",
        "merchant_id": "m1",
        "amount": 10.0,
        "is_declined": 0,
        "features": json.dumps(features),
        "read_seq": last,
        "fraud_score": 0.1,
        "decision": "ALLOW",
        "review_threshold": 0.5,
        "block_threshold": 0.9,
        "model_version": "1",
        "reasons": "[]",
        "degraded": 0,
        "maturity_us": 2 * DAY_US,
        "payload_digest": b"x",
        **{name: json.dumps(value) if isinstance(value, dict) else value for name, value in changes.items()},
    }
    connection.execute(
        f"INSERT INTO decisions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
        list(values.values()),
    )
    connection.commit()
    connection.close()


def labelled(
    world: World,
    name: str,
    moment: datetime,
    is_fraud: bool = True,
    made_versions: dict[str, int] | None = None,
) -> None:
    """Write one label into the service's log."""
    connection = sqlite3.connect(world.settings.serving_db)
    made = None if made_versions is None else json.dumps(made_versions)
    row = (_last_seq(connection) + 1, name, is_fraud, to_us(moment), made)
    columns = "seq, transaction_id, is_fraud, label_us, made_versions, known"
    connection.execute(f"INSERT INTO labels ({columns}) VALUES (?, ?, ?, ?, ?, 1)", row)
    connection.commit()
    connection.close()


def _last_seq(connection: sqlite3.Connection) -> int:
    query = (
        "SELECT max((SELECT coalesce(max(seq), 0) FROM decisions), (SELECT coalesce(max(seq), 0) FROM"
        " labels))"
    )
    (last,) = connection.execute(query).fetchone()
    return int(last)


def vector(world: World, name: str, day: str) -> dict[str, float | None]:
    """The offline vector of a transaction, as the service would have logged it."""
    features = feature_store_of(world.settings, FRAUD).plan("fraud_v1").features
    (row,) = [row for row in world.rows("feature_vectors", day) if row["transaction_id"] == name]
    return {feature: row[feature] for feature in features}


def checks(outcome: Any) -> dict[str, Any]:
    """The check results of an asset by name; of a range of days the one that failed."""
    parts = outcome if type(outcome) in (tuple, list) else [outcome]
    found = [
        check for part in parts if isinstance(part, MaterializeResult) for check in part.check_results or []
    ]
    return {str(check.check_name): check for check in sorted(found, key=lambda check: not check.passed)}


def at(day: str, hour: float = 12.0) -> datetime:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) + timedelta(hours=hour)


def metadata(result: Any, name: str) -> Any:
    value = (result[0] if type(result) is list else result).metadata[name]
    return getattr(value, "value", getattr(value, "text", value))


def _arrived(rows: list[dict[str, Any]], column: str, schema: pa.Schema, first: date, last: date) -> pa.Table:
    chosen = [{**row, "arrival_day": row.get("arrival_day") or row[column].date()} for row in rows]
    return pa.Table.from_pylist([row for row in chosen if first <= row["arrival_day"] <= last], schema=schema)
