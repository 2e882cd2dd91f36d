"""One version as of a day: both fits, the two bundles, the record of their inputs, and the registration."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.lake.manifests import Manifest
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.keys import TRAINED_MODEL, TRAINING_SET
from mlops_assets.core.learning.fits import TrainedModel, train
from mlops_assets.core.use_case import UseCase
from mlops_assets.models import model_family
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated, to_frame
from mlops_assets.resources.provenance import (
    CONFIGURATION,
    RECORD,
    RECORD_DIGEST,
    Record,
    base_folder,
    ingested,
    inputs,
    provenance,
    runtime,
)
from mlops_assets.resources.registry import BUNDLE, EVALUATION_FIT, ModelRegistry, digest_tag
from mlops_assets.resources.registry_records import Version
from mlops_assets.steps.model.judge import matrix, split_of
from mlops_assets.steps.model.recipe_search import recipe_of
from mlops_assets.steps.monitoring.drift_reference import (
    DriftReference,
    evaluation_reference,
    release_reference,
)
from serving.contract.bundle import Release, write_release
from serving.contract.scorers.lightgbm import Calibrator, Scorer

GOLDEN_ROWS = 20  # rows that travel with the model, with their exact scores


@dataclass(frozen=True)
class TrainedVersion:
    """A registered version: its fits, its drift reference, the digest of its bundle, and its manifest."""

    version: Version
    model: TrainedModel
    reference: DriftReference
    bundle_digest: str
    manifest: Manifest


@dataclass(frozen=True)
class _Making:
    """The inputs of a version, and its tags and parameters in MLflow."""

    case: UseCase
    settings: Settings
    plan: FeaturePlan
    rows: pd.DataFrame
    costs: AppliedCosts
    tags: Mapping[str, str]
    params: Mapping[str, Any]


def train_version(
    case: UseCase,
    lake: Lake,
    registry: ModelRegistry,
    settings: Settings,
    plan: FeaturePlan,
    as_of: str,
    run_id: str,
    log: logging.Logger,
) -> TrainedVersion:
    """Train on the training set with the recipe of the day, register the version, and write it to the lake.

    `run_id` is the Dagster run. Raises `StaleRecipe` and `TrainingError`.
    """
    rows = to_frame(read_validated(lake, TRAINING_SET, [as_of]))
    recipe, split = recipe_of(lake, settings, as_of), split_of(settings, as_of)
    costs, code = AppliedCosts.of(case, settings.costs), provenance(settings)
    tags = {
        "as_of": as_of,
        "last_day": split.last_mature_day.isoformat(),
        "evaluation_last_day": split.evaluation_last.isoformat(),
        "training_set_digest": lake.manifests(TRAINING_SET, [as_of])[0].digest,
        "feature_service": case.feature_service,
        "plan_digest": plan.digest,
        **code,
    }
    calendar = {
        f"{name}.{k}": v for name in ("model", "tuning") for k, v in vars(getattr(settings, name)).items()
    }
    used = {f"costs.{name}": value for name, value in asdict(costs).items()}
    params = {**vars(recipe), **calendar, **used, "rows": len(rows)}
    making = _Making(case, settings, plan, rows, costs, tags, params)
    run = registry.training_run(f"{case.name} as of {as_of}", run_id, log, params, tags)
    with run as mlflow, tempfile.TemporaryDirectory() as folder:
        registry.log_training_set(
            f"{TRAINING_SET} as of {as_of}",
            tags["training_set_digest"],
            lake.files(TRAINING_SET, [as_of])[0],
        )
        model = train(case, model_family(), rows, plan.features, split, recipe, costs, log.info)
        mlflow.log_metrics({f"fit.{name}": value for name, value in model.metrics.items()})
        holdout = evaluation_reference(case, rows, model)
        reference = release_reference(case, lake, settings, as_of, model) or holdout
        made_from = _record(making, lake, code, model)
        bundle, digests = _write_bundles(making, model, reference, holdout, Path(folder))
        mlflow.log_text(made_from.to_json(), RECORD)
        mlflow.log_text(settings.config_text, CONFIGURATION)
        example = rows.loc[:, list(plan.features)].head(5).to_numpy("float64")
        version = registry.register(
            mlflow,
            partial(model_family().log_model, text=model.release_text, example=example),
            Path(folder, "bundle"),
            Path(folder, "evaluation_fit"),
            {**tags, **digests, RECORD_DIGEST: made_from.digest},
        )
    manifest = lake.write(
        TRAINED_MODEL,
        as_of,
        pa.table({"version": [version.version], "run_id": [version.run_id], "bundle_digest": [bundle]}),
        validated=True,
    )
    return TrainedVersion(version, model, reference, bundle, manifest)


def trained_version(lake: Lake, as_of: str) -> str:
    """The number of the version that was trained as of the day."""
    return str(lake.read(TRAINED_MODEL, [as_of]).column("version")[0].as_py())


def _record(making: _Making, lake: Lake, code: dict[str, str], model: TrainedModel) -> Record:
    case, settings, tags = making.case, making.settings, making.tags
    first = split_of(settings, tags["as_of"]).train_first.isoformat()
    came_in, unvalidated = inputs(
        lake, ingested(case), tags["as_of"], first, [view.name for view in case.views]
    )
    return Record(
        use_case=case.name,
        as_of=tags["as_of"],
        code=code,
        config=settings.config_text,
        config_base=base_folder(settings),
        runtime=runtime(),
        feature_service=case.feature_service,
        plan_digest=making.plan.digest,
        recipe={**making.params, "rounds": model.rounds},
        partitions=came_in,
        unvalidated=unvalidated,
        training_set=tags["training_set_digest"],
        models=model.digests,
    )


def _write_bundles(
    making: _Making, model: TrainedModel, reference: DriftReference, holdout: DriftReference, folder: Path
) -> tuple[str, dict[str, str]]:
    """Write the bundles of the release fit and of the evaluation fit.

    Returns the digest of the first, and the tags with both digests.
    """
    score, family = making.case.score, model_family()
    served = _release(making, model, model.release_text, model.calibrator, reference)
    measured = _release(making, model, model.evaluation_text, model.evaluation_calibrator, holdout)
    digest = write_release(served, folder / "bundle", reference.table, family.export(served, score))
    measured_digest = write_release(
        measured, folder / "evaluation_fit", holdout.table, family.export(measured, score)
    )
    return digest, {digest_tag(BUNDLE): digest, digest_tag(EVALUATION_FIT): measured_digest}


def _release(
    making: _Making, model: TrainedModel, text: str, calibrator: Calibrator, reference: DriftReference
) -> Release:
    plan, rows, settings = making.plan, making.rows, making.settings
    vectors = matrix(rows.iloc[:: max(1, len(rows) // GOLDEN_ROWS)].head(GOLDEN_ROWS), plan.features)
    golden = [[None if v != v else float(v) for v in vector] for vector in vectors]
    scores = [float(s) for s in Scorer(text, calibrator).score(vectors)]
    facts: dict[str, object] = {
        **making.tags,
        "rounds": model.rounds,
        "metrics": dict(model.metrics),
        "costs": asdict(making.costs),
        "reference": reference.facts,
    }
    return Release(
        making.case.subject,
        plan,
        plan.features,
        text,
        calibrator,
        model.policy,
        settings.verdicts.maturity_days,
        facts,
        (golden, scores),
        settings.bounds,
    )
