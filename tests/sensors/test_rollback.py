"""The guard, driven through ticks on a real registry, history and serving.db: what leaves its limits is
rolled back once, and stays so.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    SensorDefinition,
    build_sensor_context,
)
from lifecycle_kit import AT, Shelf

import mlops_assets.sensors.rollback
from feature_repo.times import to_us
from mlops_assets.core.watching.guard import Guard, Judgement
from mlops_assets.core.watching.guard import judge as judged
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.environments import Settings
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.bundle import BundleError
from serving.settings import ServingSettings
from serving.store.opening import serving_store
from serving.store.version_counts import VersionCounts

pytestmark = pytest.mark.slow
USUAL = [0.1] * 980 + [0.6] * 20  # of the reference 2 % are not ALLOW


class Watch:
    """A home with a service's file, whose guard is asked tick by tick; what a tick reports, its instance
    keeps, as the daemon has it.
    """

    def __init__(self, shelf: Shelf, settings: Settings, instance: DagsterInstance) -> None:
        self.shelf, self.settings, self.instance = shelf, replace(settings, home=shelf.home), instance
        self.before = len(self._observations())

    def promote(self, number: str) -> None:
        """By the gate, now: the kit's own clock stands still, a year ago."""
        assert self.shelf.lifecycle.follow_the_gate(number, datetime.now(UTC), "run")["kind"] == "promoted"

    def serve(self, version: str, count: int, alarms: int = 0, errors: int = 0, slow: int = 0) -> None:
        counts = VersionCounts()
        for number in range(count):
            counts.scored(version, number < alarms, 0.2 if number < slow else 0.0003)
        for _ in range(errors):
            counts.failed(version)
        with closing(serving_store(ServingSettings(self.shelf.home).database)) as store:
            counts.write(partial(store.add_measured, to_us(datetime.now(UTC))))

    def tick(self) -> str:
        """What the tick says."""
        defs = build_pipeline(FRAUD, self.settings)
        sensor: SensorDefinition = (
            defs.resolve_sensor_def("guard_champion")
            if hasattr(defs, "resolve_sensor_def")
            else defs.get_sensor_def("guard_champion")
        )
        with build_sensor_context(self.instance, resources=dict(defs.resources or {})) as context:
            data = sensor.evaluate_tick(context)
        assert not data.run_requests
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return str(data.skip_message)

    def observed(self) -> list[dict[str, Any]]:
        """What the instance was told of rollbacks, the newest first."""
        found = self._observations()
        found = found[: len(found) - self.before]
        return [
            {"day": one.partition, **{name: value.value for name, value in one.metadata.items()}}
            for one in found
        ]

    def _observations(self) -> list[AssetObservation]:
        records = self.instance.fetch_observations(
            AssetRecordsFilter(AssetKey("promoted_version")), limit=100
        ).records
        return [one for record in records if (one := record.asset_observation)]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    shelf = Shelf(tmp_path_factory.mktemp("stocked") / "home", USUAL)
    assert shelf.promoted() == "1"
    assert shelf.candidate() == "2"
    return shelf


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture
def watch(stocked: Shelf, tmp_path: Path, settings: Settings, instance: DagsterInstance) -> Watch:
    """Version 2 was promoted just now, in place of 1."""
    made = Watch(stocked.copied(tmp_path / "home"), settings, instance)
    made.promote("2")
    return made


LEFT = {
    "scores": (
        {"count": 600, "alarms": 360},
        (
            "360 of 600 decisions are not ALLOW, 60.00%, where its reference has 2.00%: more than 5 times as"
            " many"
        ),
    ),
    "errors": (
        {"count": 600, "alarms": 12, "errors": 60},
        "60 of 660 requests failed while it scored, 9.09%: at most 1.00% is allowed",
    ),
    "latency": (
        {"count": 600, "alarms": 12, "slow": 60},
        "60 of 600 scores took more than 10 ms of the processor, 10.00%: its p99 may be 10 ms",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_a_version_that_leaves_its_guard_is_rolled_back_once_and_not_promoted_again_by_itself_and_on_record(
    watch: Watch, what: str
) -> None:
    shelf = watch.shelf
    counts, why = LEFT[what]
    watch.serve("1", 2_000, alarms=40)
    watch.serve("2", **counts)
    assert watch.tick() == f"version 2 was rolled back to 1: {why}"
    assert (shelf.champion, shelf.previous) == ("1", None)
    row = shelf.lifecycle.history.entries()[-1]
    assert {name: row[name] for name in ("kind", "version", "to", "by", "reasons")} == {
        "kind": "rolled_back", "version": "2", "to": "1", "by": "guard", "reasons": [why],
    }  # fmt: skip
    assert shelf.lifecycle.unconfirmed() == [], "the history is whole"
    (seen,) = watch.observed()
    assert seen == {
        "day": "2025-04-10", "kind": "rolled_back", "version": "2", "champion before": "2",
        "to": "1", "by": "guard", "reasons": f"- {why}",
        "line of the history": 3, "requests": counts["count"] + counts.get("errors", 0),
    }  # fmt: skip

    watch.serve("1", 600, alarms=360)  # the same again
    assert watch.tick() == "version 1 serves after a rollback: the guard does not roll such a version back"
    shelf.judge(shelf.registry.version("2"), promote=True, against="1")
    refused = shelf.gate("2")
    assert (refused["kind"], shelf.champion) == ("refused", "1")
    assert "version 2 was rolled back by guard" in refused["reasons"][0]
    assert [kind for kind, _ in shelf.decisions()] == ["promoted", "promoted", "rolled_back", "refused"]
    assert len(watch.observed()) == 1


def test_a_healthy_version_stays_and_the_tick_says_what_it_saw(watch: Watch) -> None:
    watch.serve("2", 3_000, alarms=70, errors=2, slow=5)
    said = watch.tick()
    assert said.startswith("version 2 since 20")
    assert said.endswith(": 3,000 requests scored, 70 not ALLOW, 2 failed, 5 slower than 10 ms")
    assert (watch.shelf.champion, watch.observed()) == ("2", [])


def test_too_few_requests_are_not_judged(watch: Watch) -> None:
    assert watch.tick().endswith("0 requests scored, of 500 to judge by, and 0 failed")
    watch.serve("2", 499, alarms=499, errors=3, slow=499)
    assert watch.tick().endswith("499 requests scored, of 500 to judge by, and 3 failed")
    assert watch.shelf.champion == "2"
    watch.serve("2", 1, alarms=1)
    assert watch.tick().startswith("version 2 was rolled back to 1")


def test_a_champion_with_no_predecessor_is_told_and_not_rolled_back(watch: Watch, tmp_path: Path) -> None:
    alone = Watch(Shelf(tmp_path / "alone", USUAL), watch.settings, watch.instance)
    assert alone.tick() == "there is no champion"
    alone.promote(alone.shelf.candidate())
    alone.serve("1", 600, alarms=600, errors=600)
    assert alone.tick() == "version 1 has no predecessor: a rollback is not possible"
    assert alone.shelf.champion == "1"


def test_alarms_that_its_predecessor_gave_as_well_are_the_worlds_and_not_its_own(watch: Watch) -> None:
    watch.serve("1", 2_000, alarms=700)
    watch.serve("2", 600, alarms=360)
    assert (
        "; outside its guard, as version 1 was before it: 360 of 600 decisions are not ALLOW" in watch.tick()
    )
    assert watch.shelf.champion == "2"


def test_a_guard_that_is_turned_off_does_nothing_and_says_so(watch: Watch) -> None:
    watch.serve("2", 600, alarms=600)
    watch.settings = replace(watch.settings, guard=Guard(enabled=False))
    assert watch.tick() == "turned off: [guard] enabled = false"
    assert watch.shelf.champion == "2"


def test_a_person_who_takes_the_guards_rollback_back_has_the_last_word(watch: Watch) -> None:
    watch.serve("2", 600, alarms=360)
    watch.tick()
    watch.shelf.lifecycle.approve("2", datetime.now(UTC), "anna", "a wave of fraud, the alarms are right")
    assert "anna has promoted it again: only a person rolls it back" in watch.tick()
    assert watch.shelf.champion == "2"


def test_a_champion_that_came_between_the_look_and_the_rollback_is_left_alone(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.serve("2", 600, alarms=360)
    third = watch.shelf.candidate()

    def judge_and_be_overtaken(*facts: Any) -> Judgement:
        judgement = judged(*facts)
        watch.promote(third)
        return judgement

    monkeypatch.setattr(mlops_assets.sensors.rollback, "judge", judge_and_be_overtaken)
    assert watch.tick().endswith("more than 5 times as many), but the champion is 3, no longer 2")
    assert (watch.shelf.champion, watch.observed()) == (third, [])
    monkeypatch.undo()
    assert watch.tick().endswith("0 requests scored, of 500 to judge by, and 0 failed")


def test_a_tick_that_throws_leaves_everything_as_it_was_and_the_next_one_does_it(
    watch: Watch, tmp_path: Path
) -> None:
    shelf = watch.shelf
    watch.promote(third := shelf.candidate())
    watch.promote(fourth := shelf.candidate())
    watch.serve(fourth, 600, alarms=360)
    bundle = shelf.registry._artifacts(shelf.registry.version(third), "bundle")
    shutil.copytree(bundle, tmp_path / "whole")
    (bundle / "model.txt").write_text("")
    for _ in range(2):
        with pytest.raises(BundleError, match=r"model\.txt was altered"):
            watch.tick()
    assert (shelf.champion, shelf.previous, len(shelf.decisions())) == (fourth, third, 4)
    shutil.copytree(tmp_path / "whole", bundle, dirs_exist_ok=True)
    assert watch.tick().startswith(f"version {fourth} was rolled back to {third}")


def test_what_was_promoted_long_ago_is_the_drift_reports_to_say(watch: Watch) -> None:
    third = watch.shelf.candidate()
    watch.shelf.lifecycle.follow_the_gate(third, AT, "run")
    watch.serve(third, 600, alarms=360)
    assert "more than 7 days ago" in watch.tick()
    assert watch.shelf.champion == third
