"""The service dies at any moment of a commit of several rows and of a checkpoint, or the power is cut.

A process answers batches, payments and labels while its housekeeping moves pages. At seeded moments it is
stopped, and its files are copied: that is what a kill leaves. In most copies something is then spoilt that a
power cut may spoil, too: what was not yet flushed is cut off or has a hole, or a page that a checkpoint was
about to write is torn.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from serving_kit import DAY_US, MINUTE_US, START_US, Bench, paid

from feature_repo.online.base import OnlineState
from serving.contract.before_subjects import BEFORE
from serving.contract.records import Answer
from serving.messages import Label, ScoredEvent
from serving.releases import Champion
from serving.store import upkeep as module
from serving.store.opening import state_rebuild
from serving.store.sqlite import checkpoints

MOMENTS_A_PROCESS = 20
CUSTOMERS, MERCHANTS = 7, 5
HEADER, FRAME = 32, 4_096 + 24
Told = list[tuple[str, float, str]]


class Step(NamedTuple):
    """What the process does in one commit. `labels` are the ids of payments that are fraud."""

    rows: list[ScoredEvent]
    alone: bool = False
    labels: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]


def steps(seed: int, many: int = 3_000) -> list[Step]:
    """The same for the same seed: batches, payments alone, now and then a label of an earlier payment."""
    rng, made, number = random.Random(seed), list[Step](), 0
    unlabelled: list[str] = []
    for _ in range(many):
        if unlabelled and rng.random() < 0.1:
            made.append(Step([], labels=(unlabelled.pop(rng.randrange(len(unlabelled))),)))
            continue
        size = rng.choice([1, 2, 5, 8])
        keys = [(f"c{rng.randrange(CUSTOMERS)}", f"m{rng.randrange(MERCHANTS)}") for _ in range(size)]
        rows = [paid(number + n, None, *pair, amount=1.0 + number % 90) for n, pair in enumerate(keys)]
        made.append(Step(rows, alone=size == 1))
        unlabelled += made[-1].ids
        number += size
    return made


def do(bench: Bench, step: Step) -> Told:
    """One commit; what it answered."""
    if step.labels:
        bench.plane.add_labels([Label(one, True, START_US + 30 * DAY_US) for one in step.labels])
        return []
    if step.alone:
        answers: list[object] = [bench.predict(step.rows[0])]
    else:
        answers = list(bench.plane.predict_many(step.rows))
    assert all(isinstance(one, Answer) for one in answers), answers
    return [(one.prediction_id, one.score, one.decision) for one in answers if isinstance(one, Answer)]


@pytest.mark.slow
# Python 3.12 warns that the child may wait for a lock that a thread of its parent holds. The threads here, of
# NumPy and Arrow, hold none while the test forks, and a child that stands still fails the test.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_crash_every_answer_is_there_none_is_half_and_the_state_equals_a_rebuild(
    tmp_path: Path, champion: Champion, in_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STEP_EVERY_S", "FORGET_PAUSE_S", "ROUND_EVERY_S"):
        monkeypatch.setattr(module, name, 0.001)
    seen, compared = dict[str, int](), 0
    for seed in range(15 if in_full else 3):
        rng, todo = random.Random(seed), steps(seed)
        # Some processes make passes all the time, others let many frames wait for one.
        pause_s = rng.choice([0.0, 0.0, 0.02])
        for name, value in (("SOONEST_S", pause_s), ("LATEST_S", pause_s), ("QUICK_S", 1.0)):
            monkeypatch.setattr(checkpoints, name, value)
        monkeypatch.setattr(checkpoints, "BEGIN_AGAIN_PAGES", rng.choice([60, 400]))
        home, fsync = tmp_path / f"home-{seed}", seed % 3 == 2
        retried: dict[int, Told] = {}
        with Writer(home, champion, todo, fsync) as writer:
            for moment in range(MOMENTS_A_PROCESS):
                with writer.going_on():
                    time.sleep(rng.uniform(0.001, 0.03))
                copy = tmp_path / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                index = writer.copy(copy)
                done = writer.answers()
                spoilt = spoil(copy, index, rng, fsync)
                seen[spoilt] = seen.get(spoilt, 0) + 1
                whole = moment % 10 == 0
                keeps = fsync or spoilt in ("killed", "torn")
                number, told = check(copy, champion, todo, done, keeps, whole)
                retried[number] = told
            writer.kill()
            number, told = check(home, champion, todo, writer.answers(), keeps=True, whole=True)
        done = writer.answers()
        assert number >= len(done)
        for place, again in retried.items():
            if place < len(done):
                compared += 1
                assert again == done[place], "the crash changed an answer"
    assert all(seen.get(kind) for kind in ("killed", "cut", "hole", "torn")), seen
    assert compared > 0


class Writer:
    """A process that does the steps one after the other, and notes its answers after each commit.

    It stands still except within `going_on`.
    """

    def __init__(self, home: Path, champion: Champion, todo: list[Step], fsync: bool) -> None:
        self.database, self._notes = home / "serving" / "serving.db", home / "answers"
        self._champion, self._todo, self._fsync = champion, todo, fsync
        home.mkdir()
        self._notes.touch()
        self._child = 0

    def __enter__(self) -> Writer:
        self._child = os.fork()
        if not self._child:
            try:
                self._work()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(1)
        until = time.monotonic() + 60
        while len(self.answers()) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
        self._stop()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _work(self) -> None:
        bench = Bench(self.database.parents[1], self._champion, fsync=self._fsync)
        bench.upkeep().start()
        with self._notes.open("ab", buffering=0) as notes:
            for step in self._todo:
                notes.write(json.dumps(do(bench, step)).encode() + b"\n")
        time.sleep(60)

    def kill(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            assert os.WIFSIGNALED(status), "it ended before it was killed"

    @contextmanager
    def going_on(self) -> Iterator[None]:
        os.kill(self._child, signal.SIGCONT)
        yield
        self._stop()

    def _stop(self) -> None:
        """All of its threads stand still, in the middle of whatever they do."""
        os.kill(self._child, signal.SIGSTOP)
        _, status = os.waitpid(self._child, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended before it was stopped"

    def copy(self, home: Path) -> bytes:
        """Its files as a kill would leave them; returns what SQLite holds in memory of its WAL."""
        folder = home / "serving"
        folder.mkdir(parents=True)
        for name in ("serving.db", "serving.db-wal"):
            shutil.copyfile(self.database.with_name(name), folder / name)
        return self.database.with_name("serving.db-shm").read_bytes()

    def answers(self) -> list[Told]:
        """What was answered for each step that was committed."""
        lines = self._notes.read_bytes().split(b"\n")[:-1]
        return [[tuple(one) for one in json.loads(line)] for line in lines]


def spoil(home: Path, index: bytes, rng: random.Random, fsync: bool) -> str:
    """Damage the copy as a power cut may; returns how.

    Before a checkpoint writes into the file, SQLite flushes the WAL. Only the frames after those that a
    checkpoint has begun with can be lost. With `fsync` only those of the commit that is not yet answered.
    """
    database = home / "serving" / "serving.db"
    wal = database.with_name("serving.db-wal")
    size = wal.stat().st_size
    # wal.c: WalIndexHdr.mxFrame and aSalt, WalCkptInfo.nBackfillAttempted.
    (committed,), salts = struct.unpack_from("=I", index, 16), index[32:40]
    (flushed,) = struct.unpack_from("=I", index, 128)
    how = rng.choice(["killed", "cut", "cut", "hole", "torn"])
    if how == "killed" or size < HEADER or wal.read_bytes()[16:24] != salts:
        return "killed"  # The WAL begins again at this moment: all of it is in the file, and flushed.
    if how == "torn":
        frames = range(flushed, committed)
        if not frames:
            return "killed"
        with wal.open("rb") as stream:
            stream.seek(HEADER + rng.choice(frames) * FRAME)
            (page,) = struct.unpack(">I", stream.read(4))
        with database.open("r+b") as stream:
            stream.seek((page - 1) * 4_096 + 512 * rng.randrange(1, 8))
            stream.write(rng.randbytes(512))
        return how
    kept = HEADER + (committed if fsync else flushed) * FRAME
    # Where nothing waits, or much, the newest frames matter, and those that are just being written.
    newest = HEADER + (committed + 3) * FRAME
    if size <= kept:
        return "killed"
    place = rng.randrange(kept, min(size, max(newest, kept + FRAME)))
    with wal.open("r+b") as stream:
        if how == "cut":
            stream.truncate(place)
        else:
            stream.seek(place)
            stream.write(rng.randbytes(min(512, size - place)))
    return how


def check(
    home: Path, champion: Champion, todo: list[Step], done: list[Told], keeps: bool, whole: bool
) -> tuple[int, Told]:
    """The service starts on what the crash left, which is the first steps and nothing of the others.

    Returns the number of the first step that is not there, and what it is answered now. `keeps`: nothing that
    was answered may be lost. `whole`: compare the state with a rebuild, too.
    """
    bench, plan = Bench(home, champion), champion.release.plan
    bench.store.hold(BEFORE, plan)
    assert bench.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = bench.connection.execute("SELECT prediction_id, fraud_score, decision FROM decisions").fetchall()
    logged = {row[0]: row for row in rows}
    labels = [one for (one,) in bench.connection.execute("SELECT transaction_id FROM labels")]
    number = ids = marked = 0
    while (ids, marked) != (len(logged), len(labels)):
        assert number < len(todo), "a step is half there"
        ids, marked = ids + len(todo[number].rows), marked + len(todo[number].labels)
        assert ids <= len(logged), "a step is half there"
        number += 1
    there = todo[:number]
    assert set(logged) == {one for step in there for one in step.ids}
    assert sorted(labels) == sorted(one for step in there for one in step.labels)
    if keeps:
        assert number >= len(done)
    for told in done[:number]:
        assert all(logged[one[0]] == one for one in told), "not as it was answered"
    told = do(bench, todo[number])
    assert told == do(bench, todo[number]), "sent again, answered the same"
    if number and todo[number - 1].rows:
        again = bench.predict(todo[number - 1].rows[-1])
        assert (again.repeated, again.score) == (True, logged[again.prediction_id][1])
    state, ids_there = bench.store.state, {one for step in todo[: number + 1] for one in step.ids}
    assert set(state.ids("transactions", 0, 2**62)) == ids_there
    assert {one.rsplit(":", 1)[0] for one in state.ids("verdicts", 0, 2**62)} == ids_there
    if whole:
        before = contents(state)
        with state_rebuild(bench.settings.database, BEFORE, plan) as rebuild:
            rebuild.replay(0, champion.maturity_us)
            rebuild.switch()
            assert contents(rebuild.serving()) == before
    bench.plane.close()
    return number, told


def contents(state: OnlineState) -> dict[str, object]:
    """The events of every stream, and the vectors of every pair of keys."""
    found: dict[str, object] = {}
    for stream in state.plan.streams:
        for one in state.ids(stream, 0, 2**62):
            found[f"{stream} {one}"] = state.find(stream, one)
    for at_us in (START_US + 3 * DAY_US, START_US + 31 * DAY_US + MINUTE_US):
        for number in range(CUSTOMERS * MERCHANTS):
            keys = {"customer_id": f"c{number % CUSTOMERS}", "merchant_id": f"m{number % MERCHANTS}"}
            found[f"{keys} {at_us}"] = state.aggregates(keys, at_us)
    return found
