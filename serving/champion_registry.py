"""The registry that the service follows, read-only: which version is the champion, and where its bundle is.

MLflow is imported when the registry is first asked. A registry that does not exist yet is waited for, never
created.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from serving.errors import ServingError

ALIAS = "champion"
BUNDLE = "bundle"  # the artifact directory of the version's run
DIGEST_TAG = "bundle_digest"
SQLITE = "sqlite:///"
ALIASED = """SELECT a.version, v.run_id, t.value FROM registered_model_aliases a
LEFT JOIN model_versions v ON v.name = a.name AND v.version = a.version
LEFT JOIN model_version_tags t ON t.name = a.name AND t.version = a.version AND t.key = ?
WHERE a.name = ? AND a.alias = ?"""

Aliased = list[tuple[int, str | None, str | None]]  # Version, run, digest. Several workspaces have one each.

# MLflow reads this variable when MLflow is imported. MLflow's other switch, DO_NOT_TRACK, does not know the
# usual "1".
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class RegistryDown(ServingError):
    """The registry cannot be asked just now, or does not exist yet."""


@dataclass(frozen=True)
class Named:
    """A version of the registered model, as the registry names it."""

    version: str
    run_id: str
    digest: str


class Registry(Protocol):
    """What the follower asks of a model registry."""

    def champion(self) -> Named | None:
        """The version that the alias names; None where the alias names none.

        `RegistryDown` where the registry cannot be asked.
        """

    def download(self, named: Named, into: Path) -> Path:
        """Fetch the version's bundle below `into`; returns the bundle's directory.

        `RegistryDown` where the bundle cannot be fetched.
        """


class MlflowRegistry:
    """The registry in MLflow, read-only."""

    def __init__(self, uri: str, model: str) -> None:
        self._uri, self._model = uri, model
        self._client: Any = None
        # What an SQLite registry said of the champion, and the client's answer to it.
        self._seen: tuple[Aliased, Named] | None = None

    def champion(self) -> Named | None:
        """By the alias `champion`."""
        aliased: Aliased | None = None
        if self._uri.startswith(SQLITE):
            # The database is asked first, because the client would make an empty registry where one was
            # moved away. Besides, the client computes for some ms, and requests would wait for it.
            aliased = _aliased(Path(self._uri.removeprefix(SQLITE)), self._model)
            if not aliased:
                return None
            if self._seen is not None and self._seen[0] == aliased:
                return self._seen[1]
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            version = client.get_model_version_by_alias(self._model, ALIAS)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RegistryDown(_one_line(error)) from error
        except Exception as error:
            raise RegistryDown(_one_line(error)) from error
        named = Named(str(version.version), version.run_id or "", version.tags.get(DIGEST_TAG, ""))
        # The registry may have changed between the two questions.
        same = aliased == [(int(named.version), named.run_id, named.digest)]
        self._seen = (aliased, named) if aliased and same else None
        return named

    def download(self, named: Named, into: Path) -> Path:
        """From the artifacts of the version's run."""
        from mlflow.artifacts import download_artifacts

        try:
            place = f"{self._client.get_run(named.run_id).info.artifact_uri}/{BUNDLE}"
            if self._uri.startswith(SQLITE) and not urlparse(place).scheme:
                # A relative place is relative to the database, wherever the home is.
                place = str(Path(self._uri.removeprefix(SQLITE)).parent / place)
            return Path(download_artifacts(artifact_uri=place, dst_path=str(into), tracking_uri=self._uri))
        except Exception as error:
            raise RegistryDown(
                f"version {named.version}: its bundle cannot be fetched ({_one_line(error)})"
            ) from error

    def _connect(self) -> Any:
        if self._client is None:
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            try:
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            except Exception as error:
                raise RegistryDown(_one_line(error)) from error
        return self._client


def _aliased(database: Path, model: str) -> Aliased:
    """The version that an SQLite registry names champion, with its run and its digest.

    The database is only read. MLflow's own client would create or migrate it.
    """
    if not database.exists():
        return []
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            return connection.execute(ALIASED, (DIGEST_TAG, model, ALIAS)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise RegistryDown(_one_line(error)) from error
    except sqlite3.DatabaseError as error:
        raise RegistryDown(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
