"""A rebuild beside running traffic: nothing is lost, nothing comes back, no answer is wrong in between, and a
dead rebuild costs nothing.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from event_kit import HOUR, START, event, every_function, table_of
from stores import ListStore, connect

from feature_repo.engine.plan import Aggregate, FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake, LakeError
from feature_repo.online.base import Loaded
from feature_repo.online.sqlite.generations import standing, tables_of
from feature_repo.online.sqlite.rebuild import OnlineRebuild, RebuildError
from feature_repo.online.sqlite.state import SqliteOnlineState

DAY = 24 * HOUR
WANTED = (
    ("count", "who"),
    ("sum", "money"),
    ("std", "money"),
    ("max", "money"),
    ("last", "money"),
    *every_function("event_timestamp"),
)
VIEWS = tuple(
    ViewPlan(
        name,
        "key",
        "s",
        hop,
        tuple(Aggregate(f"{name}_{f}_{c}_{d}", c, f, d * DAY) for d in (1, 5) for f, c in WANTED),
        {"money": 2},
        ("transaction_id",),
    )
    for name, hop in (("exact", 0), ("tiled", HOUR))
)
PLAN = FeaturePlan("s", VIEWS, (), ())
EVENTS_A_DAY, DAYS, KEYS = 200, 6, "abcdefgh"


def event_of(day: int, number: int) -> dict[str, object]:
    return {
        **event(day * 1440 + number * 1440 // EVENTS_A_DAY, money=number / 4, who="x"),
        "key": None if number % 40 == 39 else KEYS[number % len(KEYS)],
    }


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    for day in range(DAYS):
        ids = pa.array([f"{day}/{n}" for n in range(EVENTS_A_DAY)])
        table = table_of([event_of(day, n) for n in range(EVENTS_A_DAY)]).append_column("transaction_id", ids)
        lake.write("s", f"2018-04-0{day + 1}", table, validated=day != 0)
    return lake


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "state.db")
    yield connection
    connection.close()


def events_of_the_lake() -> Iterator[Loaded]:
    for day in range(1, DAYS):  # the first was never validated
        for n in range(EVENTS_A_DAY):
            e = event_of(day, n)
            yield f"{day}/{n}", e, e["event_us"], e["created_us"]  # type: ignore[misc]


def of_the_lake() -> ListStore:
    model = ListStore(PLAN)
    model.load("s", events_of_the_lake())
    return model


def assert_equal(state: SqliteOnlineState, model: ListStore) -> None:
    assert sorted(state.ids("s", 0, 2**62)) == sorted(model.ids("s", 0, 2**62))
    for key in (*KEYS, None):
        for at_us in (START + DAYS * DAY + 1, START + DAYS * DAY - 3 * HOUR):
            assert state.aggregates({"key": key}, at_us) == model.aggregates({"key": key}, at_us)


def test_a_rebuild_of_a_quiet_state_is_the_lake_and_leaves_nothing_behind(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    state = SqliteOnlineState(connection, PLAN)
    for number in range(40):
        stray = event_of(1, number)
        state.push("s", f"stray {number}", stray, stray["event_us"], stray["event_us"])  # type: ignore[arg-type]
    for round in (1, 2):
        with OnlineRebuild(connection, PLAN) as rebuild:
            assert rebuild.load_lake(lake) == {"s": (DAYS - 1) * EVENTS_A_DAY}
            rebuild.pack(START + DAYS * DAY)
            rebuild.switch()
        assert connection.execute(f"SELECT count(*) FROM online_packs_g{round}").fetchone() == (
            len(VIEWS) * len(KEYS),
        )
        state.follow()
        assert_equal(state, of_the_lake())
        assert [n for n in range(9) if tables_of(connection, n)] == [round]


def test_only_what_a_window_reaches_on_the_last_day_is_loaded(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    one_day = FeaturePlan(
        "s",
        (ViewPlan("v", "key", "s", 0, (Aggregate("n", "x", "count", DAY),), event_id=("transaction_id",)),),
        (),
        ("n",),
    )
    with OnlineRebuild(connection, one_day) as rebuild:
        assert rebuild.load_lake(lake, "2018-04-04") == {"s": 2 * EVENTS_A_DAY}
    with OnlineRebuild(connection, one_day) as rebuild:
        assert rebuild.load_lake(Lake(f"{lake.root}/nowhere")) == {"s": 0}


def roads_of(day: int, hour: int) -> dict[str, object]:
    at_us = START + day * DAY + hour * HOUR
    return {
        "depot": f"d{hour % 2}",
        "snow": hour / 4,
        "event_us": at_us,
        "created_us": at_us + hour % 3 * HOUR,
    }


def test_a_further_feed_is_loaded_and_carried_over_like_any_stream(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    """The feed has an id of two columns, a key of its own, and a last day before the other stream's."""
    wanted = tuple(Aggregate(f"{f}_snow", "snow", f, DAY) for f in ("count", "avg", "max"))
    feed = ViewPlan("roads", "depot", "roads", 0, wanted, {"snow": 2}, ("depot", "event_timestamp"))
    plan, newest = FeaturePlan("s", (*VIEWS, feed), (), ()), DAYS - 2
    state, model = SqliteOnlineState(connection, plan), ListStore(plan)
    for day in range(newest + 1):
        rows = [roads_of(day, hour) for hour in range(24)]
        table = pa.table({name: [row[name] for row in rows] for name in ("depot", "snow")})
        for name in ("event", "created"):
            times = pa.array([row[f"{name}_us"] for row in rows], pa.timestamp("us", "UTC"))
            table = table.append_column(f"{name}_timestamp", times)
        lake.write("roads", f"2018-04-0{day + 1}", table, validated=True)
    for store, days in ((model, range(newest + 2)), (state, range(newest + 1, newest + 2))):
        for e in (roads_of(day, hour) for day in days for hour in range(24)):
            at_us, created_us = int(e["event_us"]), int(e["created_us"])  # type: ignore[call-overload]
            store.push("roads", plan.event_id("roads", e, at_us), e, at_us, created_us)
    with OnlineRebuild(connection, plan) as rebuild:
        # A day's window reaches back from the feed's last day.
        assert rebuild.load_lake(lake) == {"s": (DAYS - 1) * EVENTS_A_DAY, "roads": 2 * 24}
        assert rebuild.carry_over(START + (newest + 1) * DAY) == {"s": 0, "roads": 24}
        rebuild.pack(START + DAYS * DAY)
        rebuild.switch()
    state.follow()
    model.load("s", events_of_the_lake())
    for depot in ("d0", "d1", "nowhere", None):
        for at_us in (START + newest * DAY + HOUR, START + (newest + 2) * DAY - 1):
            keys = {"depot": depot, "key": "a"}
            assert state.aggregates(keys, at_us) == model.aggregates(keys, at_us)


def test_what_the_lake_does_not_have_yet_is_carried_over(connection: sqlite3.Connection, lake: Lake) -> None:
    state, model = SqliteOnlineState(connection, PLAN), of_the_lake()
    for number in range(20):
        newer, older = event_of(DAYS, number), event_of(2, number)
        for store in (state, model):
            store.push("s", f"newer {number}", newer, newer["event_us"], newer["created_us"])  # type: ignore[arg-type]
        state.push("s", f"older {number}", older, older["event_us"], older["created_us"])  # type: ignore[arg-type]
    with OnlineRebuild(connection, PLAN) as rebuild:
        rebuild.load_lake(lake)
        assert rebuild.carry_over(START + DAYS * DAY) == {"s": 20}
        assert rebuild.carry_over(START + DAYS * DAY) == {"s": 0}
        rebuild.switch()
    state.follow()
    assert_equal(state, model)


def test_removed_during_a_rebuild_stays_removed_unless_it_is_pushed_again(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    state, model = SqliteOnlineState(connection, PLAN), of_the_lake()
    with OnlineRebuild(connection, PLAN) as rebuild:
        with state.transaction():
            assert not state.remove("s", "3/1")  # the old state never had it
            state.remove("s", "3/2")
            again = {
                **event_of(3, 2),
                "money": 99.5,
            }  # of what was pushed again, the lake's values hold, as ever
            state.push("s", "3/2", again, again["event_us"], again["created_us"])  # type: ignore[arg-type]
        rebuild.load_lake(lake)
        rebuild.switch()
    model.remove("s", "3/1")
    state.follow()
    assert_equal(state, model)


def test_versions_rise_through_a_rebuild_and_the_new_state_is_above_all_that_was_before(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    state, asked = SqliteOnlineState(connection, PLAN), {"key": "a"}
    before, e = state.versions(asked)["s.key"], event_of(1, 0)
    at_us = int(e["event_us"])  # type: ignore[call-overload]
    assert state.push("s", "one", e, at_us, at_us) == {"s.key": before + 1}
    with OnlineRebuild(connection, PLAN) as rebuild:
        rebuild.load_lake(lake)
        with state.transaction():
            assert state.push("s", "two", e, at_us, at_us) == {"s.key": before + 2}
            assert state.remove("s", "two") == {"s.key": before + 3}
        rebuild.carry_over(START)
        rebuild.pack(START + DAYS * DAY)
        assert state.versions(asked) == {"s.key": before + 3}
        rebuild.switch()
    state.follow()
    switched = state.versions({"key": "nobody"})["s.key"]
    assert state.versions(asked) == {"s.key": switched}
    assert switched > before + 3
    assert connection.execute("SELECT * FROM online_versions").fetchall() == [], "the epoch says it"
    assert state.push("s", "three", e, at_us, at_us) == {"s.key": switched + 1}


def test_a_file_that_is_made_again_begins_above_the_file_that_was_lost(tmp_path: Path) -> None:
    versions = []
    for name in ("lost.db", "new.db"):
        state, e = SqliteOnlineState(connect(tmp_path / name), PLAN), event_of(1, 0)
        versions.append(state.versions({"key": "a"})["s.key"])
        at_us = int(e["event_us"])  # type: ignore[call-overload]
        for number in range(9):
            state.push("s", str(number), e, at_us, at_us)
        versions.append(state.versions({"key": "a"})["s.key"])
        state.connection.close()
    assert versions == sorted(versions)
    assert versions[2] > versions[1]


def test_a_clock_that_went_back_lowers_no_version(connection: sqlite3.Connection) -> None:
    state = SqliteOnlineState(connection, PLAN)
    ahead = 1 << 60
    connection.execute("UPDATE online_epoch SET began_us = ?", (ahead,))
    with OnlineRebuild(connection, PLAN) as rebuild:
        rebuild.switch()
    state.follow()
    assert state.versions({"key": "a"}) == {"s.key": ahead}


def lost_half_way(lake: Lake) -> Iterator[Loaded]:
    for number in range(200):
        e = event_of(2, number)
        yield f"2/{number}", e, e["event_us"], e["created_us"]  # type: ignore[misc]
    lake.read("nowhere", ["2018-04-01"])


def test_a_rebuild_that_fails_leaves_the_old_state_as_it_was(
    connection: sqlite3.Connection, lake: Lake
) -> None:
    state, model = SqliteOnlineState(connection, PLAN), ListStore(PLAN)
    e = event_of(1, 1)
    for store in (state, model):
        store.push("s", "1", e, e["event_us"], e["created_us"])  # type: ignore[arg-type]
    with pytest.raises(LakeError, match="nowhere"), OnlineRebuild(connection, PLAN) as rebuild:
        rebuild.load("s", lost_half_way(lake))
    state.follow()
    assert_equal(state, model)
    assert tables_of(connection, 1) == []


def test_two_rebuilds_at_once_are_one_too_many(connection: sqlite3.Connection, tmp_path: Path) -> None:
    with (
        OnlineRebuild(connection, PLAN),
        pytest.raises(RebuildError, match="another rebuild"),
        OnlineRebuild(connect(tmp_path / "state.db"), PLAN),
    ):
        pass
    with pytest.raises(RebuildError, match="in a file"):
        OnlineRebuild(sqlite3.connect(":memory:", isolation_level=None), PLAN)


def test_traffic_goes_on_during_a_rebuild_and_nothing_of_it_is_lost(
    connection: sqlite3.Connection, lake: Lake, tmp_path: Path
) -> None:
    model, stop, waits, failed = of_the_lake(), threading.Event(), [0.0], []
    known = ListStore(
        PLAN
    )  # what the old state and the new one both hold, of a key that the lake does not know
    rng = np.random.default_rng(7)

    def traffic() -> None:
        try:
            state, number = SqliteOnlineState(connect(tmp_path / "state.db"), PLAN), 0
            while not stop.is_set() or number < 300:
                number += 1
                e = {
                    **event_of(DAYS - 1, int(rng.integers(EVENTS_A_DAY))),
                    "key": "own" if number % 3 else "a",
                }
                gone = (
                    f"{int(rng.integers(1, DAYS))}/{int(rng.integers(EVENTS_A_DAY))}"
                    if number % 5
                    else f"new {int(rng.integers(1, number + 1))}"
                )
                began = time.perf_counter()
                with state.transaction():
                    state.push("s", f"new {number}", e, e["event_us"], e["created_us"])
                    state.remove("s", gone)
                    answer = state.aggregates({"key": "own"}, START + DAYS * DAY)
                    state.settle()
                waits.append(time.perf_counter() - began)
                for store in (model, known):
                    store.push("s", f"new {number}", e, e["event_us"], e["created_us"])  # type: ignore[arg-type]
                    store.remove("s", gone)
                assert answer == known.aggregates({"key": "own"}, START + DAYS * DAY)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=traffic)
    with OnlineRebuild(connection, PLAN, lambda: time.sleep(0.001)) as rebuild:
        thread.start()
        rebuild.load_lake(lake)
        rebuild.carry_over(START)
        rebuild.pack(START + DAYS * DAY)
        rebuild.switch()
        rebuild.sweep()
        stop.set()
        thread.join(60)
    assert failed == []
    assert max(waits) < 0.25
    assert_equal(SqliteOnlineState(connection, PLAN), model)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from stores import connect
from test_rebuilding import PLAN
from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.rebuild import OnlineRebuild

commits = []
def pause():
    commits.append(1)
    if len(commits) > 5:
        os.kill(os.getpid(), signal.SIGKILL)

with OnlineRebuild(connect(sys.argv[1]), PLAN, pause) as rebuild:
    rebuild.load_lake(Lake(sys.argv[2]))
"""


def test_a_rebuild_that_was_killed_leaves_the_old_state_and_the_next_one_sweeps(
    connection: sqlite3.Connection, lake: Lake, tmp_path: Path
) -> None:
    state, model = SqliteOnlineState(connection, PLAN), ListStore(PLAN)
    e = event_of(1, 1)
    for store in (state, model):
        store.push("s", "1", e, e["event_us"], e["created_us"])  # type: ignore[arg-type]
    arguments = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "state.db"),
        lake.root,
        *map(str, Path(__file__).parents[:2]),
    ]
    assert (
        subprocess.run(
            arguments,
            env={**os.environ, "PYTHONPATH": f"{os.getcwd()}{os.pathsep}{Path(__file__).parents[1]}"},
            timeout=120,
        ).returncode
        == -signal.SIGKILL
    )
    assert standing(connection) == (0, 1)
    with state.transaction():
        assert_equal(state, model)
        state.push("s", "2", e, e["event_us"], e["created_us"])  # type: ignore[arg-type]
    with OnlineRebuild(connection, PLAN) as rebuild:
        assert rebuild.ids("s", 0, START + DAYS * DAY) == []
        assert tables_of(connection, 1) == []
        rebuild.carry_over(START)
        rebuild.switch()
    state.follow()
    assert sorted(state.ids("s", 0, START + DAYS * DAY)) == ["1", "2"]
