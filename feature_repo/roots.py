"""The places of the state of a home.

Only this module of feature_repo reads the environment. Feast expands `${MLOPS_HOME}` in its file, but has no
default for it.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "${MLOPS_HOME}"
DEFAULT = "var"
# A relative root counts from the folder where the process was started. Feast's command line changes into
# the repo before it opens a store.
STARTED_IN = Path.cwd()


def resolve(place: str) -> Path:
    """The absolute path of a setting.

    The setting may still hold an unexpanded `${MLOPS_HOME}`. An empty setting means the home.
    """
    home = os.environ.get("MLOPS_HOME") or DEFAULT
    if not place:
        place = home
    elif place.startswith("/feast/") and not os.environ.get("MLOPS_HOME"):
        place = home + place  # Feast expanded a variable that is set and empty.
    return (STARTED_IN / Path(place.replace(VARIABLE, home)).expanduser()).absolute()


def lake_root(home: Path) -> str:
    """The place of a home's lake, where the configuration gives no other."""
    return str(home / "lake")


def serving_db(home: Path) -> Path:
    """The file of the service's log and of the online state."""
    return home / "serving" / "serving.db"
