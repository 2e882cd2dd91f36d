"""What a model was made from: the commit, whether the tree was dirty, and digests of the configuration and of the lock file."""

import hashlib
import subprocess
from pathlib import Path

from mlops_assets.resources.environments import Settings

ROOT = Path(__file__).parents[2]


def provenance(settings: Settings) -> dict[str, str]:
    """Facts to record with every trained version; a tree that is no git checkout says `none`."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain") if commit else ""
    lock = ROOT / "requirements.lock"
    return {
        "git_commit": commit or "none",
        "git_dirty": "unknown" if not commit else str(bool(status)).lower(),
        "config_digest": settings.digest,
        "lock_digest": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none",
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
