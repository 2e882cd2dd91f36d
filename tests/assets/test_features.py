"""The features group: what its checks can catch, and an online state that says what the lake says."""

import sqlite3
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from world import ListedSource, World, at, checks, labelled, metadata, served

from feature_repo.lake.datasets import LakeError
from feature_repo.online.base import OnlineState
from feature_repo.online.sqlite.generations import standing
from feature_repo.times import to_us
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated
from serving.contract.events import EventLog, EventRules

DAY, NEXT, THIRD = "2025-03-05", "2025-03-06", "2025-03-07"


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


def known(moment: object) -> int:
    return to_us(moment)  # type: ignore[arg-type]


def test_silence_to_come_is_pending_online_and_goes_when_a_label_comes_by_way_of_the_lake(
    world: World,
) -> None:
    world.source.pay("silent", at(DAY))
    world.source.pay("reported", at(DAY, 13))
    world.ingest(DAY)
    assert world.online() == {
        f"silent:{known(at(THIRD))}": (known(at(THIRD)), False),
        f"reported:{known(at(THIRD, 13))}": (known(at(THIRD, 13)), False),
    }
    world.source.report("reported", at(NEXT, 9))
    world.ingest(NEXT)
    assert world.online() == {
        f"silent:{known(at(THIRD))}": (known(at(THIRD)), False),
        f"reported:{known(at(NEXT, 9))}": (known(at(NEXT, 9)), True),
    }


def test_a_label_at_the_very_moment_of_maturity_takes_the_place_of_the_pending_verdict(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY)
    world.online()
    world.source.report("t1", at(THIRD))
    world.ingest(NEXT, THIRD)
    assert world.online() == {f"t1:{known(at(THIRD))}": (known(at(THIRD)), True)}


def test_bringing_the_online_state_up_twice_changes_nothing(world: World) -> None:
    for number in range(20):
        world.source.pay(f"t{number}", at(DAY, number))
    world.source.report("t3", at(NEXT))
    world.ingest(DAY, THIRD)
    assert world.online() == world.online()


def test_what_the_service_learnt_after_the_lake_is_carried_over_and_what_it_lost_comes_from_its_log(
    world: World,
) -> None:
    world.source.pay("old", at(DAY))
    world.ingest(DAY)
    world.online()
    served(world, "new", at(NEXT), {})
    served(world, "blocked", at(NEXT, 13), {}, decision="BLOCK")
    labelled(world, "old", at(NEXT, 14))
    expected = {
        f"old:{known(at(NEXT, 14))}": (known(at(NEXT, 14)), True),
        f"new:{known(at('2025-03-08'))}": (known(at("2025-03-08")), False),
    }
    assert world.online() == expected, "the log alone says all of it: this service never wrote to the state"
    assert world.online() == expected, "and with it in the state already, nothing changes"


def test_a_rebuild_that_breaks_off_says_why_and_leaves_the_old_state(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY)
    before = world.online()

    def broken(rules: EventRules, log: EventLog, state: OnlineState, *more: int) -> Iterator[int]:
        state.remove("verdicts", next(iter(before)))
        yield 1
        state.remove("transactions", "t1")
        raise LakeError("the disk is full")

    monkeypatch.setattr("serving.contract.events.EventRules.replay", broken)
    with pytest.raises(LakeError, match="the disk is full"):
        world.online()
    monkeypatch.undo()
    connection = sqlite3.connect(world.settings.serving_db)
    assert standing(connection).building is None
    assert [
        event_id for (event_id,) in connection.execute("SELECT event_id FROM online_transactions_g1")
    ] == ["t1"]
    connection.close()
    assert world.online() == before


def test_a_stream_that_has_been_silent_for_too_long_is_named_before_anybody_decides_on_it(
    world: World,
) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY, THIRD)
    world.online()
    check = checks(world.made_online)["fresh"]
    assert not check.passed
    assert metadata(check, "stale views") == "customer_stats, merchant_activity"
    world.source.pay("t2", at(THIRD, 20))
    world.ingest(THIRD)
    world.online()
    assert checks(world.made_online)["fresh"].passed


def test_the_look_ahead_check_finds_a_count_that_knows_the_future(world: World) -> None:
    for number in range(6):
        world.source.pay(f"t{number}", at(DAY, number))
    world.ingest(DAY)
    world.features(DAY)
    assert checks(world.make("feature_vectors", DAY))["no_look_ahead"].passed
    stats = world.lake.read("customer_stats", [DAY])
    ahead = pc.add(stats.column("num_txns_7d"), 1.0)
    world.lake.write(
        "customer_stats",
        DAY,
        stats.set_column(stats.column_names.index("num_txns_7d"), "num_txns_7d", ahead),
        validated=True,
    )
    check = checks(world.make("feature_vectors", DAY))["no_look_ahead"]
    assert not check.passed
    assert "num_txns_7d of t0: 1.0, counted 0" in metadata(check, "wrong")


def test_the_look_ahead_check_holds_for_rows_that_came_late(world: World) -> None:
    world.source.pay("old", at(DAY))
    world.source.pay("late", at(DAY, 13), created=at("2025-03-09", 1))
    world.ingest(DAY, "2025-03-09")
    world.features(DAY, "2025-03-09")
    assert checks(world.make("feature_vectors", "2025-03-09"))["no_look_ahead"].passed


def test_values_out_of_range_and_columns_without_a_value_are_named(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.source.pay("t2", at(DAY, 13))
    world.ingest(DAY)
    world.features(DAY)
    stats = world.lake.read("merchant_stats", [DAY])
    wild = pa.array([2.0] * stats.num_rows)
    world.lake.write(
        "merchant_stats",
        DAY,
        stats.set_column(stats.column_names.index("fraud_rate_90d"), "fraud_rate_90d", wild),
        validated=True,
    )
    found = checks(world.make("feature_vectors", DAY))
    assert "fraud_rate_90d from 2.0 to 2.0" in metadata(found["ranges"], "outside")
    assert "fraud_rate_7d" in metadata(found["null_rates"], "null_everywhere")


def test_a_view_that_lacks_rows_of_its_day_is_not_joined(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.source.pay("t2", at(DAY, 13))
    world.ingest(DAY)
    world.features(DAY)
    world.lake.write(
        "customer_stats", DAY, world.lake.read("customer_stats", [DAY]).slice(0, 1), validated=True
    )
    with pytest.raises(
        Exception, match="customer_stats: its rows for 2025-03-05 are not those of transactions"
    ):
        world.make("feature_vectors", DAY)


def test_a_day_that_was_made_before_a_feature_was_declared_is_named_with_it(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY)
    world.features(DAY)
    world.lake.write(
        "merchant_stats",
        DAY,
        world.lake.read("merchant_stats", [DAY]).drop_columns(["fraud_rate_7d"]),
        validated=True,
    )
    with pytest.raises(
        LakeError, match="merchant_stats: 2025-03-05 has no fraud_rate_7d, which was declared later"
    ):
        world.make("feature_vectors", DAY)
    with pytest.raises(
        LakeError, match="feature_vectors: 2025-03-05 has no one_more, which was declared later"
    ):
        read_validated(world.lake, "feature_vectors", [DAY], ["transaction_id", "one_more"])


def test_a_day_that_did_not_pass_freezes_nothing_that_looks_back_on_it(world: World) -> None:
    world.source.pay("good", at(DAY))
    world.source.pay("fine", at(NEXT))
    world.source.pay("broken", at(NEXT, 13), amount=-5.0)
    world.source.pay("later", at(THIRD))
    world.ingest(DAY)
    for name in ("prediction_log", "raw_transactions", "raw_labels", "transactions", "labels", "verdicts"):
        world.make(name, NEXT)
    assert not world.lake.manifests("transactions", [NEXT])[0].validated
    world.ingest(THIRD)
    world.features(THIRD)
    (row,) = world.rows("feature_vectors", THIRD)
    assert row["num_txns_7d"] == 1.0, "the rows of the broken day are not counted"
