"""What a model was made from: the code and its commit, whether the tree was dirty, the configuration, the
versions that computed it, and every day of input by its digests.

Put together it is the record that `mlops reproduce` makes the version again from.
"""

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
from mlops_assets.core.keys import (
    FEATURE_VECTORS,
    LABELS,
    PREDICTION_LOG,
    RAW_LABELS,
    RAW_TRANSACTIONS,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("feature_repo", "mlops_assets", "serving")
RECORD, RECORD_DIGEST = (
    "provenance.json",
    "provenance_digest",
)  # the artifact of a version's run, and the tag that holds its digest
CONFIGURATION = "config.toml"
FORMAT = 1
# A digest may hang on each of their versions.
COMPUTING = ("lightgbm", "optuna", "numpy", "pandas", "pyarrow", "duckdb", "scikit-learn", "pandera", "feast")
INGESTED = (
    PREDICTION_LOG,
    RAW_TRANSACTIONS,
    RAW_LABELS,
    TRANSACTIONS,
    LABELS,
    VERDICTS,
)  # from cause to effect; views and vectors come after them

Days = Mapping[str, Sequence[str]]  # day -> SHA-256 of its files


class RecordError(PlatformError):
    """A record cannot be read; the message says which and why."""


def provenance(settings: Settings, root: Path = ROOT) -> dict[str, str]:
    """Facts to record with every trained version; a `root` that is no git checkout, or lies within that of
    something else, has the commit `none`.
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
    }


def unreproducible(tags: Mapping[str, str]) -> str | None:
    """Why nobody else could make the version with these tags again, or None: its code has to be a commit, and
    nothing but that commit.
    """
    if (commit := tags.get("git_commit", "none")) == "none":
        return (
            "nobody can rebuild it: it was trained outside a git checkout, so that there is no commit of its"
            " code"
        )
    if tags.get("git_dirty") != "false":
        return (
            f"nobody can rebuild it: the tree of commit {commit[:12]} was dirty when it was trained, and what"
            " was changed there is not recorded"
        )
    return None


@dataclass(frozen=True)
class Record:
    """All that a version was made from, and the digests of what came of it.

    No clock and no name of a place that is not needed: made again from the same, it is the same text.
    """

    use_case: str
    as_of: str
    code: Mapping[str, str]  # see `provenance`
    config: str  # the configuration's own text
    # where its relative paths start: within the checkout relative to it, elsewhere absolute; empty without a
    # configuration
    config_base: str
    runtime: Mapping[str, str]  # version of Python, kind of machine, versions of COMPUTING
    feature_service: str
    plan_digest: str
    recipe: Mapping[
        str, Any
    ]  # with the seeds, the calendar of the folds and the number of rounds that was found
    partitions: Mapping[str, Days]  # dataset -> day, in the order in which one is made of the others
    unvalidated: Mapping[str, Sequence[str]]  # dataset -> the days whose checks had not passed
    training_set: str
    models: Mapping[str, str]  # "evaluation" and "release" -> SHA-256 of LightGBM's text
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Record":
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise RecordError(f"{where}: has format {values['format']}, this platform knows {FORMAT}")
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{where}: is no record of a version ({error})") from error

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def inputs(
    lake: Lake, as_of: str, first: str, views: Sequence[str]
) -> tuple[dict[str, Days], dict[str, list[str]]]:
    """What lay in the lake before `as_of`: dataset -> day -> digests of its files, and the days that had not
    passed validation.

    Of what came in every day counts, since ids are compared with all days before; of the features those from
    `first` on, which are trained on.
    """
    days: dict[str, Days] = {}
    unvalidated: dict[str, list[str]] = {}
    for dataset in (*INGESTED, *views, FEATURE_VECTORS):
        made = [
            day for day in lake.between(dataset, "" if dataset in INGESTED else first, as_of) if day < as_of
        ]
        manifests = [m for m in in_order(partial(lake.manifest, dataset), made) if m is not None]
        # A day on which nothing was served has a log without rows, or none: that is the same.
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
    """Where relative paths of the configuration start, as a record keeps it."""
    if settings.config_file is None:
        return ""
    base = settings.base.resolve()
    return base.relative_to(root.resolve()).as_posix() if base.is_relative_to(root.resolve()) else str(base)


def runtime() -> dict[str, str]:
    """What computes, as far as a digest may hang on it."""
    versions = {name: importlib.metadata.version(name) for name in COMPUTING}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **versions,
    }


def lock_digest(root: Path = ROOT) -> str:
    lock = root / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none"


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 over the source files of the packages under `root`, by path: the same code has the same digest,
    with git or without.
    """
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
