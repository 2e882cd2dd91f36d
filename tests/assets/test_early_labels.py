"""Labels that are known at the time of their event are told of, as a leak."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from world import ListedSource, World, at, checks, metadata

from mlops_assets.core.keys import REMEDY
from mlops_assets.resources.config_sections import Time
from mlops_assets.resources.environments import Settings

DAY, NEXT = "2025-03-01", "2025-03-02"


def world(home: Path, seconds_later: list[float]) -> World:
    """Twenty events a minute apart, each with a label that becomes known so many seconds after its event."""
    source = ListedSource()
    for number, seconds in enumerate(seconds_later):
        moment = at(DAY) + timedelta(minutes=number)
        source.pay(f"t{number}", moment)
        source.report(f"t{number}", moment + timedelta(seconds=seconds))
    settings = replace(Settings(home=home), time=Time(date(2025, 3, 1), date(2025, 3, 4)))
    made = World(settings, source)
    for name in ("prediction_log", "raw_transactions", "raw_labels", "transactions"):
        made.make(name, DAY, NEXT)
    return made


def test_labels_known_at_once_are_a_leak_with_count_share_and_remedy(tmp_path: Path) -> None:
    found = checks(world(tmp_path, [0.0] * 5 + [7_200.0] * 15).make("labels", DAY))["known_later"]
    assert not found.passed
    assert found.severity.name == "WARN"
    assert metadata(found, "labels") == 20
    assert metadata(found, "known at once") == 5
    assert metadata(found, "share") == 0.25
    assert "label_timestamp" in metadata(found, REMEDY)


def test_a_few_labels_at_once_are_believed(tmp_path: Path) -> None:
    found = checks(world(tmp_path, [0.0] * 4 + [7_200.0] * 16).make("labels", DAY))["known_later"]
    assert found.passed
    assert metadata(found, "known at once") == 4


def test_an_event_at_the_end_of_the_day_and_its_label_of_the_next_day_are_compared(tmp_path: Path) -> None:
    late = world(tmp_path, [])
    for number in range(5):
        moment = at(DAY, 24) - timedelta(seconds=1)
        late.source.pay(f"t{number}", moment)
        late.source.report(f"t{number}", moment + timedelta(seconds=30))
    for name in ("raw_transactions", "raw_labels", "transactions"):
        late.make(name, DAY, NEXT)
    late.make("labels", DAY)
    assert not checks(late.make("labels", NEXT))["known_later"].passed
