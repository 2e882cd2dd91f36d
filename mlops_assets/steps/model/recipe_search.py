"""The recipe of the version as of a day: the configured recipe, or the best recipe of a search."""

import csv
import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import RECIPE, TRAINING_SET
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.tuning import Study, Trial, search
from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import PlatformError
from mlops_assets.models import model_family
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import read_validated, to_frame
from mlops_assets.resources.provenance import provenance
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.judge import split_of


class StaleRecipe(PlatformError, ValueError):
    """The recipe of a day belongs to another training set or to another configuration."""


@dataclass(frozen=True)
class Searched:
    """A search on record: its study, its picture, and the MLflow run with both."""

    study: Study
    picture: Any
    mlflow_run: str


def write_configured(lake: Lake, settings: Settings, as_of: str) -> None:
    """Write the configured recipe as the recipe of the day."""
    _write(lake, settings, as_of, settings.recipe, None)


def write_searched(
    case: UseCase,
    lake: Lake,
    registry: ModelRegistry,
    settings: Settings,
    as_of: str,
    features: tuple[str, ...],
    run_id: str,
    log: logging.Logger,
    draw: Callable[[Study], Any],
) -> Searched:
    """Search on the training set of the day by `[tuning]`, and write the best recipe.

    The search has its own MLflow run. The training continues an MLflow run with the id of its Dagster run, so
    the run of the search has another id. `draw` makes the picture of the study. Raises `TuningError`.
    """
    rows = to_frame(read_validated(lake, TRAINING_SET, [as_of]))
    digest = lake.manifests(TRAINING_SET, [as_of])[0].digest
    tags = {
        "kind": "tuning",
        "as_of": as_of,
        "training_set_digest": digest,
        "dagster_run": run_id,
        **provenance(settings),
    }
    configured = {f"configured.{name}": value for name, value in vars(settings.recipe).items()}
    params = {**vars(settings.tuning), **configured}
    split, learner = split_of(settings, as_of), model_family()

    def tell(trial: Trial, best: Trial) -> None:
        log.info(_progress(settings, trial, best))

    name = f"{case.name} tuning as of {as_of}"
    with registry.training_run(name, f"{run_id}/tuning", log, params, tags) as mlflow:
        study = search(case, learner, rows, features, split, settings.recipe, settings.tuning, tell)
        picture = draw(study)
        _log(mlflow, study, picture)
        mlflow_run = mlflow.active_run().info.run_id
    _write(lake, settings, as_of, study.best.recipe, digest)
    return Searched(study, picture, mlflow_run)


def recipe_of(lake: Lake, settings: Settings, as_of: str) -> Recipe:
    """The recipe of the day. Raises `StaleRecipe` for another training set or another configuration."""
    (found,) = lake.read(RECIPE, [as_of]).to_pylist()
    if found["asked"] != _asked(settings):
        raise StaleRecipe(
            f"{RECIPE}: {as_of} was made with another [recipe] or [tuning] than the configured one;"
            " materialize it again"
        )
    now = lake.manifests(TRAINING_SET, [as_of])[0].digest
    if found["training_set"] not in (None, now):
        raise StaleRecipe(
            f"{RECIPE}: {as_of} was searched on the training set {found['training_set']}, which is now {now};"
            " materialize it again"
        )
    return Recipe(**json.loads(found["recipe"]))


def _write(lake: Lake, settings: Settings, as_of: str, recipe: Recipe, training_set: str | None) -> None:
    """Write a recipe.

    `training_set` is the digest of the rows of its search, None for a configured recipe.
    """
    columns = {
        "recipe": [json.dumps(asdict(recipe))],
        "asked": [_asked(settings)],
        "training_set": pa.array([training_set], pa.string()),
    }
    lake.write(RECIPE, as_of, pa.table(columns), validated=True)


def _asked(settings: Settings) -> str:
    return json.dumps({"recipe": asdict(settings.recipe), "tuning": asdict(settings.tuning)}, sort_keys=True)


def _progress(settings: Settings, trial: Trial, best: Trial) -> str:
    given_up = f" on {len(trial.losses)} of {settings.tuning.folds} folds, given up" if trial.given_up else ""
    counted = f"trial {trial.number + 1} of {settings.tuning.trials}"
    return f"{counted}: log loss {trial.loss:.5f}{given_up}, the best so far {best.loss:.5f}"


def _log(mlflow: Any, study: Study, picture: Any) -> None:
    """Log the study in the active MLflow run: the best recipe, all trials, and the picture."""
    for trial in study.trials:
        if not trial.given_up:
            mlflow.log_metric("log_loss", trial.loss, step=trial.number + 1)
    mlflow.log_metrics({"best.log_loss": study.best.loss, "configured.log_loss": study.configured.loss})
    mlflow.log_params(
        {
            "best.trial": study.best.number + 1,
            **{f"best.{name}": value for name, value in study.best.searched.items()},
        }
    )
    mlflow.log_text(_trials(study), "trials.csv")
    mlflow.log_figure(picture, "history.png")


def _trials(study: Study) -> str:
    """A line for each trial as CSV. The folds that a trial did not reach are empty."""
    written = csv.writer(text := io.StringIO(), lineterminator="\n")
    folds = (f"log_loss {fold.first} to {fold.last}" for fold in study.folds)
    written.writerow(["trial", "log_loss", "given_up", *study.configured.searched, *folds])
    for trial in study.trials:
        missing = [""] * (len(study.folds) - len(trial.losses))
        written.writerow(
            [trial.number + 1, trial.loss, trial.given_up, *trial.searched.values(), *trial.losses, *missing]
        )
    return text.getvalue()
