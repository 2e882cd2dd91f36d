"""Events of a further feed: into the log and the online state, and from the log into a state made anew."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parcel_kit import PARCELS, condition, parcel, parcels_plan, parcels_release
from serving_kit import DAY_US, MINUTE_US, START_US, Bench

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.events import EventRules
from serving.contract.scorers.lightgbm import Scorer
from serving.messages import BadInput, NoModel, UnknownStream
from serving.releases import Champion

FEED, HOUR_US = "road_conditions", 60 * MINUTE_US
(ROADS,) = PARCELS.feeds


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    return parcels_plan()


@pytest.fixture(scope="module")
def champion(plan: FeaturePlan) -> Champion:
    release = parcels_release(plan)
    return Champion("1", "d" * 64, release, Scorer(release.model_text, release.calibrator))


@pytest.fixture
def bench(tmp_path: Path, champion: Champion) -> Iterator[Bench]:
    made = Bench(tmp_path, champion)
    yield made
    made.plane.close()


def vector(bench: Bench, name: str) -> dict[str, Any]:
    query = "SELECT features FROM decisions WHERE prediction_id = ?"
    return dict(json.loads(bench.connection.execute(query, (name,)).fetchone()[0]))


def test_a_parcel_is_scored_with_what_the_feed_said_of_its_depot(bench: Bench) -> None:
    bench.predict(parcel(0))
    receipts = bench.plane.add_events(
        FEED, [condition(START_US - HOUR_US, 0.25), condition(START_US - HOUR_US, 0.75, "south")]
    )
    assert [one.outcome for one in receipts] == ["accepted", "accepted"]
    assert receipts[0].event_id == f"north:{START_US - HOUR_US}"
    bench.predict(parcel(1))
    assert (vector(bench, "p0")["congestion_now"], vector(bench, "p1")["congestion_now"]) == (None, 0.25)
    answer = bench.predict(parcel(2, origin="south"))
    assert vector(bench, "p2")["congestion_now"] == 0.75
    assert answer.freshness["depot_conditions"] == 3600 + 2 * 60


def test_a_parcel_without_a_vehicle_has_an_empty_history_and_is_in_nobodys(bench: Bench) -> None:
    for number in range(2):
        bench.predict(parcel(number, vehicle_id=None))
    found = vector(bench, "p1")
    assert (found["vehicle_num_parcels_1d"], found["vehicle_max_distance_km_7d"]) == (0, None)
    bench.predict(parcel(2))
    bench.predict(parcel(3))
    assert vector(bench, "p3")["vehicle_num_parcels_1d"] == 1


def test_where_silence_is_unknown_no_pending_verdict_is_written(bench: Bench) -> None:
    assert bench.champion is not None
    bench.predict(parcel(0))
    state = SqliteOnlineState(bench.connection, bench.champion.release.plan)
    assert state.find_of("verdicts", "p0") == []


def test_the_same_event_changes_nothing_and_other_values_under_its_id_are_a_conflict(bench: Bench) -> None:
    event, other = condition(START_US, 0.25), condition(START_US, 0.5)
    outcomes = [one.outcome for one in bench.plane.add_events(FEED, [event, event, other])]
    assert outcomes == ["accepted", "duplicate", "conflict"]
    bench.predict(parcel(1))
    assert vector(bench, "p1")["congestion_now"] == 0.25
    assert bench.log.feed_events("2018-04-01", ROADS).num_rows == 1


def test_the_log_has_the_events_of_a_day_in_their_columns(bench: Bench) -> None:
    assert bench.log.feed_events("2018-04-01", ROADS).num_rows == 0
    bench.plane.add_events(FEED, [condition(START_US, 0.25), condition(START_US + DAY_US, 0.5)])
    (row,) = bench.log.feed_events("2018-04-01", ROADS).to_pylist()
    moment = row.pop("event_timestamp")
    assert (moment.isoformat(), row.pop("created_timestamp")) == ("2018-04-01T00:00:00+00:00", moment)
    assert list(json.loads(row.pop("made_versions"))) == ["road_conditions.depot"]
    assert row == {"seq": 1, "depot": "north", "congestion": 0.25, "temperature_c": 4.0, "snow_cm": 0.0}
    assert bench.log.served_days(PARCELS, FEED) == {"2018-04-01", "2018-04-02"}
    assert bench.log.served_days(PARCELS, FEED, ["2018-04-02", "2018-04-03"]) == {"2018-04-02"}
    assert bench.log.served_days(PARCELS, "parcels") == set()


def test_an_event_that_came_late_is_known_after_every_decision_before_it(bench: Bench) -> None:
    bench.predict(parcel(9))
    clock_us = START_US + 9 * MINUTE_US
    bench.plane.add_events(FEED, [condition(START_US, 0.25)])
    (created_us,) = bench.connection.execute(f"SELECT created_us FROM feed_{FEED}").fetchone()
    assert created_us == clock_us + 1
    assert bench.connection.execute("SELECT clock_us, newest_us FROM sequence").fetchone() == (
        clock_us,
        clock_us,
    )


def test_a_batch_is_refused_as_a_whole_at_the_event_that_cannot_be(bench: Bench) -> None:
    bench.predict(parcel(0, START_US + 20 * DAY_US))
    good = condition(START_US + 20 * DAY_US, 0.5)
    for bad, kind, field in (
        (condition(START_US, 0.5), "late", "event_timestamp"),
        (condition(START_US + 30 * DAY_US, 0.5), "future", "event_timestamp"),
        (condition(START_US + 20 * DAY_US, 1.5, "south"), "bad_value", "congestion"),
        (condition(START_US + 20 * DAY_US, 0.5, created_us=START_US), "bad_value", "created_timestamp"),
    ):
        with pytest.raises(BadInput) as caught:
            bench.plane.add_events(FEED, [good, bad])
        assert (caught.value.kind, caught.value.field) == (kind, ("events", 1, field))
    assert bench.connection.execute(f"SELECT count(*) FROM feed_{FEED}").fetchone() == (0,)


def test_on_the_wall_clock_an_event_is_known_when_it_arrives(tmp_path: Path, champion: Champion) -> None:
    bench = Bench(tmp_path, champion, "wall")
    with pytest.raises(BadInput, match="a condition is known when it arrives"):
        bench.plane.add_events(FEED, [condition(START_US - HOUR_US, 0.5, created_us=START_US)])
    bench.plane.add_events(FEED, [condition(START_US - HOUR_US, 0.5)])
    assert bench.connection.execute(f"SELECT created_us FROM feed_{FEED}").fetchone() == (START_US,)
    bench.plane.close()


def test_a_feed_that_nobody_declared_is_named_with_those_that_are(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UnknownStream, match="no such stream; there are road_conditions"):
        bench.plane.add_events("parcels", [condition(START_US, 0.5)])
    empty = Bench(tmp_path / "empty", None)
    with pytest.raises(NoModel):
        empty.plane.add_events(FEED, [condition(START_US, 0.5)])
    empty.plane.close()


def test_a_replay_of_the_log_gives_another_state_the_same_events(bench: Bench, plan: FeaturePlan) -> None:
    bench.plane.add_events(FEED, [condition(START_US + n * MINUTE_US, n / 200) for n in range(150)])
    bench.predict(parcel(200))
    other = sqlite3.connect(":memory:", isolation_level=None)
    SqliteOnlineState.create_tables(other)
    state = SqliteOnlineState(other, plan)
    for _ in range(2):  # again changes nothing
        steps = list(EventRules(PARCELS).replay(bench.store, state, START_US, 2 * DAY_US))
        assert sum(steps) == 151
        assert (state.count(FEED), state.count("parcels")) == (150, 1)
    later = list(EventRules(PARCELS).replay(bench.store, state, START_US + DAY_US, 0))
    assert (state.newest_us(FEED, START_US + DAY_US), later) == (START_US + 149 * MINUTE_US, [])
    other.close()
