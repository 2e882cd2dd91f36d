"""The service follows a promotion and its rollback: model, features, thresholds and version go
back together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from serving_kit import Running, TinyRegistry, tiny_release

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.promotion import lifecycle_of

NOW = datetime(2025, 4, 10, tzinfo=UTC)
POLL_S = 0.1  # as the service is started here


@pytest.mark.slow
def test_a_rollback_reaches_the_service_within_its_poll_interval_as_one_bundle(
    plan: FeaturePlan, tmp_path: Path, launch: Callable[..., Running]
) -> None:
    home = tmp_path / "home"
    lifecycle = lifecycle_of(Settings(home=home))
    client = lifecycle.registry.client()
    for seed, against in ((1, None), (2, "1")):
        number = TinyRegistry(home).register(tiny_release(plan, seed), tmp_path / str(seed))
        client.set_model_version_tag("fraud", number, "as_of", "2025-04-10")
        verdict = {"promote": True, "reasons": ["better"], "champion": against}
        lifecycle.registry.log_evaluation(lifecycle.registry.version(number), {}, verdict)
    lifecycle.follow_the_gate("1", NOW, "run")
    service = launch(home)
    service.wait()

    def answer(name: str) -> dict[str, Any]:
        features = {feature: 10.0 + place for place, feature in enumerate(plan.features)}
        given = service.client.post("/predict", json={"prediction_id": name, "features": features})
        assert given.status_code == 200, given.text
        return {key: given.json()[key] for key in ("model_version", "fraud_score", "threshold", "decision")}

    first = answer("a")
    lifecycle.follow_the_gate("2", NOW, "run")
    service.wait_for_version("2")
    second = answer("b")
    assert (first["model_version"], second["model_version"]) == ("1", "2")
    assert first["threshold"] != second["threshold"]
    lifecycle.roll_back(NOW, "anna", "too many alarms")
    began = time.monotonic()
    service.wait_for_version("1", seconds=20)
    took = time.monotonic() - began
    assert answer("c") == first
    assert answer("b") == second, "what was answered stays answered"
    # One poll, and the golden rows in a process of their own before the swap.
    assert took < POLL_S + 15
