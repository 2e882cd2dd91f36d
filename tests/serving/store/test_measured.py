"""What the service measures of each version: over HTTP, in its one file, where the guard reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_kit import Bench, Running, TinyRegistry, paid, payment, tiny_release

from feature_repo.engine.plan import FeaturePlan
from feature_repo.times import DAY_US, MINUTE_US
from serving.contract.bundle import Release, as_row
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Scorer
from serving.releases import Champion
from serving.store.base import StoreBusy
from serving.store.opening import serving_log
from serving.store.sqlite.log_tables import create_tables
from serving.store.sqlite.writing import SqliteServingStore
from serving.store.version_counts import KEPT_DAYS, Counts, VersionCounts

NOW_US = 1_780_000_000_000_000
Vector = dict[str, Any]


def now(bench: Bench) -> Callable[[Counts], None]:
    return partial(bench.store.add_measured, NOW_US)


def failing_release(plan: FeaturePlan) -> tuple[Release, Vector, Vector]:
    """A version that no golden row shows to be broken, a vector that it scores, and one whose leaf is not a
    number.
    """
    made = tiny_release(plan, trees=1, policy=Policy(0.0, 2))
    booster = Scorer(made.model_text, made.calibrator).booster
    vectors, scores = made.golden
    leaves = (
        booster.predict(np.array([as_row(v) for v in vectors]), pred_leaf=True).ravel().astype(int).tolist()
    )
    broken = leaves[0]
    lines = made.model_text.split("\n")
    at = next(n for n, line in enumerate(lines) if line.startswith("leaf_value="))
    values = lines[at].removeprefix("leaf_value=").split(" ")
    values[broken] = "nan"
    lines[at] = "leaf_value=" + " ".join(values)
    lines = [
        line for line in lines if not line.startswith("tree_sizes=")
    ]  # of the text before it was altered
    sound = [n for n, leaf in enumerate(leaves) if leaf != broken]
    golden = ([vectors[n] for n in sound], [scores[n] for n in sound])
    named = [dict(zip(plan.features, vectors[n], strict=True)) for n in (sound[0], 0)]
    return replace(made, model_text="\n".join(lines), golden=golden), named[0], named[1]


@pytest.mark.slow
def test_decisions_alarms_and_failures_of_a_version_are_counted_and_nothing_that_is_not_its_doing(
    plan: FeaturePlan, tmp_path: Path, launch: Callable[..., Running]
) -> None:
    home, registry = tmp_path / "home", TinyRegistry(tmp_path / "home")
    release, good, bad = failing_release(plan)
    registry.promote(version := registry.register(release, tmp_path / "1"))
    service = launch(home, "--clock", "event")
    service.wait()

    def send(body: Vector, status: int = 200) -> None:
        # A connection of its own: after a 500 the server closes it.
        answer = httpx.post(service.client.base_url.join("/predict"), json=body, timeout=30)
        assert answer.status_code == status, answer.text

    for number in range(5):
        send({"features": good, "prediction_id": f"good{number}"})
    send({"features": good, "prediction_id": "good3"})  # a repeat
    send({"features": bad, "prediction_id": "good3"}, 409)
    send({"features": {}}, 422)
    send({"transaction": payment(8, amount=-1.0)}, 422)
    for number in range(3):
        send({"features": bad, "prediction_id": f"bad{number}"}, 500)
    db, deadline = home / "serving" / "serving.db", time.monotonic() + 20
    while serving_log(db).measured(version, 0).scored < 5:
        assert time.monotonic() < deadline, "it is written while the service runs"
        time.sleep(0.05)
    send({"features": bad}, 500)
    service.stop()  # what is left is written before it ends
    found = serving_log(db).measured(version, 0)
    assert (found.scored, found.alarms, found.errors) == (5, 5, 4)
    assert 0 <= found.slower_than(1_000) <= found.slower_than(1) <= 5
    now_us = time.time_ns() // 1_000  # the machine's clock, and not that of the events
    assert serving_log(db).measured(version, now_us - 5 * MINUTE_US) == found
    nothing = serving_log(db).measured(version, now_us + MINUTE_US)
    assert nothing == serving_log(db).measured("another", 0)
    assert (nothing.scored, nothing.errors) == (0, 0)


def test_several_workers_add_to_the_same_counts(bench: Bench) -> None:
    other, counts = SqliteServingStore(bench.settings.database), VersionCounts()
    bench.predict(paid(0))
    counts.scored("1", True, 0.0)
    bench.plane.counts.write(now(bench))
    counts.write(partial(other.add_measured, NOW_US))
    other.close()
    found = bench.log.measured("1", 0)
    assert (found.scored, found.alarms) == (2, 1)


def test_the_time_that_a_score_takes_falls_between_two_limits(bench: Bench) -> None:
    counts = bench.plane.counts
    for seconds in (0.0002, 0.001, 0.0011, 0.03, 0.3, 7.0):
        counts.scored("9", False, seconds)
    counts.write(now(bench))
    found = bench.log.measured("9", NOW_US)
    assert {ms: found.slower_than(ms) for ms in (1, 2, 25, 50, 250, 1_000)} == {
        1: 4,
        2: 3,
        25: 3,
        50: 2,
        250: 2,
        1_000: 1,
    }
    assert found.scored == 6


def test_counts_that_cannot_be_written_are_kept_for_the_next_time(bench: Bench) -> None:
    bench.predict(paid(0))
    other = SqliteServingStore(bench.settings.database)
    with other.one_commit(), pytest.raises(StoreBusy):
        bench.plane.counts.write(now(bench))
    bench.plane.counts.failed("1")
    other.close()
    bench.plane.counts.write(now(bench))
    bench.plane.counts.write(now(bench))
    found = bench.log.measured("1", 0)
    assert (found.scored, found.errors) == (1, 1)


def test_no_count_is_lost_between_threads(bench: Bench) -> None:
    counts, stop = VersionCounts(), threading.Event()

    def count() -> None:
        for _ in range(5_000):
            counts.scored("1", True, 0.0)

    def write() -> None:
        while not stop.is_set():
            counts.write(now(bench))

    threads = [threading.Thread(target=count) for _ in range(3)]
    writer = threading.Thread(target=write)
    for thread in (*threads, writer):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    writer.join()
    counts.write(now(bench))
    found = bench.log.measured("1", 0)
    assert (found.scored, found.alarms) == (15_000, 15_000)


def test_what_is_older_than_it_is_kept_for_is_forgotten_an_hour_at_a_time(bench: Bench) -> None:
    def minutes() -> list[int]:
        return [
            minute
            for (minute,) in bench.connection.execute("SELECT DISTINCT minute_us FROM measured ORDER BY 1")
        ]

    for minute in range(180):
        bench.plane.counts.failed("1")
        bench.plane.counts.write(partial(bench.store.add_measured, NOW_US + minute * MINUTE_US))
    later = NOW_US + KEPT_DAYS * DAY_US + 120 * MINUTE_US
    left = []
    for _ in range(4):
        bench.plane.counts.failed("1")
        bench.plane.counts.write(partial(bench.store.add_measured, later))
        left.append(len(minutes()) - 1)
    assert left == [120, 60, 60, 60]
    assert minutes()[0] == (NOW_US + 120 * MINUTE_US) // MINUTE_US * MINUTE_US


def test_a_file_of_the_version_before_gets_the_counts_and_none_has_none(
    bench: Bench, champion: Champion, tmp_path: Path
) -> None:
    bench.predict(paid(0))
    bench.connection.execute("DROP TABLE measured")
    bench.connection.execute("PRAGMA user_version = 2")
    nothing = serving_log(tmp_path / "nowhere" / "serving.db").measured("1", 0)
    assert (nothing.scored, nothing.slower_than(1)) == (0, 0)
    assert bench.log.measured("1", 0) == nothing
    create_tables(bench.connection)
    bench.plane.counts.write(now(bench))
    assert bench.log.measured("1", 0).scored == 1
    assert bench.decisions("2018-04-01").num_rows == 1
