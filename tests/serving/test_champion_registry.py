"""The registry is asked cheaply as long as it says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_kit import TinyRegistry, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.champion_registry import DIGEST_TAG, MlflowRegistry


@pytest.mark.slow
def test_mlflows_client_is_asked_only_where_the_alias_or_its_digest_is_another(
    tmp_path: Path, plan: FeaturePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    shelf = TinyRegistry(tmp_path)
    registry = MlflowRegistry(shelf.uri, "fraud")
    assert registry.champion() is None  # There is no database, and none is made.
    assert not (tmp_path / "mlflow").exists()
    first, second = (shelf.register(tiny_release(plan, seed), tmp_path / str(seed)) for seed in (1, 2))
    assert registry.champion() is None
    asked: list[str] = []
    by_alias = MlflowClient.get_model_version_by_alias
    monkeypatch.setattr(
        MlflowClient,
        "get_model_version_by_alias",
        lambda self, *names: asked.append(names[1]) or by_alias(self, *names),
    )

    def versions() -> list[str]:
        return [named.version for named in (registry.champion() for _ in range(3)) if named is not None]

    shelf.promote(first)
    assert versions() == [first] * 3
    assert len(asked) == 1
    shelf.promote(second)
    assert versions() == [second] * 3
    assert len(asked) == 2
    shelf.promote(first)
    assert versions() == [first] * 3
    assert len(asked) == 3
    client = MlflowClient(shelf.uri, shelf.uri)
    client.set_model_version_tag("fraud", first, DIGEST_TAG, "another")
    named = registry.champion()
    assert named is not None
    assert (named.version, named.digest) == (first, "another")
    client.delete_registered_model_alias("fraud", "champion")
    assert registry.champion() is None
