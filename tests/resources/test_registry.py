"""What is on record of versions: the registry, and what a model was made from."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.resources.environments import Settings
from mlops_assets.resources.provenance import PACKAGES, code_digest, provenance
from mlops_assets.resources.registry import ModelRegistry, RegistryError, Version, registry_of

LOG = logging.getLogger("test")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return registry_of(Settings(home=tmp_path_factory.mktemp("registry")))


def runs(registry: ModelRegistry, run_id: str) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(registry.tracking_uri)
    experiment = client.get_experiment_by_name(registry.name)
    return list(client.search_runs([experiment.experiment_id], f"tags.mlflow.runName = '{run_id}'"))


def refuse(*_: object, **__: object) -> None:
    raise OSError("MLflow is gone")


@pytest.mark.slow
def test_a_training_that_fails_is_failed_and_tells_its_own_error_even_if_mlflow_takes_no_tag(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "set_tag", refuse)
    with (
        pytest.raises(ValueError, match="one class only"),
        registry.training_run("no tag", "r1", LOG, {}, {}),
    ):
        raise ValueError("one class only")
    (run,) = runs(registry, "no tag")
    assert run.info.status == "FAILED"
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_a_run_that_breaks_while_it_is_set_up_is_failed_and_does_not_stay_active(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "set_tags", refuse)
    with (
        pytest.raises(OSError, match="MLflow is gone"),
        registry.training_run("half made", "r2", LOG, {}, {}),
    ):
        raise AssertionError("the body does not run")
    (run,) = runs(registry, "half made")
    assert run.info.status == "FAILED"
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_the_training_set_of_a_run_is_an_mlflow_dataset_with_its_digest(registry: ModelRegistry) -> None:
    with registry.training_run("with data", "r3", LOG, {}, {}):
        registry.log_training_set(
            "training_set as of 2025-04-10", "ab" * 32, "/lake/training_set/2025-04-10/abab.parquet"
        )
    (run,) = runs(registry, "with data")
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("training_set as of 2025-04-10", "ab" * 18)
    assert "/lake/training_set/2025-04-10/abab.parquet" in logged.dataset.source
    assert {tag.value for tag in logged.tags} == {"training"}


@pytest.mark.slow
def test_a_new_registry_says_nothing_to_a_person_and_calls_nobody(tmp_path: Path) -> None:
    script = f"""
import os
from mlops_assets.resources.registry import ModelRegistry
folder = "{tmp_path}/mlflow"
registry = ModelRegistry(
    tracking_uri=f"sqlite:///{{folder}}/mlflow.db", artifact_root=f"{{folder}}/artifacts", name="fraud"
)
print(registry.champion())
print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    )
    assert done.stdout.split() == ["None", "true", "false"]
    assert done.stderr == ""


def test_a_bundle_without_a_recorded_digest_or_with_another_is_refused_by_version_and_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlops_assets.resources import registry as module

    made = registry_of(Settings(home=tmp_path))
    monkeypatch.setattr(ModelRegistry, "_artifacts", lambda self, version, kind: tmp_path / kind)
    monkeypatch.setattr(module, "verify_digests", lambda directory: "b" * 64)
    for read, kind in (
        (made.release, "bundle"),
        (made.reference, "bundle"),
        (made.evaluation_fit, "evaluation_fit"),
    ):
        with pytest.raises(
            RegistryError, match=f"version 7: its {kind} has the digest {'b' * 64}, recorded is {'a' * 64}"
        ):
            read(Version("7", "r", {f"{kind}_digest": "a" * 64}))
        with pytest.raises(RegistryError, match="recorded is none"):
            read(Version("7", "r", {}))


# What a model was made from.


def checkout(root: Path) -> Path:
    for package in PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@example.org", *words],
        check=True,
        capture_output=True,
        text=True,
    )


def test_the_commit_is_that_of_the_platforms_own_checkout_and_of_no_repository_around_it(
    tmp_path: Path, settings: Settings
) -> None:
    inner = checkout(tmp_path / "outer" / "site-packages")
    git(tmp_path / "outer", "init", "-q")
    git(tmp_path / "outer", "commit", "-q", "--allow-empty", "-m", "of somebody else")
    assert (provenance(settings, inner)["git_commit"], provenance(settings, inner)["git_dirty"]) == (
        "none",
        "unknown",
    )
    git(inner, "init", "-q")
    git(inner, "add", ".")
    git(inner, "commit", "-q", "-m", "own")
    assert len(provenance(settings, inner)["git_commit"]) == 40
    assert provenance(settings, inner)["git_dirty"] == "false"
    (inner / "serving" / "new.py").write_text("")
    assert provenance(settings, inner)["git_dirty"] == "true"


def test_a_checkout_that_git_does_not_trust_has_no_commit(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout(tmp_path / "theirs")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "own")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert provenance(settings, root)["git_commit"] == "none"


def test_the_same_code_has_the_same_digest_and_any_change_of_it_another(tmp_path: Path) -> None:
    one, other = checkout(tmp_path / "one"), checkout(tmp_path / "other")
    assert code_digest(one) == code_digest(other)
    (other / "serving" / "notes.txt").write_text("no code")
    (other / "serving" / "__pycache__").mkdir()
    assert code_digest(one) == code_digest(other)
    (other / "serving" / "__init__.py").write_text("x = 1\n")
    changed = code_digest(other)
    (other / "serving" / "__init__.py").rename(other / "serving" / "moved.py")
    assert len({code_digest(one), changed, code_digest(other)}) == 3
    assert code_digest() == code_digest()
