"""The service is killed during its housekeeping: every answered decision is there, and none is half."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from serving_kit import DAY_US, START_US, Bench, paid

from serving.releases import Champion
from serving.store import upkeep as module
from serving.store.sqlite import checkpoints

KILLS = 60
STEP_US = DAY_US // 4  # From one payment to the next, so that there is always something to be forgotten.


def test_killed_at_any_moment_of_the_housekeeping_every_answered_decision_is_there_and_none_is_half(
    tmp_path: Path, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PAGES_A_PASS", 10), ("SOONEST_S", 0.0), ("LATEST_S", 0.0), ("QUICK_S", 1.0)):
        monkeypatch.setattr(checkpoints, name, value)
    monkeypatch.setattr(checkpoints, "BEGIN_AGAIN_PAGES", 60)
    for name in ("STEP_EVERY_S", "FORGET_PAUSE_S", "ROUND_EVERY_S"):
        monkeypatch.setattr(module, name, 0.001)
    rng = random.Random(39)
    answered: dict[str, float] = {}
    bench, first = Bench(tmp_path, champion), 399
    for number in range(first + 1):  # Enough that old events are forgotten from the first kill on.
        answered[f"t{number}"] = bench.predict(paid(number, START_US + number * STEP_US)).score
    bench.plane.close()
    forgotten = 0
    for kill in range(KILLS):
        answered |= killed_after(tmp_path, champion, first + 1, rng.uniform(0, 0.05))
        bench = Bench(tmp_path, champion)
        first = bench.store.position().last - 1
        forgotten = check(bench, answered, whole=kill % 20 == 0 or kill == KILLS - 1)
        bench.plane.close()
    assert len(answered) > 400 + KILLS
    assert forgotten > 100


def killed_after(home: Path, champion: Champion, first: int, seconds: float) -> dict[str, float]:
    """What a process answered with its housekeeping at work, from its first answer until it was killed."""
    answers, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            bench = Bench(home, champion)
            bench.upkeep().start()
            for number in range(first, first + 100_000):
                answer = bench.predict(paid(number, START_US + number * STEP_US))
                os.write(told, json.dumps([answer.prediction_id, answer.score]).encode() + b"\n")
        finally:
            os._exit(1)
    os.close(told)
    with os.fdopen(answers, "rb") as stream:
        lines = [stream.readline()]
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        lines += stream.readlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"
    return dict(json.loads(line) for line in lines if line.endswith(b"\n"))


def check(bench: Bench, answered: dict[str, float], whole: bool) -> int:
    """Every answer is on record, and each decision has its event and its verdict, or they are forgotten as
    old. Returns how many are forgotten.
    """
    rows = bench.connection.execute("SELECT prediction_id, fraud_score, event_us FROM decisions").fetchall()
    scores = {name: score for name, score, _ in rows}
    assert answered.items() <= scores.items()
    assert bench.store.position().last == len(rows)
    events = {name for (name,) in bench.connection.execute("SELECT event_id FROM online_transactions")}
    verdicts = {
        name.split(":")[0] for (name,) in bench.connection.execute("SELECT event_id FROM online_verdicts")
    }
    assert events <= scores.keys()
    assert verdicts <= scores.keys()
    newest_us = max(event_us for *_, event_us in rows)
    young = {name for name, _, event_us in rows if event_us >= newest_us - 98 * DAY_US}
    assert young <= events
    assert young <= verdicts
    if whole:
        assert bench.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return len(scores) - len(events)
