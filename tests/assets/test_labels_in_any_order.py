"""A label and its payment in either order, through the real data plane, its log and the lake: one verdict,
and no vector that is not explained.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from serving_kit import ALLOW_ALL, BLOCK_ALL, Bench, tiny_release, transaction
from world import ListedSource, World, at, checks, metadata

from feature_repo.times import to_us
from mlops_assets.resources.environments import Settings
from serving.contract.scorers.lightgbm import Scorer
from serving.messages import Label
from serving.releases import Champion

DAY, NEXT, THIRD = "2025-03-05", "2025-03-06", "2025-03-07"


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


class LoggingService:
    """The data plane over the home of a world, with a champion on its plan."""

    def __init__(self, world: World, clock: str = "event") -> None:
        plan = world.resources["feature_store"].plan("fraud_v1")
        release = replace(tiny_release(plan, policy=ALLOW_ALL), maturity_days=2.0)
        self.allows = Champion("1", "d" * 64, release, Scorer(release.model_text, release.calibrator))
        self.blocks = replace(self.allows, release=replace(release, policy=BLOCK_ALL))
        self.bench = Bench(world.settings.home, self.allows, clock)

    def pay(
        self, name: str, moment: datetime, merchant: str, blocked: bool = False, now: datetime | None = None
    ) -> None:
        self.bench.champion = self.blocks if blocked else self.allows
        self.bench.now_us = to_us(now or moment)
        self.bench.predict(transaction(name, to_us(moment), f"of {name}", merchant, 10.0))

    def say(self, name: str, moment: datetime, is_fraud: bool = True) -> None:
        wall = self.bench.settings.clock == "wall"
        self.bench.now_us = to_us(moment)
        self.bench.plane.add_labels([Label(name, is_fraud, None if wall else to_us(moment))])


def ingested(world: World, first: str, last: str) -> None:
    world.ingest(first, last)
    world.features(first, last)


def verdicts(world: World, name: str) -> list[tuple[int, bool]]:
    days = world.lake.partitions("verdicts")
    return [
        (to_us(v["event_timestamp"]), v["is_fraud"])
        for v in world.rows("verdicts", *days)
        if v["transaction_id"] == name
    ]


@pytest.mark.slow
def test_in_whatever_order_they_come_the_lake_says_what_the_service_said(world: World) -> None:
    """Each story has a merchant of its own, and ends with a payment there that reads what is known."""
    service = LoggingService(world)
    stories: dict[str, list[tuple[Any, ...]]] = {
        "label first": [("say", 9, True), ("pay", 10)],
        "payment first": [("pay", 9), ("say", 10, True)],
        "one moment, payment first": [("pay", 10), ("say", 10, True)],
        "one moment, label first": [("say", 10, True), ("pay", 10)],
        "a late payment": [("say", 11, True), ("pay", 9)],
        "blocked, label first": [("say", 9, False), ("block", 10)],
        "blocked, then a label": [("block", 9), ("say", 10, False)],
        "two labels before": [("say", 8, False), ("say", 9, True), ("pay", 10)],
        "one contradicts the other": [("say", 8, True), ("say", 9, False), ("pay", 10)],
        "one before, one after": [("say", 9, True), ("pay", 10), ("say", 10, False)],
        "the day before": [("say", -3, True), ("pay", 10)],
        "nobody's": [("say", 9, True)],
    }
    late = "a late payment"
    sent = [
        (11 if name == late else move[1], place, name, move)
        for name, story in stories.items()
        for place, move in enumerate(story)
    ]
    for _, _, name, (what, hour, *fraud) in sorted(sent):
        if what == "say":
            service.say(name, at(DAY, hour), bool(fraud[0]))
        else:
            service.pay(name, at(DAY, hour), f"at {name}", blocked=what == "block")
    for number, name in enumerate(stories):
        service.pay(f"probe {name}", at(DAY, 20 + number / 60), f"at {name}")
    online = {name: service.bench.verdicts(name) for name in stories}
    service.bench.plane.close()
    ingested(world, "2025-03-04", DAY)
    outcome = world.make("feature_parity", DAY)
    assert checks(outcome)["no_unexplained_mismatch"].passed, metadata(outcome, "examples")
    assert (metadata(outcome, "compared"), metadata(outcome, "explained_late")) == (2 * len(stories) - 1, 0)
    world.ingest(NEXT, THIRD)
    assert {name: verdicts(world, name) for name in stories} == online
    assert {name: [fraud for _, fraud in said] for name, said in online.items()} == {
        "label first": [True],
        "payment first": [True],
        "one moment, payment first": [True],
        "one moment, label first": [True],
        "a late payment": [True],
        "blocked, label first": [False],
        "blocked, then a label": [False],
        "two labels before": [True],
        "one contradicts the other": [False],
        "one before, one after": [False],
        "the day before": [True],
        "nobody's": [],
    }


def test_a_till_that_is_ahead_of_a_label_and_of_midnight_is_explained(world: World) -> None:
    service = LoggingService(world, "wall")
    service.pay("paid", at(DAY, 23), "m")
    service.say("early", at(DAY, 23.5))
    service.pay("ahead", at(NEXT, 0.03), "m", now=at(DAY, 23.97))
    service.say("paid", at(DAY, 23.98))  # known before the payment that was decided without it
    service.pay("early", at(DAY, 23.985), "m")
    service.pay("after", at(NEXT, 1), "m")
    service.bench.plane.close()
    ingested(world, DAY, NEXT)
    for day in (DAY, NEXT):
        outcome = world.make("feature_parity", day)
        assert checks(outcome)["no_unexplained_mismatch"].passed, metadata(outcome, "examples")
    assert metadata(outcome, "explained_late") > 0
    assert metadata(outcome, "compared") == 2


def test_labels_of_a_file_reach_the_service_with_the_rebuild_after_their_day(world: World) -> None:
    service = LoggingService(world)
    service.pay("paid", at(DAY, 9), "m")
    world.source.report("paid", at(DAY, 10))
    world.source.report("to come", at(DAY, 11))
    service.pay("without", at(DAY, 12), "m")
    service.pay("before the rebuild", at(NEXT, 0.1), "m")
    ingested(world, DAY, DAY)
    world.online()
    service.pay("to come", at(NEXT, 9), "m")
    service.pay("with both", at(NEXT, 12), "m")
    assert service.bench.verdicts("to come") == [(to_us(at(NEXT, 9)), True)]
    service.bench.plane.close()
    ingested(world, NEXT, NEXT)
    for day in (DAY, NEXT):
        outcome = world.make("feature_parity", day)
        assert checks(outcome)["no_unexplained_mismatch"].passed, metadata(outcome, "examples")
        assert metadata(outcome, "explained_late") > 0
    (last,) = [row for row in world.rows("feature_vectors", NEXT) if row["transaction_id"] == "with both"]
    assert last["num_frauds_7d"] == 2.0
    assert verdicts(world, "to come") == [(to_us(at(NEXT, 9)), True)]
    world.online()
    assert world.online()[f"to come:{to_us(at(NEXT, 9))}"] == (to_us(at(NEXT, 9)), True)


def test_a_payment_that_came_before_the_rebuild_gets_the_label_that_waited_for_it(world: World) -> None:
    world.source.pay("other", at(DAY))
    world.source.report("paid", at(DAY, 10))
    service = LoggingService(world)
    service.pay("paid", at(NEXT, 9), "m")
    silence = to_us(at("2025-03-08", 9))
    assert service.bench.verdicts("paid") == [(silence, False)]
    world.ingest(DAY)
    assert world.online()[f"paid:{to_us(at(NEXT, 9))}"] == (to_us(at(NEXT, 9)), True)
    assert f"paid:{silence}" not in world.online()
    service.bench.plane.close()
