"""Two questions to the model registry, answered from MLflow's database without MLflow.

Importing MLflow takes seconds. `mlops status` and `mlops history` only need the champion and the end of the
history. A test compares the answers with those of MLflow's own client.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import bring_up

SQLITE = "sqlite:///"
CHAMPION = "champion"  # The alias of the version that serves
HEAD_TAG = "history"  # The registered model's tag with the end of the history


class RegistryError(PlatformError):
    """The registry has no such version, or what it holds cannot be used."""


@dataclass(frozen=True)
class Version:
    """One registered version: its number in MLflow, the run that made it, and the tags that decisions rest
    on.
    """

    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def as_of(self) -> str:
        """The as-of day that the version was trained for, as an ISO date."""
        return self.tags["as_of"]


def champion_on_record(settings: Settings) -> Version | None:
    """The champion; None before the first promotion. The database has to exist."""
    model = settings.use_case
    found = _rows(
        settings,
        "SELECT version, run_id FROM registered_model_aliases JOIN model_versions USING (name, version)"
        " WHERE name = ? AND alias = ?",
        (model, CHAMPION),
    )
    if not found:
        return None
    ((number, run_id),) = found
    tags = _rows(
        settings, "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", (model, number)
    )
    return Version(str(number), str(run_id), {str(key): str(value) for key, value in tags})


def head_on_record(settings: Settings) -> str | None:
    """The end of the history as MLflow knows it, as JSON; None before the first decision."""
    found = _rows(
        settings,
        "SELECT value FROM registered_model_tags WHERE name = ? AND key = ?",
        (settings.use_case, HEAD_TAG),
    )
    return str(found[0][0]) if found else None


def _rows(settings: Settings, query: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    """The rows of one query. `RegistryError` for a damaged database."""
    bring_up(settings.home)
    database = Path(settings.tracking_uri.removeprefix(SQLITE))
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.DatabaseError as error:
        raise RegistryError(f"{settings.tracking_uri} cannot be used ({error})") from error
