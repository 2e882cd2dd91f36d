"""What a version was made from: code, configuration, versions of libraries, and the digests of every day.

`mlops reproduce` makes a version again from this record.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import FEATURE_VECTORS, PREDICTION_LOG, VERDICTS
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from serving.contract.subject import Subject

ROOT = Path(__file__).parents[2]
PACKAGES = ("feature_repo", "mlops_assets", "serving")
RECORD = "provenance.json"  # An artifact of the version's run
RECORD_DIGEST = "provenance_digest"  # The tag that holds its digest
CONFIGURATION = "config.toml"
FORMAT = 1
# Digests may depend on the versions of these packages.
COMPUTING = ("lightgbm", "optuna", "numpy", "pandas", "pyarrow", "duckdb", "scikit-learn", "pandera", "feast")

Days = Mapping[str, Sequence[str]]  # Day -> SHA-256 of its files


class RecordError(PlatformError):
    """A record cannot be read. The message names the record and the reason."""


def ingested(subject: Subject) -> tuple[str, ...]:
    """The datasets that exist before any feature, from cause to effect."""
    streams = (subject.event.dataset, subject.labels.dataset, *(feed.name for feed in subject.feeds))
    return (PREDICTION_LOG, *(f"raw_{name}" for name in streams), *streams, VERDICTS)


def provenance(settings: Settings, root: Path = ROOT) -> dict[str, str]:
    """The facts of code and configuration that every trained version records, by the name of their tag.

    The commit is `none` where `root` is no git checkout, or lies within the checkout of something else.
    """
    own = git(root, "rev-parse", "--show-toplevel")
    commit = git(root, "rev-parse", "HEAD") if own and Path(own).resolve() == root.resolve() else ""
    status = git(root, "status", "--porcelain") if commit else ""
    return {
        "git_commit": commit or "none",
        "git_dirty": "unknown" if not commit else str(bool(status)).lower(),
        "code_digest": code_digest(root),
        "config_digest": settings.digest,
        "lock_digest": lock_digest(root),
        **_of_case(settings.case_folder),
    }


def _of_case(folder: Path | None) -> dict[str, str]:
    """The commit of the repository that holds the use case; nothing for one of the platform's own.

    The use case is dirty where git sees a change in its folder, or a Python file that git does not track.
    """
    if folder is None or folder.is_relative_to(ROOT / "mlops_assets"):
        return {}
    commit = git(folder, "rev-parse", "HEAD")
    changed = git(folder, "status", "--porcelain", "--", ".", ":(exclude)*__pycache__*") if commit else ""
    untracked = git(folder, "ls-files", "--others", "--", "*.py") if commit else ""
    return {
        "use_case_commit": commit or "none",
        "use_case_dirty": str(bool(changed or untracked)).lower() if commit else "unknown",
    }


def unreproducible(tags: Mapping[str, str]) -> str | None:
    """Why nobody else could make the version with these tags again; None where they could.

    The code of the version has to be one commit and nothing else. The use case has to be one commit as well,
    where it has a repository of its own.
    """
    why = _no_commit("its code", tags.get("git_commit", "none"), tags.get("git_dirty"))
    if why is None and "use_case_commit" in tags:
        why = _no_commit("its use case", tags["use_case_commit"], tags.get("use_case_dirty"))
    return why


def _no_commit(what: str, commit: str, dirty: str | None) -> str | None:
    if commit == "none":
        return (
            f"nobody can rebuild it: {what} was outside a git checkout when it was trained, so that no commit"
            f" holds {what}"
        )
    if dirty != "false":
        return (
            f"nobody can rebuild it: the tree of commit {commit[:12]} was dirty when it was trained, and what"
            f" was changed there in {what} is not recorded"
        )
    return None


@dataclass(frozen=True)
class Record:
    """Everything that a version was made from, and the digests of the result.

    The record holds no time, and a place only where it is needed. The same inputs give the same text.

    `code` is the result of `provenance`. `config` is the text of the configuration. `config_base` is the
    folder where its relative paths start: relative within the checkout, absolute elsewhere, empty without a
    configuration. `runtime` names the version of Python, the kind of machine and the versions of COMPUTING.
    `recipe` includes the seeds, the calendar of the folds and the number of rounds that was found.
    `partitions` is dataset -> day -> digests, from cause to effect. `unvalidated` is dataset -> days whose
    checks had not passed. `models` is the SHA-256 of the text of the fit `evaluation` and of the fit
    `release`.
    """

    use_case: str
    as_of: str
    code: Mapping[str, str]
    config: str
    config_base: str
    runtime: Mapping[str, str]
    feature_service: str
    plan_digest: str
    recipe: Mapping[str, Any]
    partitions: Mapping[str, Days]
    unvalidated: Mapping[str, Sequence[str]]
    training_set: str
    models: Mapping[str, str]
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        """The text of `provenance.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Record:
        """The record in a text. `RecordError` names `where` if the text is no record."""
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise RecordError(f"{where}: has format {values['format']}, this platform knows {FORMAT}")
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{where}: is no record of a version ({error})") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def inputs(
    lake: Lake, came_in: Sequence[str], as_of: str, first: str, views: Sequence[str]
) -> tuple[dict[str, Days], dict[str, list[str]]]:
    """The content of the lake before `as_of`: dataset -> day -> digests of its files, and the unsound days.

    `came_in` is the result of `ingested`. Every day of these datasets counts, because ids are compared with
    all earlier days. The features count from the day `first` on, which is the first day of training. A day is
    unsound where its checks had not passed.
    """
    days: dict[str, Days] = {}
    unvalidated: dict[str, list[str]] = {}
    for dataset in (*came_in, *views, FEATURE_VECTORS):
        made = [
            day for day in lake.between(dataset, "" if dataset in came_in else first, as_of) if day < as_of
        ]
        manifests = [m for m in in_order(partial(lake.manifest, dataset), made) if m is not None]
        # A day on which nothing was served has an empty log or no log. Both mean the same.
        days[dataset] = {
            m.partition: [file.sha256 for file in m.files]
            for m in manifests
            if m.rows or dataset != PREDICTION_LOG
        }
        if not dataset.startswith("raw_") and (
            unsound := [m.partition for m in manifests if not m.validated]
        ):
            unvalidated[dataset] = unsound
    return days, unvalidated


def base_folder(settings: Settings, root: Path = ROOT) -> str:
    """The folder where relative paths of the configuration start, as `Record.config_base` holds it."""
    if settings.config_file is None:
        return ""
    base = settings.base.resolve()
    return base.relative_to(root.resolve()).as_posix() if base.is_relative_to(root.resolve()) else str(base)


def runtime() -> dict[str, str]:
    """The versions and the machine on which digests may depend."""
    versions = {name: importlib.metadata.version(name) for name in COMPUTING}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **versions,
    }


def lock_digest(root: Path = ROOT) -> str:
    """SHA-256 of the lock file under `root`; `none` where there is none."""
    lock = root / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none"


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 over the paths and contents of the packages' source files under `root`. It needs no git."""
    files = sorted(
        path.relative_to(root).as_posix() for package in PACKAGES for path in (root / package).rglob("*.py")
    )
    lines = [f"{name} {hashlib.sha256((root / name).read_bytes()).hexdigest()}" for name in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def git(root: Path, *words: str) -> str:
    """The output of git. Empty where git is missing, finds no repository or does not trust its owner."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
