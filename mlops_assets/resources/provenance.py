"""What a model was made from: the code and its commit, whether the tree was dirty, and digests of the configuration and of the lock file."""

import hashlib
import subprocess
from pathlib import Path

from mlops_assets.resources.environments import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("feature_repo", "mlops_assets", "serving")


def provenance(settings: Settings, root: Path = ROOT) -> dict[str, str]:
    """Facts to record with every trained version; a `root` that is no git checkout, or lies within that of something else, has the commit `none`."""
    own = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD") if own and Path(own).resolve() == root.resolve() else ""
    status = _git(root, "status", "--porcelain") if commit else ""
    lock = root / "requirements.lock"
    return {
        "git_commit": commit or "none",
        "git_dirty": "unknown" if not commit else str(bool(status)).lower(),
        "code_digest": code_digest(root),
        "config_digest": settings.digest,
        "lock_digest": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none",
    }


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 over the source files of the packages under `root`, by path: the same code has the same digest, with git or without."""
    files = sorted(path.relative_to(root).as_posix() for package in PACKAGES for path in (root / package).rglob("*.py"))
    lines = [f"{name} {hashlib.sha256((root / name).read_bytes()).hexdigest()}" for name in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _git(root: Path, *words: str) -> str:
    """What git says, or nothing: where it is missing, finds no repository, or does not trust the owner of it."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
