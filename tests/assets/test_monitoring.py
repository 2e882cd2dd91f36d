"""What was served, read back: freshness, drift and money."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lifecycle_kit import Shelf
from world import ListedSource, World, at, checks, metadata, served

from mlops_assets.resources.environments import Settings
from mlops_assets.steps.monitoring.served_days import oldest_events

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


# Drift of scores, which compares one fit with itself or nothing.

USUAL = [float(score) for score in np.random.default_rng(0).beta(1, 30, 1_000)]
OTHER = [score / 2 for score in USUAL]  # as another fit of the same recipe would have it


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """1 was trained before references said whose scores they have, 2 had no days after its training, 3 and 4
    have references of their own.
    """
    made = Shelf(tmp_path_factory.mktemp("shelf") / "home", USUAL)
    for facts in ({}, {"reference": {"fit": "evaluation"}}, *({"reference": {"fit": "release"}},) * 2):
        made.register(**facts)
    return made


@pytest.fixture
def scored(shelf: Shelf, settings: Settings, tmp_path: Path) -> World:
    shelf.copied(tmp_path / "home")
    return World(settings, ListedSource())


def serve(world: World, **scores: list[float]) -> None:
    """Write the log of DAY: the scores that each version gave, `v1` the first."""
    rows = [(score, name.removeprefix("v")) for name, given in scores.items() for score in given]
    columns = {
        "features": ["{}"] * len(rows),
        "fraud_score": [score for score, _ in rows],
        "model_version": [version for _, version in rows],
    }
    world.lake.write("prediction_log", DAY, pa.table(columns), validated=True)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1", "version 1 was trained before references came from the fit that serves"),
        (
            "2",
            "too few transactions came between the last day that version 2 was trained on and its as-of day",
        ),
    ],
)
def test_scores_are_not_compared_with_those_of_another_fit_and_ask_for_no_retraining(
    scored: World, version: str, why: str
) -> None:
    serve(scored, **{f"v{version}": OTHER})
    outcome = scored.make("prediction_drift_report", DAY)
    assert checks(outcome)["no_prediction_drift"].passed
    assert not checks(outcome)["enough_predictions"].passed
    assert metadata(checks(outcome)["enough_predictions"], "reason").startswith(f"not tested: {why}")
    assert scored.rows("prediction_drift_report", DAY) == []


def test_scores_of_a_version_that_moved_against_its_own_are_drift(scored: World) -> None:
    serve(scored, v3=OTHER)
    outcome = scored.make("prediction_drift_report", DAY)
    assert checks(outcome)["enough_predictions"].passed
    assert not checks(outcome)["no_prediction_drift"].passed
    assert metadata(outcome, "version") == "3"


def test_what_another_version_gave_on_the_day_of_a_swap_is_no_drift_of_the_one_that_served_most(
    scored: World,
) -> None:
    serve(scored, v3=[0.9] * 400, v4=USUAL[:500])
    outcome = scored.make("prediction_drift_report", DAY)
    assert all(check.passed for check in checks(outcome).values())
    assert metadata(outcome, "version") == "4"
    (row,) = scored.rows("prediction_drift_report", DAY)
    assert row["value"] < 0.1


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
    served(
        world,
        "t2",
        at(DAY, 11),
        {},
        freshness={"customer_stats": 5.0, "merchant_stats": 60 * 3_600.0},
        degraded=1,
    )
    outcome = world.make("prediction_log", DAY)
    check = checks(outcome)["not_degraded"]
    assert not check.passed
    assert metadata(check, "degraded") == 1
    assert "'merchant_stats': 60.0" in metadata(check, "oldest, hours")


def test_a_view_that_had_no_event_at_some_time_has_no_age() -> None:
    assert oldest_events(['{"a": 7200.0, "b": null}', '{"a": 3600.0, "b": 1.0}', None]) == {
        "a": 2.0,
        "b": None,
    }
