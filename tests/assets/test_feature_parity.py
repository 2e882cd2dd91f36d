"""What was served against what is computed offline: equal, explained by what came later, or a failed check
that names the value.
"""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from world import ListedSource, World, at, checks, labelled, metadata, served, vector

from mlops_assets.core.watching.histories import History
from mlops_assets.core.watching.overtaken import overtaken
from mlops_assets.resources.environments import Settings

DAY, BEFORE = "2025-03-05", "2025-03-04"


def history(asked: str, entity: str) -> History:
    return History("transactions", asked, entity, f"transactions.{entity}", f"transactions.{entity}")


HISTORIES = [history("customer_id", "customer_id"), history("merchant_id", "merchant_id")]


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


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
    assert world.rows("feature_parity", DAY) == [
        {
            "transaction_id": "t2",
            "feature": "num_txns_1d",
            "key": "c1",
            "served": 7.0,
            "recomputed": 1.0,
            "late_s": None,
        }
    ]
    assert not world.lake.manifests("feature_parity", [DAY])[0].validated


def test_a_payment_that_was_committed_after_the_decision_explains_what_the_decision_lacked(
    world: World,
) -> None:
    served(world, "decided", at(DAY, 12), {})
    _day(world)
    without = vector(world, "decided", DAY)
    served(world, "late", at(DAY, 9), {}, created=at(DAY, 11.5))
    _day(world)
    by_clocks = {name: vector(world, name, DAY) for name in ("decided", "late")}
    assert by_clocks["decided"]["num_txns_1d"] == without["num_txns_1d"] + 1
    _log_again(world, {**by_clocks, "decided": without})
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed
    assert (metadata(outcome, "mismatches"), metadata(outcome, "late_s")) == (0, 1800.0)
    assert metadata(outcome, "explained_late") > 5

    _log_again(world, {**by_clocks, "decided": {**without, "num_txns_1d": 5}})
    outcome = world.make("feature_parity", DAY)
    assert not checks(outcome)["no_unexplained_mismatch"].passed
    assert metadata(outcome, "mismatches") == 1
    assert world.rows("feature_parity", DAY)[0] == {
        "transaction_id": "decided", "feature": "num_txns_1d", "key": "c1",
        "served": 5.0, "recomputed": 1.0, "late_s": None,
    }  # fmt: skip


def of_every_history(version: int) -> dict[str, int]:
    return dict.fromkeys(
        ("transactions.customer_id", "transactions.merchant_id", "verdicts.merchant_id"), version
    )


def test_versions_say_what_was_read_where_the_numbers_in_the_log_have_another_order(world: World) -> None:
    served(world, "decided", at(DAY, 12), {})
    _day(world)
    without = vector(world, "decided", DAY)
    world.settings.serving_db.unlink()
    late = {"created": at(DAY, 11.5), "made_versions": of_every_history(7)}
    served(world, "late", at(DAY, 9), {}, read_versions=of_every_history(6), **late)
    versions = {"read_versions": of_every_history(5), "made_versions": of_every_history(6)}
    served(world, "decided", at(DAY, 12), {}, **versions)
    served(world, "after", at(DAY, 13), {}, read_versions=of_every_history(7), read_seq=0)
    _day(world)
    by_clocks = {name: vector(world, name, DAY) for name in ("late", "decided", "after")}
    assert by_clocks["after"]["num_txns_1d"] == 2
    _log_again(world, {**by_clocks, "decided": without})
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed
    assert (metadata(outcome, "mismatches"), metadata(outcome, "late_s")) == (0, 1800.0)
    assert metadata(outcome, "explained_late") > 5

    _log_again(world, {**by_clocks, "decided": without, "after": without})
    outcome = world.make("feature_parity", DAY)
    assert not checks(outcome)["no_unexplained_mismatch"].passed, "it read both, whatever its number says"


NUMBERED: Mapping[str, Any] = {}
VERSIONED: Mapping[str, Any] = {
    "before": {"made_versions": of_every_history(3)},
    # By its number the decision comes after the label. By its versions it had not read it.
    "decision": {"read_versions": of_every_history(3), "read_seq": 9},
    "label": {"made_versions": {"verdicts.merchant_id": 5}},
}


@pytest.mark.parametrize(
    ("silent_since", "said"),
    [(at(BEFORE, 9), NUMBERED), (at("2025-03-03", 11.9), NUMBERED), (at(BEFORE, 9), VERSIONED)],
)
def test_a_label_that_was_committed_after_the_decision_explains_it_too(
    world: World, silent_since: object, said: Mapping[str, Any]
) -> None:
    served(world, "reported", silent_since, {}, **said.get("before", {}))
    world.ingest("2025-03-03", BEFORE)
    world.features("2025-03-03", BEFORE)
    served(world, "decided", at(DAY, 12), {}, **said.get("decision", {}))
    _day(world)
    without = vector(world, "decided", DAY)
    labelled(world, "reported", at(DAY, 11.8), **said.get("label", {}))
    _day(world)
    assert vector(world, "decided", DAY)["num_frauds_7d"] == 1.0
    _log_again(world, {"decided": without})
    outcome = world.make("feature_parity", DAY)
    assert (metadata(outcome, "mismatches"), metadata(outcome, "late_s")) == (0, 720.0)
    assert metadata(outcome, "explained_late") >= 3


def test_a_version_that_serves_fewer_features_is_compared_in_those_it_served(world: World) -> None:
    served(world, "t1", at(DAY, 10), {})
    served(world, "t2", at(DAY, 11), {})
    world.ingest(DAY)
    world.features(DAY)
    old = {name: value for name, value in vector(world, "t1", DAY).items() if name != "num_txns_1d"} | {
        "retired_feature": 3.0
    }
    _log_again(world, {"t1": old, "t2": vector(world, "t2", DAY)})
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed
    assert metadata(outcome, "compared") == 2


def test_only_what_the_clocks_had_known_and_the_commits_had_not_overtakes_a_decision() -> None:
    rows = [
        ("before", 8, 8, 1, "c1", "m1"),
        ("overtaken", 10, 10, 2, "c1", "m9"),
        ("late", 9, 9.5, 3, "c1", "m1"),
        ("after", 11, 11, 4, "c1", "m1"),
        ("elsewhere", 12, 12, 5, "c3", "m3"),
    ]
    assert overtaken(_log(rows), _log(rows), HISTORIES) == {"overtaken": 1800.0}


def test_on_the_wall_clock_every_payment_arrives_a_little_late_and_none_is_excused_for_it() -> None:
    rows = [(f"t{n}", 8 + n, 8.5 + n, n, "c1", "m1") for n in range(1, 6)]
    assert overtaken(_log(rows), _log(rows), HISTORIES) == {}


def test_a_late_event_without_a_key_overtakes_nobody_else_without_one() -> None:
    rows = [
        ("before", 8, 8, 1, "c1", None),
        ("decided", 10, 10, 2, "c2", None),
        ("late", 9, 9.5, 3, "c3", None),
    ]
    assert overtaken(_log(rows), _log(rows), HISTORIES) == {}


def test_a_history_may_be_asked_for_under_another_column_than_the_events_have_it() -> None:
    rows = [
        ("before", 8, 8, 1, "c1", None),
        ("decided", 10, 10, 2, "a", "b"),
        ("late", 9, 9.5, 3, "b", "c"),
    ]
    assert overtaken(_log(rows), _log(rows), [history("merchant_id", "customer_id")]) == {"decided": 1800.0}
    assert overtaken(_log(rows), _log(rows), [history("customer_id", "customer_id")]) == {}


def test_a_version_that_was_not_read_overtakes_a_decision_whatever_the_numbers_say() -> None:
    rows = [
        ("late", 9, 9.5, 1, "c1", "m1"),
        ("read", 9.2, 9.6, 3, "c1", "m1"),
        ("decided", 10, 10, 2, "c1", "m2"),
    ]
    log = _log(rows)
    customer = "transactions.customer_id"
    said = log.assign(
        read_versions=[json.dumps({customer: version}) for version in (8, 5, 6)],
        made_versions=[json.dumps({customer: version}) for version in (9, 6, 7)],
    )
    assert overtaken(log, log, HISTORIES) == {"decided": 1440.0}
    assert overtaken(said, said, HISTORIES) == {"decided": 1800.0}


def test_a_row_without_a_version_is_compared_by_its_number() -> None:
    log = _log([("decided", 10, 10, 2, "c1", "m1"), ("late", 9, 9.5, 3, "c1", "m2")])
    customer = "transactions.customer_id"
    for read, made in ((json.dumps({customer: 99}), None), (None, json.dumps({customer: 1}))):
        said = log.assign(read_versions=read, made_versions=made)
        assert overtaken(said, said, HISTORIES) == {"decided": 1800.0}


def _log(rows: list[tuple[str, float, float, int, str, str | None]]) -> pd.DataFrame:
    frame = pd.DataFrame(
        rows, columns=["prediction_id", "event", "created", "seq", "customer_id", "merchant_id"]
    )
    return frame.assign(
        read_seq=frame["seq"] - 1,
        read_versions=None,
        made_versions=None,
        event_timestamp=[at(DAY, h) for h in frame["event"]],
        created_timestamp=[at(DAY, h) for h in frame["created"]],
    )


def _day(world: World) -> None:
    world.ingest(DAY)
    world.features(DAY)


def _log_again(world: World, vectors: dict[str, dict[str, float | None]]) -> None:
    table = world.lake.read("prediction_log", [DAY])
    texts = [json.dumps(vectors[name]) for name in table.column("prediction_id").to_pylist()]
    world.lake.write(
        "prediction_log",
        DAY,
        table.set_column(table.column_names.index("features"), "features", pa.array(texts)),
    )
