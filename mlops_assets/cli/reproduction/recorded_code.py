"""The code that a version was trained with, and a Python with the packages that it was trained with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlops_assets.errors import PlatformError
from mlops_assets.resources.provenance import Record, code_digest, git, lock_digest


class CannotReproduce(PlatformError):
    """The version cannot be rebuilt. The message says what is missing."""


@contextmanager
def checkout(record: Record, root: Path, place: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """The folder of the recorded code: a worktree of its commit, removed after the block.

    A dirty tree, or a folder without git, is no commit. The tree at `root` is then used, if its code has the
    recorded digest. `CannotReproduce` where neither exists.
    """
    commit, clean = record.code["git_commit"], record.code["git_dirty"] == "false"
    if not clean and code_digest(root) == record.code["code_digest"]:
        say(
            f"code: that of {root}, which has the recorded digest; no commit holds it, so that nobody else"
            " can rebuild this version"
        )
        yield root
        return
    if commit == "none":
        raise CannotReproduce(
            f"it was trained outside a git checkout, and the code in {root} is other code than its own"
        )
    if not git(root, "rev-parse", "--git-dir"):
        raise CannotReproduce(
            f"{root} is no git checkout (or git is missing): commit {commit} has to come from a clone of the"
            " project"
        )
    if not git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        raise CannotReproduce(
            f"the repository in {root} has no commit {commit}, from which it was trained; fetch it"
        )
    say(
        f"code: commit {commit[:12]}"
        + ("" if clean else ", whose tree was dirty: what was changed is not recorded")
    )
    here = ["git", "-C", str(root), "-c", f"core.hooksPath={os.devnull}", "worktree"]
    _run(
        [*here, "add", "--quiet", "--detach", str(place), commit], f"git makes no worktree of commit {commit}"
    )
    try:
        yield place
    finally:
        _run([*here, "remove", "--force", str(place)], f"git does not remove the worktree {place}")


def interpreter(code: Path, root: Path, place: Path, say: Callable[[str], None]) -> Path:
    """The Python for the recorded code.

    It is this Python where the lock file is the same. Otherwise it is the Python of a new environment at
    `place`, made from the recorded lock file.
    """
    if lock_digest(code) == lock_digest(root):
        say("environment: this one, as the lock file is the same")
        return Path(sys.executable)
    say(
        "environment: a new one, as the commit's requirements.lock is another; its packages come from the"
        " package registry, which takes minutes"
    )
    python, failed = (
        place / "bin" / "python",
        "no environment can be made from the commit's requirements.lock",
    )
    _run([sys.executable, "-m", "venv", str(place)], failed)
    _run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-c",
            str(code / "requirements.lock"),
            "-e",
            str(code),
        ],
        failed,
    )
    return python


def _run(command: Sequence[str], failed: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotReproduce(f"{failed}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CannotReproduce(f"{failed}: {said[-1] if said else 'it does not say why'}")
