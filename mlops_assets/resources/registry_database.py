"""MLflow's database: its client, and how a home gets one."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mlops_assets.resources.home import (
    bring_up,
    has_content,
    is_absolute,
    make_relative,
    preparing,
    write_layout,
)
from mlops_assets.resources.registry_records import SQLITE, RegistryError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class RegistryDatabase:
    """MLflow at `tracking_uri`. Its artifacts lie under `artifact_root`, in a home's folder `mlflow`."""

    tracking_uri: str
    artifact_root: str

    @property
    def home(self) -> Path:
        """The home of the registry."""
        return Path(self.artifact_root).parents[1]

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where a server holds the database."""
        return Path(self.tracking_uri.removeprefix(SQLITE)) if self.tracking_uri.startswith(SQLITE) else None

    @property
    def exists(self) -> bool:
        """Whether the registry has a database. The database of a server always exists."""
        return self.file is None or has_content(self.file)

    def client(self) -> Any:
        """MLflow's own client. The database is made where it does not exist.

        `RegistryError` where the database cannot be used.
        """
        mlflow = mlflow_library()
        from sqlalchemy.exc import DatabaseError

        try:
            if self.file is not None:
                bring_up(self.home)
                if not self.exists:
                    self._make(self.file)
            if mlflow.get_tracking_uri() != self.tracking_uri:
                from mlflow.tracking._tracking_service import utils

                # MLflow keeps the repositories by run. In a copy of a home it would use the old ones.
                utils._artifact_repos_cache.clear()
            mlflow.set_tracking_uri(self.tracking_uri)
            return mlflow.MlflowClient(self.tracking_uri)
        except DatabaseError as error:
            raise RegistryError(f"{self.tracking_uri} cannot be used ({error.orig})") from error

    def make_experiment(self, name: str) -> None:
        """Make the experiment of this name where it does not exist.

        MLflow makes every given place absolute, so the place is made relative at once.
        """
        client = self.client()
        found = client.get_experiment_by_name(name)
        if found is not None and not (self.file and is_absolute(found.artifact_location)):
            return
        with preparing(self.home):
            if client.get_experiment_by_name(name) is None:
                client.create_experiment(name, artifact_location=Path(self.artifact_root).as_uri())
            if self.file is not None:
                make_relative(self.file)

    def _make(self, database: Path) -> None:
        """Make the database under another name, and move it to its place when it is whole.

        A half-made database could never be finished.
        """
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with preparing(self.home):
            if self.exists:
                return
            database.parent.mkdir(parents=True, exist_ok=True)
            for left in database.parent.glob(f".{database.name}.*"):
                left.unlink()  # The file of a process that was killed at this point
            temporary = database.with_name(f".{database.name}.{os.getpid()}")
            cast(Any, SqlAlchemyStore)(f"{SQLITE}{temporary}", self.artifact_root).engine.dispose()
            make_relative(temporary)
            temporary.replace(database)
            write_layout(self.home)


def mlflow_library() -> Any:
    """MLflow, imported with settings under which it sends no telemetry and prints no bookkeeping.

    MLflow reads these settings when it is first imported.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # SQLAlchemy warns of MLflow's own store.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    import mlflow
    from mlflow.store.artifact import artifact_repository_registry
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def beside_the_database(
        artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> Any:
        """A relative place counts from the database's folder. MLflow counts it from the working directory."""
        database = tracking_uri or mlflow.get_tracking_uri()
        place = (
            Path(database.removeprefix(SQLITE)).parent / artifact_uri
            if database.startswith(SQLITE)
            else artifact_uri
        )
        return LocalArtifactRepository(str(place), tracking_uri, registry_uri)

    cast(Any, artifact_repository_registry)._artifact_repository_registry.register("", beside_the_database)
    return mlflow
