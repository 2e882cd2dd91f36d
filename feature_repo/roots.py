"""Where the state of a home is.

Only this module of feature_repo reads the environment. Feast expands `${MLOPS_HOME}` in its file, but knows
no defaults.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "${MLOPS_HOME}"
DEFAULT = "var"
# Feast's command line changes into the repo before it opens a store: a relative root counts from where the
# process was started.
STARTED_IN = Path.cwd()


def resolve(place: str) -> Path:
    """An absolute path from a setting that may still hold an unexpanded `${MLOPS_HOME}`, or be empty (which
    means the home itself).
    """
    home = os.environ.get("MLOPS_HOME") or DEFAULT
    if not place:
        place = home
    elif place.startswith("/feast/") and not os.environ.get("MLOPS_HOME"):
        place = home + place  # Feast expanded a variable that is set, but empty.
    return (STARTED_IN / Path(place.replace(VARIABLE, home)).expanduser()).absolute()


def lake_root(home: Path) -> str:
    """Where the lake of a home is, unless the configuration says otherwise."""
    return str(home / "lake")


def serving_db(home: Path) -> Path:
    """The file of the service's log and of the online state."""
    return home / "serving" / "serving.db"
