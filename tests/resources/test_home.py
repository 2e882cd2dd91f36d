"""Homes of before: their absolute paths are rewritten once, also in a copy whose original is gone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import DATABASE, PLACES, HomeError, bring_up, local_place
from mlops_assets.resources.registry import registry_of


def of_before(home: Path) -> str:
    """A registry as it was made before places were relative, by the calls that made it; the run of its one
    version.
    """
    from mlflow import MlflowClient, set_tracking_uri

    database, artifacts = home / DATABASE, home / "mlflow" / "artifacts"
    database.parent.mkdir(parents=True)
    set_tracking_uri(f"sqlite:///{database}")
    client = MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")
    experiment = client.create_experiment("fraud", artifact_location=artifacts.as_uri())
    run = client.create_run(experiment).info
    client.log_text(run.run_id, "what it was", "bundle/note.txt")
    model = client.create_logged_model(experiment, "model", source_run_id=run.run_id)
    folder = artifacts / "models" / model.model_id / "artifacts"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(f"artifact_path: {model.artifact_location}\nflavors: {{}}\n")
    client.create_registered_model("fraud")
    client.create_model_version(
        "fraud", f"models:/{model.model_id}", run.run_id, tags={"as_of": "2025-04-10"}
    )
    return str(run.run_id)


@pytest.mark.slow
def test_a_copy_of_a_home_of_before_is_rewritten_once_and_finds_its_own_artifacts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original, copy = tmp_path / "of a person", tmp_path / "a copy"
    run = of_before(original)
    shutil.copytree(original, copy)
    shutil.rmtree(original)
    capfd.readouterr()
    registry = registry_of(Settings(home=copy))
    version = registry.version("1")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mlops: ")]
    assert line.startswith(
        f"mlops: {copy}: 5 absolute paths in MLflow's records are relative to the home now"
    )
    assert (registry._artifacts(version, "bundle") / "note.txt").read_text() == "what it was"
    with closing(sqlite3.connect(copy / DATABASE)) as connection:
        found = [
            place
            for table, column in PLACES
            for (place,) in connection.execute(f"SELECT {column} FROM {table}")
        ]
    assert [place for place in found if place and "of a person" in place.replace("%20", " ")] == []
    (description,) = copy.glob("mlflow/artifacts/models/*/artifacts/MLmodel")
    assert (
        description.read_text().splitlines()[0]
        == f"artifact_path: {description.parent.relative_to(copy / 'mlflow')}"
    )
    client = registry.client()
    client.log_text(run, "what it is", "bundle/later.txt")
    assert (
        copy / "mlflow" / "artifacts" / run / "artifacts" / "bundle" / "later.txt"
    ).read_text() == "what it is"
    assert not original.exists()
    assert "absolute" not in capfd.readouterr().err


def test_a_place_is_relative_to_mlflows_folder_or_absolute_or_remote() -> None:
    folder = Path("/homes/one/mlflow")
    assert local_place(folder, "artifacts/1/artifacts") == folder / "artifacts/1/artifacts"
    assert local_place(folder, "file:///homes/of%20two/mlflow/artifacts/1") == Path(
        "/homes/of two/mlflow/artifacts/1"
    )
    assert local_place(folder, "/homes/two/artifacts") == Path("/homes/two/artifacts")
    assert local_place(folder, "s3://bucket/artifacts") is None


def test_a_home_of_a_newer_layout_is_refused_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text('{"format": 99}')
    with pytest.raises(
        HomeError, match=r"home\.json: this home has format 99, and this version knows formats up to 2"
    ):
        bring_up(tmp_path)


def test_a_registry_of_before_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).parent.mkdir()
    (tmp_path / DATABASE).write_bytes(b"what was a database" * 1000)
    with pytest.raises(
        HomeError, match=r"mlflow\.db cannot be used \(file is not a database\): restore it from the backup"
    ):
        bring_up(tmp_path)
    assert not (tmp_path / "home.json").exists()


def test_a_layout_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text("{")
    with pytest.raises(HomeError, match="delete it, and the next command writes it again"):
        bring_up(tmp_path)
