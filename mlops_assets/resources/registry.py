"""The model registry: MLflow runs tied to Dagster runs, exact versions, and the alias of the champion.

MLflow keeps a global tracking address and an active run. Only this module and `registry_database` touch them.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
from dagster import ConfigurableResource

from mlops_assets.core.judging.reporting.model_card import shortened
from mlops_assets.errors import is_interrupted, told
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import ARTIFACTS, local_place
from mlops_assets.resources.processes import HOST, PID, is_gone, process_tags
from mlops_assets.resources.provenance import RECORD, RECORD_DIGEST, Record
from mlops_assets.resources.registry_database import RegistryDatabase, mlflow_library
from mlops_assets.resources.registry_records import CHAMPION, RegistryError, Version
from serving.contract.bundle import Release, load_reference, load_release, verify_digests
from serving.contract.scorers.base import Scorer, load_scorer

PREVIOUS = "previous"  # The alias of the champion before, to which a rollback returns
BUNDLE, EVALUATION_FIT, EVALUATION_TAG = "bundle", "evaluation_fit", "evaluation"
# Artifacts of a version's run. The model card has the file name of Hugging Face.
EVALUATION, MODEL_CARD = "evaluation", "card/README.md"
DESCRIPTION = 5_000  # Characters of a version's description that MLflow keeps on every kind of database
LONGEST_TRAINING = timedelta(days=1)  # Dagster ends a launched run after a day as well
DATASET_DIGEST = 36  # Characters that MLflow keeps. The tag training_set_digest has all of them


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

        It ends as FINISHED, or as FAILED where the body raises. The hook of dagster-mlflow ends runs in jobs
        only, and not in a materialization from the UI or the command line. A killed process leaves its run
        RUNNING, and the next training ends that run.
        """
        self.end_orphans(datetime.now(UTC))
        self._database.make_experiment(self.name)
        tracking = mlflow_library()
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
            if tracking.active_run() is not None:  # A tag without an active run would start one
                with suppress(Exception):  # The error that stopped the training is the one to report
                    tracking.set_tag("error", "interrupted" if is_interrupted(error) else told(error)[:500])
                with suppress(Exception):
                    tracking.end_run(status="FAILED")
            raise
        mlflow.end_run(status="FINISHED")

    def end_orphans(self, now: datetime) -> list[str]:
        """End every abandoned run as FAILED. Returns the ids of these runs.

        A run is abandoned where its process on this host has ended, or where it has run for a day on any
        host.
        """
        if not self._database.exists:
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
        """Note the data of the active run: the name of the set, the start of its digest, its place.

        The place is relative to the home where the lake is in the home.
        """
        tracking = mlflow_library()
        place = place.removeprefix(f"{self._database.home}/")
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        with warnings.catch_warnings():
            # A path can be several kinds of source to MLflow.
            warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
            source = resolve_dataset_source(place)
        data = MetaDataset(source, name=name, digest=digest[:DATASET_DIGEST])  # type: ignore[abstract]
        tracking.log_input(data, context="training")

    def register(
        self,
        mlflow: Any,
        log_model: Callable[[Any], str],
        bundle: Path,
        evaluation_fit: Path,
        tags: Mapping[str, str],
    ) -> Version:
        """Log the bundle and the model of the active run, and register them as one exact version.

        `log_model` gets MLflow, logs the model there and returns the address of the model.
        """
        run_id = mlflow.active_run().info.run_id
        mlflow.log_artifacts(str(bundle), artifact_path=BUNDLE)
        mlflow.log_artifacts(str(evaluation_fit), artifact_path=EVALUATION_FIT)
        address = log_model(mlflow)
        client = self.client()
        if not client.search_registered_models(f"name='{self.name}'"):
            client.create_registered_model(self.name)
        made = client.create_model_version(self.name, source=address, run_id=run_id, tags=dict(tags))
        return Version(str(made.version), run_id, dict(tags))

    def log_evaluation(
        self, version: Version, metrics: Mapping[str, float], verdict: Mapping[str, object]
    ) -> None:
        """Write the metrics of an evaluation to the version's run, and the verdict to the version.

        The verdict names the bundle that was judged.
        """
        client = self.client()
        for name, value in metrics.items():
            client.log_metric(version.run_id, name, value)
        exact = {**verdict, "version": version.version, digest_tag(BUNDLE): version.tags[digest_tag(BUNDLE)]}
        client.set_model_version_tag(
            self.name, version.version, EVALUATION_TAG, json.dumps(exact, sort_keys=True)
        )

    def log_report(self, version: Version, files: Mapping[str, bytes], model_card: str) -> None:
        """Log the files of an evaluation, by name, and the model card as artifacts of the version's run.

        The description of the version is the model card, shortened to the length that MLflow keeps.
        """
        client = self.client()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            client.log_artifacts(version.run_id, folder, artifact_path=EVALUATION)
        client.log_text(version.run_id, model_card, MODEL_CARD)
        described = shortened(
            model_card, DESCRIPTION, f"The whole card is the artifact `{MODEL_CARD}` of the run."
        )
        client.update_model_version(self.name, version.version, description=described)

    def version(self, number: str) -> Version:
        """One registered version. `RegistryError` where no version has this number."""
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            return _version(client.get_model_version(self.name, str(number)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise RegistryError(f"the model {self.name!r} has no version {number}") from None

    def champion(self) -> Version | None:
        """The version that the alias names; None before the first promotion.

        Only `decision_steps.py` moves the alias.
        """
        return self._by_alias(CHAMPION)

    def release(self, version: Version) -> Release:
        """The release bundle of a version. `RegistryError` where another bundle was registered."""
        return load_release(self._verified(version, BUNDLE))

    def scored_release(self, version: Version) -> tuple[Release, Scorer]:
        """The release bundle of a version with its scorer, as the service loads it.

        Raises what `release` and `load_scorer` raise.
        """
        directory = self._verified(version, BUNDLE)
        release = load_release(directory)
        return release, load_scorer(release, directory)

    def reference(self, version: Version, kind: str = BUNDLE) -> pa.Table:
        """The reference rows for drift of a version. With EVALUATION_FIT, those of its holdout."""
        return load_reference(self._verified(version, kind))

    def evaluation_fit(self, version: Version) -> Release:
        """The fit of the same recipe on the days before the version's holdout."""
        return load_release(self._verified(version, EVALUATION_FIT))

    def record(self, version: Version) -> Record:
        """The record of what the version was made from.

        `RegistryError` where the record is missing, or differs from what was recorded.
        """
        if (recorded := version.tags.get(RECORD_DIGEST)) is None:
            raise RegistryError(
                f"version {version.version}: what it was made from is not recorded; it is from a time without"
                " such records"
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
        """The folder of a bundle. `RegistryError` where its digest differs from the tag of the version."""
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
        """The path of a version's artifact. An artifact on a remote store is fetched once."""
        mlflow = mlflow_library()
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

    def client(self) -> Any:
        """MLflow's own client on this registry. The database is made where it does not exist."""
        return self._database.client()

    @property
    def _database(self) -> RegistryDatabase:
        return RegistryDatabase(self.tracking_uri, self.artifact_root)

    def _by_alias(self, alias: str) -> Version | None:
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            return _version(client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


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


def _version(found: Any) -> Version:
    return Version(str(found.version), str(found.run_id), dict(found.tags))
