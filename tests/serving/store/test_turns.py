"""Two processes on one file write in turns."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from serving.store.base import StoreBusy
from serving.store.opening import serving_store
from serving.store.sqlite.turns import Turns

COMMIT_S = 0.006  # A group of 16 transactions.


def write_without_a_pause(file: Path, until_s: float, done: list[int]) -> None:
    """Commits, each as long as a full group. Counts those that were made, and those that found it busy."""
    with closing(serving_store(file, in_turns=True)) as store:
        while time.monotonic() < until_s:
            try:
                with store.one_commit():
                    time.sleep(COMMIT_S)
                done[0] += 1
            except StoreBusy:
                done[1] += 1


def test_two_that_write_without_a_pause_get_half_of_the_commits_each(tmp_path: Path) -> None:
    file = tmp_path / "serving.db"
    serving_store(file).close()
    counts = [[0, 0], [0, 0]]
    until_s = time.monotonic() + 1.5
    writers = [threading.Thread(target=write_without_a_pause, args=(file, until_s, done)) for done in counts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    commits = [made for made, _ in counts]
    assert sum(commits) > 20
    assert min(commits) >= 0.35 * sum(commits)
    assert sum(busy for _, busy in counts) <= 0.05 * sum(commits)


def test_a_turn_that_does_not_come_is_busy_and_one_that_ends_is_the_next_ones(tmp_path: Path) -> None:
    file = tmp_path / "serving.db"
    with closing(serving_store(file, in_turns=True)) as store:
        other = Turns(file)
        other.take()
        with pytest.raises(StoreBusy), store.one_commit():
            pass
        other.close()  # As where its process dies.
        with store.one_commit():
            Turns(file).take()  # The next one may wait for the write lock meanwhile.
