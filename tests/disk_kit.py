"""A small disk of its own for a process, which it can fill: a tmpfs in a mount namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def mounted(place: Path, size: str = "512k") -> list[str]:
    """The beginning of a command that runs with a disk of this size at a place."""
    words = (
        ["unshare", "--mount", "--propagation", "private"]
        if os.geteuid() == 0
        else ["unshare", "--mount", "--map-root-user"]
    )
    return [*words, "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"', str(place)]


@cache
def may_mount() -> bool:
    """Whether this process can have a disk of its own."""
    if shutil.which("unshare") is None:
        return False
    words = [*mounted(Path("/mnt")), "true"]
    try:
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def on_a_disk(
    place: Path, size: str | None, function: str, *arguments: object, timeout_s: float = 300
) -> str:
    """Call `module:function` of the tests with a folder on a small disk, in a process of its own.

    Without a size the folder is on the disk of all others. Returns what the function printed.
    `AssertionError` with its stderr where it failed; `subprocess.TimeoutExpired` after `timeout_s` seconds.
    """
    module, name = function.split(":")
    paths = [str(ROOT / "tests"), *(str(file.parent) for file in (ROOT / "tests").rglob(f"{module}.py"))]
    given = ", ".join(map(repr, arguments))
    script = (
        f"import sys; sys.path[:0] = {paths}; from pathlib import Path; from {module} import {name};"
        f" {name}(Path({str(place)!r}){', ' if given else ''}{given})"
    )
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*(mounted(place, size) if size else []), sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5_000:]
    return done.stdout


def fill(disk: Path) -> None:
    """Leave no byte free on a disk. What was freed since the last call is filled too."""
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """A full disk, which has room again at the end."""
    fill(disk)
    try:
        yield
    finally:
        (disk / "ballast").unlink()


def read_only(disk: Path, yes: bool) -> None:
    """Let nobody write on the disk, or let everybody write again."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(disk)], check=True)
