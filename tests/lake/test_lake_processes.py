"""The lake under kills, rivals and full disks: whoever reads meanwhile or after gets the old content whole or
the new one whole.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disk_kit import may_mount, mounted
from lake_kit import DAY, ROWS, content, data_file, neighbours_are_untouched, three_days, version

from feature_repo.lake.datasets import Lake

# What the processes run. `content` is here as in the test, so that both know what a whole partition is.
HELPER = f"""
import os, random, resource, signal, sys
import pyarrow as pa
from feature_repo.lake.datasets import Lake
def content(n, rows={ROWS}):
    texts = [f"{{n}}-{{i}}" for i in range(rows)]
    return pa.table({{"version": pa.array([n] * rows, pa.int64()), "text": texts}})
lake, day = Lake(sys.argv[1]), "{DAY}"
"""
REWRITE = """
n = int(sys.argv[2])
lake.write("x", day, content(n))
print("ready", flush=True)
while True:
    n += 1
    lake.write("x", day, content(n))
    print(n, flush=True)
"""
# Dies right before the nth of: fsync and rename of the data file, fsync of its folder, fsync and rename of
# the manifest, fsync of its folder.
DIE_AT = """
left = int(sys.argv[2])
def counted(real):
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
lake.write("x", day, content(2))
"""
RIVAL = """
n = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    lake.write("x", day, content(n, rows=n))
"""
LIMITED = """
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
lake.write("x", day, content(2, rows=50_000))
"""
FULL = """
lake.write("x", day, content(1))
try:
    lake.write("x", day, pa.table({"noise": [os.urandom(1_000_000)]}))
except Exception as error:
    print(type(error).__name__, error)
files = os.listdir(os.path.join(sys.argv[1], "x", day))
print(lake.read("x", [day]).column("version").unique().to_pylist(), len(files))
lake.write("x", day, content(3))
print(lake.read("x", [day]).column("version").unique().to_pylist())
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return three_days(tmp_path / "lake")


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", HELPER + script, *map(str, arguments)]
    started = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


# kill -9


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_content_or_the_new_one_whole(lake: Lake) -> None:
    chance = random.Random(7)
    last = 1
    for _ in range(6):
        with process(REWRITE, lake.root, last) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.005, 0.25))
            writer.send_signal(signal.SIGKILL)
            written = [int(line) for line in writer.stdout.read().split()]
        told = written[-1] if written else last
        found = version(lake)
        assert found in (told, told + 1)  # what was told is there; the one after it may be, untold
        neighbours_are_untouched(lake)
        last = found
    assert last > 1


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 7))
def test_a_writer_killed_between_any_two_of_its_steps_leaves_one_of_the_two_contents(
    lake: Lake, step: int
) -> None:
    with process(DIE_AT, lake.root, step) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    assert version(lake) == (2 if step == 6 else 1), "the sixth step comes after the manifest has moved"
    neighbours_are_untouched(lake)
    assert len(list(data_file(lake).parent.iterdir())) > 2, "something was left behind, and nobody reads it"
    lake.write("x", DAY, content(3))
    assert version(lake) == 3


@pytest.mark.slow
def test_readers_beside_a_rewriting_writer_always_see_a_whole_content(lake: Lake) -> None:
    with process(REWRITE, lake.root, 1) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen: list[int] = []
        until = time.monotonic() + 30
        while len(seen) < 150 or (len(set(seen)) <= 5 and time.monotonic() < until):
            seen.append(version(lake))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "the writer did not come between the reads"


# Rivals


@pytest.mark.slow
def test_writers_of_one_partition_end_in_one_of_their_contents(lake: Lake) -> None:
    with process(RIVAL, lake.root, 40) as one, process(RIVAL, lake.root, 50) as other:
        for rival in (one, other):
            assert rival.stdout is not None
            assert rival.stdout.readline() == "ready\n"
        for rival in (one, other):
            assert rival.stdin is not None
            rival.stdin.write("go\n")
            rival.stdin.flush()
        seen = set()
        while one.poll() is None or other.poll() is None:
            table = lake.read("x", [DAY])
            n = table.column("version")[0].as_py()
            assert table.equals(content(n, rows=ROWS if n == 1 else n))
            seen.add(n)
        assert (one.returncode, other.returncode) == (0, 0)
    table = lake.read("x", [DAY])
    n = table.column("version")[0].as_py()
    assert n in (40, 50)
    assert table.equals(content(n, rows=n))
    assert seen <= {1, 40, 50}
    neighbours_are_untouched(lake)
    assert not [path for path in data_file(lake).parent.iterdir() if path.name.startswith(".")]


# Disks


@pytest.mark.fault(25)
def test_a_write_that_the_disk_refuses_names_the_place_and_leaves_the_old_content(lake: Lake) -> None:
    with process(LIMITED, lake.root) as writer:
        _, told = writer.communicate(timeout=60)
    assert writer.returncode == 1
    last = told.strip().splitlines()[-1]
    assert last.startswith("feature_repo.errors.LakeError: ")
    assert f"{lake.root}/x/{DAY}/" in last
    assert last.endswith("cannot be written (File too large)")
    assert version(lake) == 1
    neighbours_are_untouched(lake)
    assert not [path for path in data_file(lake).parent.iterdir() if path.name.startswith(".")]


if may_mount():

    @pytest.mark.fault(25)
    def test_a_full_disk_is_an_error_and_a_smaller_write_goes_through_afterwards(tmp_path: Path) -> None:
        words = [*mounted(tmp_path), sys.executable, "-c", HELPER + FULL, str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        error, old, new = done.stdout.splitlines()
        assert error.startswith(f"LakeError {tmp_path}/x/{DAY}/")
        assert error.endswith("cannot be written (No space left on device)")
        assert old == "[1] 2", "the old content, and nothing but its file and its manifest"
        assert new == "[3]"
