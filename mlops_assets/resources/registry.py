"""The model registry: MLflow runs tied to Dagster runs, exact versions, and the alias that says which one is
the champion.

MLflow keeps a global tracking address and an active run; both are touched in this module alone.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
from dagster import ConfigurableResource

from mlops_assets.core.judging.model_card import shortened
from mlops_assets.errors import PlatformError, is_interrupted, told
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import (
    ARTIFACTS,
    bring_up,
    has_content,
    is_absolute,
    local_place,
    make_relative,
    preparing,
    write_layout,
)
from mlops_assets.resources.processes import HOST, PID, is_gone, process_tags
from mlops_assets.resources.provenance import RECORD, RECORD_DIGEST, Record
from serving.contract.bundle import Release, load_reference, load_release, verify_digests

SQLITE = "sqlite:///"
CHAMPION, PREVIOUS = "champion", "previous"
BUNDLE, EVALUATION_FIT, EVALUATION_TAG = "bundle", "evaluation_fit", "evaluation"
EVALUATION, CARD = (
    "evaluation",
    "card/README.md",
)  # artifacts of a version's run; the card has the name that Hugging Face gives it
DESCRIPTION = 5_000  # characters of a version's description that MLflow keeps on any of its databases
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
LONGEST_TRAINING = timedelta(days=1)  # what Dagster, too, ends a launched run after
# characters of a data set's digest that MLflow keeps; the tag training_set_digest has them all
DATASET_DIGEST = 36


class RegistryError(PlatformError):
    """The registry has no such version, or what it holds cannot be used."""


@dataclass(frozen=True)
class Version:
    """One registered version: `version` is MLflow's number, `run_id` the run that made it, `tags` the facts
    that decisions rest on.
    """

    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def as_of(self) -> str:
        return self.tags["as_of"]


class ModelRegistry(ConfigurableResource[Any]):
    """MLflow at `tracking_uri`; versions of the model `name`, whose artifacts lie under `artifact_root`."""

    tracking_uri: str
    artifact_root: str
    name: str

    @contextmanager
    def training_run(
        self, name: str, run_id: str, log: Any, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> Iterator[Any]:
        """The MLflow run of the Dagster run `run_id`, by dagster-mlflow.

        However it was launched, it ends FINISHED, or FAILED if the body raises.

        dagster-mlflow's own hook runs only in jobs, and not in a materialization from the UI or the command
        line. A process that is killed leaves its run RUNNING: the next training ends it.
        """
        self.end_orphans(datetime.now(UTC))
        self._experiment()
        tracking = _mlflow()
        from dagster_mlflow.resources import MlFlow

        config = {
            "mlflow_tracking_uri": self.tracking_uri,
            "experiment_name": self.name,
            "extra_tags": {**tags, **process_tags(run_id)},
        }
        context = SimpleNamespace(
            log=log, dagster_run=SimpleNamespace(job_name=name), run_id=run_id, resource_config=config
        )
        try:
            mlflow: Any = cast(Any, MlFlow)(context)
            mlflow.log_params({key: str(value)[:500] for key, value in params.items()})
            yield mlflow
        except BaseException as error:
            if tracking.active_run() is not None:  # with none, a tag would start one
                with suppress(Exception):  # what stopped the training is what has to be told
                    tracking.set_tag("error", "interrupted" if is_interrupted(error) else told(error)[:500])
                with suppress(Exception):
                    tracking.end_run(status="FAILED")
            raise
        mlflow.end_run(status="FINISHED")

    def end_orphans(self, now: datetime) -> list[str]:
        """End as FAILED every run whose process on this host is gone, and any that has run for a day,
        wherever; returns their ids.
        """
        if self._database is not None and not has_content(self._database):
            return []
        client = self.client()
        experiment = client.get_experiment_by_name(self.name)
        ended = []
        for run in (
            client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
            if experiment
            else ()
        ):
            tags, began = run.data.tags, datetime.fromtimestamp(run.info.start_time / 1000, UTC)
            if is_gone(tags.get("dagster_run_id", ""), tags):
                why = f"process {tags[PID]} on {tags[HOST]}, which trained this, is gone"
            elif now - began > LONGEST_TRAINING:
                why = f"it began at {began:%Y-%m-%d %H:%M} UTC and did not end within a day"
            else:
                continue
            client.set_tag(run.info.run_id, "error", why)
            client.set_terminated(run.info.run_id, "FAILED")
            ended.append(run.info.run_id)
        return ended

    def log_training_set(self, name: str, digest: str, place: str) -> None:
        """Name the data of the active run: which set, the beginning of its digest, and the file in the lake.

        The file is named relative to the home where the lake is in it.
        """
        tracking = _mlflow()
        place = place.removeprefix(f"{self._home}/")
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The specified dataset source can be interpreted"
            )  # a path is one of many things to MLflow
            source = resolve_dataset_source(place)
        data = MetaDataset(source, name=name, digest=digest[:DATASET_DIGEST])  # type: ignore[abstract]
        tracking.log_input(data, context="training")

    def register(
        self,
        mlflow: Any,
        booster_text: str,
        bundle: Path,
        evaluation_fit: Path,
        tags: Mapping[str, str],
        example: Any,
    ) -> Version:
        """Log the bundle and the LightGBM model of the active run, and register them as one exact version."""
        import lightgbm

        _mlflow()
        from mlflow.models import infer_signature

        run_id = mlflow.active_run().info.run_id
        mlflow.log_artifacts(str(bundle), artifact_path=BUNDLE)
        mlflow.log_artifacts(str(evaluation_fit), artifact_path=EVALUATION_FIT)
        booster = lightgbm.Booster(model_str=booster_text)
        signature = infer_signature(example, booster.predict(example))
        requirements = [f"lightgbm=={lightgbm.__version__}"]  # inferring them takes MLflow ten seconds
        info = mlflow.lightgbm.log_model(
            booster, name="model", signature=signature, pip_requirements=requirements
        )
        client = self.client()
        if not client.search_registered_models(f"name='{self.name}'"):
            client.create_registered_model(self.name)
        made = client.create_model_version(self.name, source=info.model_uri, run_id=run_id, tags=dict(tags))
        return Version(str(made.version), run_id, dict(tags))

    def log_evaluation(
        self, version: Version, metrics: Mapping[str, float], verdict: Mapping[str, object]
    ) -> None:
        """Write the evaluation beside the training metrics of the version's run, and the verdict, with the
        bundle that it is on, on the version.
        """
        client = self.client()
        for name, value in metrics.items():
            client.log_metric(version.run_id, name, value)
        exact = {**verdict, "version": version.version, digest_tag(BUNDLE): version.tags[digest_tag(BUNDLE)]}
        client.set_model_version_tag(
            self.name, version.version, EVALUATION_TAG, json.dumps(exact, sort_keys=True)
        )

    def log_report(self, version: Version, files: Mapping[str, bytes], card: str) -> None:
        """Lay the files of an evaluation, by name, and the model card beside the version's model; what fits
        of the card describes the version.
        """
        client = self.client()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            client.log_artifacts(version.run_id, folder, artifact_path=EVALUATION)
        client.log_text(version.run_id, card, CARD)
        described = shortened(card, DESCRIPTION, f"The whole card is the artifact `{CARD}` of the run.")
        client.update_model_version(self.name, version.version, description=described)

    def version(self, number: str) -> Version:
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            return _version(client.get_model_version(self.name, str(number)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise RegistryError(f"the model {self.name!r} has no version {number}") from None

    def champion(self) -> Version | None:
        """The version that the alias names, or None before the first promotion.

        The alias is moved in `lifecycle.py` alone.
        """
        return self._by_alias(CHAMPION)

    def release(self, version: Version) -> Release:
        """The verified release bundle of a version.

        One that is not the one which was registered is `RegistryError`.
        """
        return load_release(self._verified(version, BUNDLE))

    def reference(self, version: Version, kind: str = BUNDLE) -> pa.Table:
        """The rows that drift of this version is measured against; with EVALUATION_FIT those of its holdout."""
        return load_reference(self._verified(version, kind))

    def evaluation_fit(self, version: Version) -> Release:
        """The same recipe trained up to the holdout of that version only."""
        return load_release(self._verified(version, EVALUATION_FIT))

    def record(self, version: Version) -> Record:
        """What the version was made from. One that is not the one which was recorded is `RegistryError`."""
        if (recorded := version.tags.get(RECORD_DIGEST)) is None:
            raise RegistryError(
                f"version {version.version}: what it was made from is not recorded; it was trained before"
                " that was kept"
            )
        try:
            text = self._artifacts(version, RECORD).read_text(encoding="utf-8")
        except OSError as error:
            raise RegistryError(
                f"version {version.version}: its {RECORD} cannot be read ({error.strerror}: {error.filename})"
            ) from error
        record = Record.from_json(text, f"version {version.version}: {RECORD}")
        if record.digest != recorded:
            raise RegistryError(
                f"version {version.version}: its {RECORD} has the digest {record.digest}, recorded is"
                f" {recorded}"
            )
        return record

    def _verified(self, version: Version, kind: str) -> Path:
        """The bundle, whole and the same that the version's tag names."""
        found, recorded = (
            verify_digests(directory := self._artifacts(version, kind)),
            version.tags.get(digest_tag(kind)),
        )
        if found != recorded:
            raise RegistryError(
                f"version {version.version}: its {kind} has the digest {found}, recorded is"
                f" {recorded or 'none'}"
            )
        return directory

    def _artifacts(self, version: Version, kind: str) -> Path:
        """Where a version's artifact lies on this machine; from a remote store it is fetched once."""
        mlflow = _mlflow()
        if (
            place := local_place(
                Path(self.artifact_root).parent, self.client().get_run(version.run_id).info.artifact_uri
            )
        ) is not None:
            return place / kind
        cache = Path(self.artifact_root).parent / "cache" / version.run_id
        if not (cache / kind).exists():
            mlflow.artifacts.download_artifacts(
                f"runs:/{version.run_id}/{kind}", dst_path=str(cache), tracking_uri=self.tracking_uri
            )
        return cache / kind

    def _by_alias(self, alias: str) -> Version | None:
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            return _version(client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def client(self) -> Any:
        """MLflow's own client, on this registry, whose database is made if it is not there."""
        mlflow = _mlflow()
        from sqlalchemy.exc import DatabaseError

        try:
            if (database := self._database) is not None:
                bring_up(self._home)
                if not has_content(database):
                    self._make(database)
            if mlflow.get_tracking_uri() != self.tracking_uri:
                from mlflow.tracking._tracking_service import utils

                # by run: of a copy of a home MLflow would go on with the original's
                utils._artifact_repos_cache.clear()
            mlflow.set_tracking_uri(self.tracking_uri)
            return mlflow.MlflowClient(self.tracking_uri)
        except DatabaseError as error:
            raise RegistryError(f"{self.tracking_uri} cannot be used ({error.orig})") from error

    @property
    def _home(self) -> Path:
        return Path(self.artifact_root).parents[1]

    @property
    def _database(self) -> Path | None:
        """MLflow's file; None where its database is a server's."""
        return Path(self.tracking_uri.removeprefix(SQLITE)) if self.tracking_uri.startswith(SQLITE) else None

    def _make(self, database: Path) -> None:
        """MLflow's database, moved into its place when it is whole: one that was half made could never be
        finished.
        """
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with preparing(self._home):
            if has_content(database):
                return
            database.parent.mkdir(parents=True, exist_ok=True)
            for left in database.parent.glob(f".{database.name}.*"):
                left.unlink()  # of a process that was killed here
            temporary = database.with_name(f".{database.name}.{os.getpid()}")
            cast(Any, SqlAlchemyStore)(f"{SQLITE}{temporary}", self.artifact_root).engine.dispose()
            make_relative(temporary)
            temporary.replace(database)
            write_layout(self._home)

    def _experiment(self) -> None:
        """The experiment of this registry's runs.

        MLflow makes every place absolute that it is given, so that it is made relative at once.
        """
        client = self.client()
        found = client.get_experiment_by_name(self.name)
        if found is not None and not (self._database and is_absolute(found.artifact_location)):
            return
        with preparing(self._home):
            if client.get_experiment_by_name(self.name) is None:
                client.create_experiment(self.name, artifact_location=Path(self.artifact_root).as_uri())
            if self._database is not None:
                make_relative(self._database)


def registry_of(settings: Settings) -> ModelRegistry:
    """The registry under the platform's home."""
    return ModelRegistry(
        tracking_uri=settings.tracking_uri,
        artifact_root=str(settings.home / "mlflow" / ARTIFACTS),
        name=settings.use_case,
    )


def digest_tag(kind: str) -> str:
    """The tag of a version that holds the digest of one of its bundles."""
    return f"{kind}_digest"


def _mlflow() -> Any:
    """MLflow, which reads these when it is first imported: nothing calls home, and a person at a terminal
    sees no bookkeeping.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings(
        "ignore", message="The ``noload`` loader strategy is deprecated"
    )  # SQLAlchemy's, of MLflow's own store
    import mlflow
    from mlflow.store.artifact import artifact_repository_registry
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def beside_the_database(
        artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> Any:
        """MLflow counts a relative place from the working directory; here it counts from the database's
        folder.
        """
        database = tracking_uri or mlflow.get_tracking_uri()
        place = (
            Path(database.removeprefix(SQLITE)).parent / artifact_uri
            if database.startswith(SQLITE)
            else artifact_uri
        )
        return LocalArtifactRepository(str(place), tracking_uri, registry_uri)

    cast(Any, artifact_repository_registry)._artifact_repository_registry.register("", beside_the_database)
    return mlflow


def _version(found: Any) -> Version:
    return Version(str(found.version), str(found.run_id), dict(found.tags))
