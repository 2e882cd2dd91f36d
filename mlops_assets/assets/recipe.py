"""The recipe that the version as of a day is trained with: the configured one, or the best of a search on its
own training days.
"""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue, asset

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import MODEL, RECIPE, TRAINING_SET
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.tuning import SPACE, Study, Trial, search
from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import PlatformError
from mlops_assets.graph.checks import markdown_table
from mlops_assets.graph.partitions import as_of_days, run_of
from mlops_assets.graph.pictures import as_markdown, png
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, read_validated, to_frame
from mlops_assets.resources.provenance import provenance
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.judge import split_of

TRIALS_SHOWN = 20


class StaleRecipe(PlatformError, ValueError):
    """The recipe of a day was searched on other rows, or for another configuration, than those that are to be
    trained with it.
    """


def recipe_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=RECIPE,
        description=(
            "How the version of the day is trained: the configured recipe, or the best of as many trials as"
            " [tuning] allows."
        ),
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"optuna", "mlflow"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINING_SET],
    )
    def recipe(
        context: AssetExecutionContext,
        lake: LakeResource,
        feature_store: FeatureStoreResource,
        registry: ModelRegistry,
    ) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        if not settings.tuning.trials:
            _write(opened, settings, as_of, settings.recipe, None)
            return MaterializeResult(
                metadata={
                    "tuned": False,
                    "recipe": markdown_table(["value", "configured"], vars(settings.recipe).items()),
                }
            )
        features = feature_store.plan(case.feature_service).features
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        data_digest = opened.manifests(TRAINING_SET, [as_of])[0].digest
        run_id = run_of(context)
        tags = {
            "kind": "tuning",
            "as_of": as_of,
            "training_set_digest": data_digest,
            "dagster_run": run_id,
            **provenance(settings),
        }
        params = {
            **vars(settings.tuning),
            **{f"configured.{name}": value for name, value in vars(settings.recipe).items()},
        }

        def tell(trial: Trial, best: Trial) -> None:
            given_up = (
                f" on {len(trial.losses)} of {settings.tuning.folds} folds, given up"
                if trial.given_up
                else ""
            )
            counted = f"trial {trial.number + 1} of {settings.tuning.trials}"
            context.log.info(
                f"{counted}: log loss {trial.loss:.5f}{given_up}, the best so far {best.loss:.5f}"
            )

        # An id of its own: under that of the Dagster run the training, which comes next, would take up this
        # very MLflow run.
        with registry.training_run(
            f"{case.name} tuning as of {as_of}", f"{run_id}/tuning", context.log, params, tags
        ) as mlflow:
            study = search(rows, features, split_of(settings, as_of), settings.recipe, settings.tuning, tell)
            picture = _history(study)
            _log(mlflow, study, picture)
            mlflow_run = mlflow.active_run().info.run_id
        _write(opened, settings, as_of, study.best.recipe, data_digest)
        return MaterializeResult(metadata={"tuned": True, **_shown(study, picture), "mlflow_run": mlflow_run})

    return recipe


def recipe_of(lake: Lake, settings: Settings, as_of: str) -> Recipe:
    """What to train with as of the day.

    A recipe that was searched on another training set, or made for another configuration, is `StaleRecipe`.
    """
    (found,) = lake.read(RECIPE, [as_of]).to_pylist()
    if found["asked"] != _asked(settings):
        raise StaleRecipe(
            f"{RECIPE}: {as_of} was made for another [recipe] or [tuning] than is configured now; materialize"
            " it again"
        )
    now = lake.manifests(TRAINING_SET, [as_of])[0].digest
    if found["training_set"] not in (None, now):
        raise StaleRecipe(
            f"{RECIPE}: {as_of} was searched on the training set {found['training_set']}, which is now {now};"
            " materialize it again"
        )
    return Recipe(**json.loads(found["recipe"]))


def _write(lake: Lake, settings: Settings, as_of: str, recipe: Recipe, training_set: str | None) -> None:
    """`training_set`: the digest of what it was searched on; none where it is the configured recipe, which
    fits any rows.
    """
    columns = {
        "recipe": [json.dumps(asdict(recipe))],
        "asked": [_asked(settings)],
        "training_set": pa.array([training_set], pa.string()),
    }
    lake.write(RECIPE, as_of, pa.table(columns), validated=True)


def _asked(settings: Settings) -> str:
    return json.dumps({"recipe": asdict(settings.recipe), "tuning": asdict(settings.tuning)}, sort_keys=True)


def _log(mlflow: Any, study: Study, picture: Any) -> None:
    """The study in the active MLflow run: its outcome, every trial, and how the search went."""
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
    """One line a trial; a fold that a trial did not come to is empty."""
    written = csv.writer(text := io.StringIO(), lineterminator="\n")
    written.writerow(
        [
            "trial",
            "log_loss",
            "given_up",
            *SPACE,
            *(f"log_loss {fold.first} to {fold.last}" for fold in study.folds),
        ]
    )
    for trial in study.trials:
        missing = [""] * (len(study.folds) - len(trial.losses))
        written.writerow(
            [trial.number + 1, trial.loss, trial.given_up, *trial.searched.values(), *trial.losses, *missing]
        )
    return text.getvalue()


def _shown(study: Study, picture: Any) -> dict[str, Any]:
    """For a person in the UI."""
    best, configured = study.best, study.configured
    first = sorted(study.trials, key=lambda trial: (trial.given_up, trial.loss))[:TRIALS_SHOWN]
    return {
        "log loss": best.loss,
        "log loss as configured": configured.loss,
        "folds": ", ".join(f"{fold.first} to {fold.last}" for fold in study.folds),
        "recipe": markdown_table(
            ["value", "chosen", "configured"],
            [(n, v, configured.searched[n]) for n, v in best.searched.items()],
        ),
        "best trials": markdown_table(
            ["trial", "log loss", "folds", *SPACE],
            [(t.number + 1, f"{t.loss:.5f}", len(t.losses), *t.searched.values()) for t in first],
        ),
        "history": MetadataValue.md(as_markdown("log loss by trial", png(picture))),
    }


def _history(study: Study) -> Any:
    """The log loss of each trial, and the best so far, small enough for the UI."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for given_up, mark, what in ((False, "o", "all folds"), (True, "x", "given up")):
        if some := [trial for trial in study.trials if trial.given_up == given_up]:
            axes.plot([trial.number + 1 for trial in some], [trial.loss for trial in some], mark, label=what)
    so_far = [min(t.loss for t in study.trials[: n + 1] if not t.given_up) for n in range(len(study.trials))]
    axes.step([trial.number + 1 for trial in study.trials], so_far, where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="log loss")
    axes.legend()
    return figure
