"""What was served, read back: parity, drift and money, on a log that the service's own code wrote."""

import json
import sqlite3
from typing import Any

import pyarrow as pa
import pytest
from world import ListedSource, World, at, checks, metadata

from mlops_assets.assets.monitoring import explained_by_lateness
from mlops_assets.resources.environments import Settings
from serving.contract import log

DAY = "2025-03-05"


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


def served(world: World, name: str, moment: Any, features: dict[str, float | None], decision: str = "ALLOW", amount: float = 10.0) -> None:
    """Write one decision as the service does."""
    world.settings.serving_db.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(world.settings.serving_db)
    log.create_tables(connection)
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()
    values = {
        "seq": last + 1,
        "prediction_id": name,
        "kind": "transaction",
        "event_us": log.to_us(moment),
        "created_us": log.to_us(moment),
        "customer_id": "c1",
        "merchant_id": "m1",
        "amount": amount,
        "is_declined": 0,
        "features": json.dumps(features),
        "read_seq": last,
        "fraud_score": 0.1,
        "decision": decision,
        "review_threshold": 0.5,
        "block_threshold": 0.9,
        "model_version": "1",
        "reasons": "[]",
        "degraded": 0,
        "maturity_us": 2 * log.DAY_US,
        "payload_digest": b"x",
    }
    connection.execute(f"INSERT INTO decisions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", list(values.values()))
    connection.commit()
    connection.close()


def vector(world: World, name: str, day: str) -> dict[str, float | None]:
    """The offline vector of a transaction, as the service would have logged it."""
    from mlops_assets.resources.feature_store import feature_store_of

    features = feature_store_of(world.settings).plan("fraud_v1").features
    (row,) = [row for row in world.rows("feature_vectors", day) if row["transaction_id"] == name]
    return {feature: row[feature] for feature in features}


def test_a_served_day_comes_from_the_log_and_not_from_the_file_as_well(world: World) -> None:
    world.source.pay("from_file", at(DAY))
    served(world, "from_log", at(DAY), {})
    world.ingest(DAY)
    assert [row["transaction_id"] for row in world.rows("transactions", DAY)] == ["from_log"]


def test_equal_vectors_are_parity_and_one_changed_value_is_named(world: World) -> None:
    served(world, "t1", at(DAY, 10), {})
    served(world, "t2", at(DAY, 11), {})
    world.ingest(DAY)
    world.features(DAY)
    right = {name: vector(world, name, DAY) for name in ("t1", "t2")}
    _log_again(world, right)
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed
    assert metadata(outcome, "compared") == 2
    assert world.lake.manifests("feature_parity", [DAY])[0].validated

    _log_again(world, {**right, "t2": {**right["t2"], "num_txns_1d": 7}})
    outcome = world.make("feature_parity", DAY)
    assert not checks(outcome)["no_unexplained_mismatch"].passed
    assert world.rows("feature_parity", DAY) == [{"transaction_id": "t2", "feature": "num_txns_1d", "served": 7.0, "recomputed": 1.0}]
    assert not world.lake.manifests("feature_parity", [DAY])[0].validated


def test_a_blocked_payment_without_an_investigation_never_gets_a_verdict(world: World) -> None:
    served(world, "blocked", at(DAY), {}, decision="BLOCK")
    served(world, "reviewed", at(DAY, 13), {}, decision="REVIEW")
    world.ingest(DAY, "2025-03-08")
    assert [row["transaction_id"] for row in world.rows("verdicts", "2025-03-07")] == ["reviewed"]


def test_a_day_on_which_nothing_was_served_is_not_called_quiet(world: World) -> None:
    world.ingest(DAY)
    outcome = world.make("data_drift_report", DAY)
    assert not checks(outcome)["enough_predictions"].passed
    assert checks(outcome)["no_data_drift"].passed


def test_money_without_a_verdict_is_unknown_and_not_legitimate(world: World) -> None:
    served(world, "caught", at(DAY), {}, decision="REVIEW", amount=100.0)
    served(world, "missed", at(DAY, 13), {}, amount=50.0)
    served(world, "blocked", at(DAY, 14), {}, decision="BLOCK", amount=70.0)
    world.source.report("caught", at("2025-03-06"))
    world.source.report("missed", at("2025-03-06"))
    world.ingest(DAY, "2025-03-08")
    world.make("business_report", "2025-03-09")
    (row,) = world.rows("business_report", "2025-03-09")
    assert (row["caught_money"], row["missed_money"], row["unknown_money"]) == (100.0, 50.0, 70.0)
    assert row["caught_share"] == pytest.approx(2 / 3)


def test_days_that_have_not_matured_are_not_in_the_business_report(world: World) -> None:
    served(world, "t1", at(DAY), {})
    served(world, "t2", at("2025-03-07"), {})
    world.ingest(DAY, "2025-03-08")
    world.make("business_report", "2025-03-09")
    assert [row["day"] for row in world.rows("business_report", "2025-03-09")] == [DAY]


def test_only_a_decision_that_a_late_payment_overtook_is_explained() -> None:
    import pandas as pd

    log_rows = pd.DataFrame(
        [
            ("before", 8, 8, 1, "c1", "m1"),
            ("overtaken", 10, 10, 2, "c1", "m9"),
            ("late", 9, 10, 3, "c1", "m1"),
            ("after", 11, 11, 4, "c1", "m1"),
            ("elsewhere", 12, 12, 5, "c3", "m3"),
        ],
        columns=["prediction_id", "event", "created", "seq", "customer_id", "merchant_id"],
    )
    assert explained_by_lateness(_at_hours(log_rows)) == {"overtaken"}


def test_on_the_wall_clock_every_payment_arrives_a_little_late_and_none_is_excused_for_it() -> None:
    import pandas as pd

    rows = [(f"t{n}", 8 + n, 8.5 + n, n, "c1", "m1") for n in range(1, 6)]
    log_rows = pd.DataFrame(rows, columns=["prediction_id", "event", "created", "seq", "customer_id", "merchant_id"])
    assert explained_by_lateness(_at_hours(log_rows)) == set()


def _at_hours(frame: Any) -> Any:
    return frame.assign(
        read_seq=frame["seq"] - 1,
        event_timestamp=[at(DAY, h) for h in frame["event"]],
        created_timestamp=[at(DAY, h) for h in frame["created"]],
    )


def _log_again(world: World, vectors: dict[str, dict[str, float | None]]) -> None:
    table = world.lake.read("prediction_log", [DAY])
    texts = [json.dumps(vectors[name]) for name in table.column("prediction_id").to_pylist()]
    world.lake.write("prediction_log", DAY, table.set_column(table.column_names.index("features"), "features", pa.array(texts)))


def test_a_version_that_serves_fewer_features_is_compared_in_those_it_served(world: World) -> None:
    served(world, "t1", at(DAY, 10), {})
    served(world, "t2", at(DAY, 11), {})
    world.ingest(DAY)
    world.features(DAY)
    old = {name: value for name, value in vector(world, "t1", DAY).items() if name != "num_txns_1d"} | {"retired_feature": 3.0}
    _log_again(world, {"t1": old, "t2": vector(world, "t2", DAY)})
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed
    assert metadata(outcome, "compared") == 2
