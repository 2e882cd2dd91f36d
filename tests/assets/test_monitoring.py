"""What was served, read back: freshness, drift and money."""

import pytest
from world import ListedSource, World, at, checks, metadata, served

from mlops_assets.assets.monitoring import oldest_events
from mlops_assets.resources.environments import Settings

DAY = "2025-03-05"


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


def test_a_served_day_comes_from_the_log_and_not_from_the_file_as_well(world: World) -> None:
    world.source.pay("from_file", at(DAY))
    served(world, "from_log", at(DAY), {})
    world.ingest(DAY)
    assert [row["transaction_id"] for row in world.rows("transactions", DAY)] == ["from_log"]


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


def test_a_payment_that_was_decided_on_a_stale_feed_fails_the_check_that_names_the_view(world: World) -> None:
    served(world, "t1", at(DAY, 10), {}, freshness={"customer_stats": 60.0, "merchant_stats": 3_600.0})
    served(world, "t2", at(DAY, 11), {}, freshness={"customer_stats": 5.0, "merchant_stats": 60 * 3_600.0}, degraded=1)
    outcome = world.make("prediction_log", DAY)
    check = checks(outcome)["not_degraded"]
    assert not check.passed
    assert metadata(check, "degraded") == 1
    assert "'merchant_stats': 60.0" in metadata(check, "oldest, hours")


def test_a_view_that_had_no_event_at_some_time_has_no_age() -> None:
    assert oldest_events(['{"a": 7200.0, "b": null}', '{"a": 3600.0, "b": 1.0}', None]) == {"a": 2.0, "b": None}
