"""The recipe of a day, searched or as configured: what it is made of, who takes it, and what MLflow keeps of
the search.
"""

import csv
import re
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dagster import materialize
from world import ListedSource, World, metadata

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.learning.fits import train
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.search_budget import Tuning, TuningError
from mlops_assets.models import model_family
from mlops_assets.models.lightgbm import SPACE
from mlops_assets.resources.config_sections import Model, Time, Verdicts
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.resources.lake import NotValidated, day_range, shift, to_frame, to_table
from mlops_assets.steps.model.judge import split_of
from mlops_assets.steps.model.recipe_search import StaleRecipe, recipe_of
from mlops_assets.use_cases.fraud.case import FRAUD

AS_OF, TRIALS = "2025-04-10", 3
pytestmark = pytest.mark.slow


def tuned_settings(home: Path) -> Settings:
    return Settings(
        home=home,
        time=Time(date(2025, 3, 1), date(2025, 4, 30)),
        verdicts=Verdicts(maturity_days=2),
        model=Model(holdout_days=3, train_days=30),
        recipe=Recipe(num_leaves=3, learning_rate=0.02, lambda_l2=80.0, max_rounds=20, num_threads=1),
        tuning=Tuning(TRIALS, folds=2, fold_days=5),
    )


def write_training_set(world: World, seed: int = 0, validated: bool = True) -> None:
    """A hundred payments a day, whose first two features say what is fraud, mostly."""
    features, split, random = (
        feature_store_of(world.settings, FRAUD).plan("fraud_v1").features,
        split_of(world.settings, AS_OF),
        np.random.default_rng(seed),
    )
    days = pd.date_range(split.train_first, split.last_mature_day, tz="UTC").repeat(100)
    values = pd.DataFrame(random.uniform(size=(len(days), len(features))), columns=list(features))
    rows = pd.DataFrame(
        {
            "transaction_id": [f"t{n:05}" for n in range(len(days))],
            "event_timestamp": (
                (days + pd.to_timedelta(random.uniform(0, 86_000, len(days)), unit="s")).floor("us")
            ),
            "customer_id": random.integers(0, 50, len(days)).astype(str),
            "merchant_id": random.integers(0, 20, len(days)).astype(str),
            "amount": random.uniform(1, 100, len(days)).round(2),
            **values,
            "is_fraud": random.uniform(size=len(days)) < 0.7 * (values.iloc[:, 0] * values.iloc[:, 1]) ** 3,
        }
    )
    table = to_table(rows.assign(fold=split.label(rows["event_timestamp"])))
    world.lake.write("training_set", AS_OF, table, validated=validated)
    for day in day_range(
        shift(split.last_mature_day.isoformat(), 1), shift(AS_OF, -1)
    ):  # nothing was paid since
        world.lake.write("feature_vectors", day, table.slice(0, 0), validated=True)


def runs(world: World) -> list[Any]:
    import mlflow

    return list(mlflow.MlflowClient(world.settings.tracking_uri).search_runs(["1"]))


def study_and_training(world: World) -> tuple[Any, Any]:
    study, training = sorted(runs(world), key=lambda run: run.info.start_time)
    assert (study.data.tags["kind"], "kind" in training.data.tags) == ("tuning", False)
    return study, training


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Recipe and version of the day, made in one Dagster run."""
    world = World(tuned_settings(tmp_path_factory.mktemp("searched") / "home"), ListedSource())
    write_training_set(world)
    made = materialize(
        [world.assets[name] for name in ("recipe", "trained_model")],
        partition_key=AS_OF,
        resources=world.resources,
    )
    assert made.success
    return world


@pytest.fixture
def world(searched: World, tmp_path: Path) -> World:
    settings = replace(searched.settings, home=tmp_path / "home")
    shutil.copytree(searched.settings.home, settings.home)
    return World(settings, ListedSource())


def test_the_version_is_trained_with_what_the_search_found_and_the_record_says_so(searched: World) -> None:
    settings, recipe = searched.settings, recipe_of(searched.lake, searched.settings, AS_OF)
    assert recipe != settings.recipe
    assert replace(recipe, **{name: getattr(settings.recipe, name) for name in SPACE}) == settings.recipe
    version = searched.registry.version("1")
    rows = to_frame(searched.lake.read("training_set", [AS_OF]))
    expected = train(
        FRAUD,
        model_family(),
        rows,
        searched.registry.release(version).features,
        split_of(settings, AS_OF),
        recipe,
        AppliedCosts.of(FRAUD, settings.costs),
    )
    assert searched.registry.release(version).model_text == expected.release_text
    record, logged = searched.registry.record(version).recipe, study_and_training(searched)[1].data.params
    assert record["tuning.trials"] == TRIALS
    for name, value in vars(recipe).items():
        assert (record[name], logged[name]) == (value, str(value))


def test_the_study_is_an_mlflow_run_of_its_own_beside_that_of_the_training(searched: World) -> None:
    import mlflow

    client, (study, training) = (
        mlflow.MlflowClient(searched.settings.tracking_uri),
        study_and_training(searched),
    )
    assert (study.info.status, training.info.status) == ("FINISHED", "FINISHED")
    version = searched.registry.version("1")
    assert version.run_id == training.info.run_id
    for tag in ("as_of", "training_set_digest", "config_digest", "git_commit"):
        assert study.data.tags[tag] == version.tags[tag]
    assert study.data.tags["dagster_run"] == training.data.tags["dagster_run_id"]

    recipe, params = recipe_of(searched.lake, searched.settings, AS_OF), study.data.params
    assert (params["trials"], params["folds"], params["fold_days"]) == (str(TRIALS), "2", "5")
    assert {name: params[f"best.{name}"] for name in SPACE} == {
        name: str(getattr(recipe, name)) for name in SPACE
    }
    assert params["configured.seed"] == str(searched.settings.recipe.seed)
    assert study.data.metrics["best.log_loss"] < study.data.metrics["configured.log_loss"]
    assert [point.step for point in client.get_metric_history(study.info.run_id, "log_loss")] == [1, 2, 3]

    assert {file.path for file in client.list_artifacts(study.info.run_id)} == {"trials.csv", "history.png"}
    (file,) = searched.settings.home.rglob("trials.csv")
    with file.open() as opened:
        lines = list(csv.DictReader(opened))
    assert [line["trial"] for line in lines] == ["1", "2", "3"]
    assert {name: float(lines[0][name]) for name in SPACE} == {
        name: float(getattr(searched.settings.recipe, name)) for name in SPACE
    }
    best = min(lines, key=lambda line: float(line["log_loss"]))
    assert (best["trial"], float(best["log_loss"])) == (
        params["best.trial"],
        study.data.metrics["best.log_loss"],
    )


def test_a_search_that_is_made_again_comes_to_the_same_and_says_how_it_went(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.lake.manifests("recipe", [AS_OF])[0].digest
    outcome = world.make("recipe", AS_OF)
    assert world.lake.manifests("recipe", [AS_OF])[0].digest == before
    assert metadata(outcome, "log loss") < metadata(outcome, "log loss as configured")
    assert metadata(outcome, "folds") == "2025-03-26 to 2025-03-30, 2025-03-31 to 2025-04-04"
    assert "| num_leaves | " in metadata(outcome, "recipe")
    assert metadata(outcome, "best trials").count("\n") == 1 + TRIALS
    assert metadata(outcome, "history").startswith("![log loss by trial](data:image/png;base64,")
    assert re.search(r"trial 3 of 3: log loss 0\.\d{5}, the best so far 0\.\d{5}\n", capsys.readouterr().err)


def test_a_recipe_that_was_searched_on_another_training_set_trains_nothing(world: World) -> None:
    write_training_set(world, seed=1)
    with pytest.raises(
        StaleRecipe,
        match=(
            r"recipe: 2025-04-10 was searched on the training set \w{64}, which is now \w{64}; materialize it"
            r" again"
        ),
    ):
        world.make("trained_model", AS_OF)


@pytest.mark.parametrize(
    "change", [{"recipe": Recipe(seed=1)}, {"tuning": Tuning(TRIALS + 1, 2, 5)}, {"tuning": Tuning()}]
)
def test_a_recipe_that_was_made_for_another_configuration_trains_nothing(
    world: World, change: dict[str, Any]
) -> None:
    changed = World(replace(world.settings, **change), ListedSource())
    with pytest.raises(
        StaleRecipe,
        match=r"recipe: 2025-04-10 was made with another \[recipe\] or \[tuning\] than the configured one",
    ):
        changed.make("trained_model", AS_OF)


def test_a_search_that_cannot_be_made_is_failed_in_mlflow_and_leaves_no_recipe(world: World) -> None:
    shutil.rmtree(world.settings.home / "lake" / "recipe")
    long = World(replace(world.settings, tuning=Tuning(TRIALS, folds=9, fold_days=5)), ListedSource())
    with pytest.raises(TuningError, match="as of 2025-04-10 there are 21 training days"):
        long.make("recipe", AS_OF)
    (failed,) = [run for run in runs(long) if run.info.status == "FAILED"]
    assert failed.data.tags["kind"] == "tuning"
    assert "there are 21 training days" in failed.data.tags["error"]
    assert long.lake.manifest("recipe", AS_OF) is None


def test_nothing_is_searched_on_a_training_set_that_did_not_pass(world: World) -> None:
    write_training_set(world, validated=False)
    with pytest.raises(NotValidated, match=AS_OF):
        world.make("recipe", AS_OF)


def test_without_trials_the_configured_recipe_trains_any_training_set_and_mlflow_hears_of_no_search(
    world: World,
) -> None:
    settings, before = replace(world.settings, tuning=Tuning()), len(runs(world))
    plain = World(settings, ListedSource())
    assert metadata(plain.make("recipe", AS_OF), "tuned") is False
    assert len(runs(plain)) == before
    write_training_set(plain, seed=1)
    plain.make("trained_model", AS_OF)
    release, rows = (
        plain.registry.release(plain.registry.version("2")),
        to_frame(plain.lake.read("training_set", [AS_OF])),
    )
    assert (
        release.model_text
        == train(
            FRAUD,
            model_family(),
            rows,
            release.features,
            split_of(settings, AS_OF),
            settings.recipe,
            AppliedCosts.of(FRAUD, settings.costs),
        ).release_text
    )
