"""A registry of versions that nothing was trained for: bundles whose files are whole, and verdicts as the
test writes them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.promotion import Lifecycle, lifecycle_of
from mlops_assets.resources.registry import BUNDLE, ModelRegistry, Version, digest_tag
from serving.contract.before_subjects import BEFORE
from serving.contract.bundle import Release, write_release
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator

AT = datetime(2025, 4, 10, 12, tzinfo=UTC)
GOOD = ("better in every way",)


def release(seed: int) -> Release:
    """A bundle of its own for every seed; the text has a model's header and nothing to score with."""
    text = f"tree\nfeature_names=amount\nseed={seed}\n"
    return Release(
        BEFORE,
        FeaturePlan("fraud_v1", (), (), ("amount",)),
        ("amount",),
        text,
        Calibrator(1.0, 0.0),
        Policy(0.5, 0.9),
        7.0,
        {},
        ([[1.0]], [0.5]),
    )


class Shelf:
    """Versions of a registry under a home, and the decisions on them."""

    def __init__(self, home: Path, reference: Sequence[float] = (0.1,)) -> None:
        """`reference`: the scores of each version's drift reference."""
        self.home, self.reference = home, list(reference)
        self.lifecycle: Lifecycle = lifecycle_of(Settings(home=home))
        self.registry: ModelRegistry = self.lifecycle.registry

    def copied(self, home: Path) -> Shelf:
        shutil.copytree(self.home, home)
        return Shelf(home, self.reference)

    def register(self, as_of: str = "2025-04-10", seed: int | None = None, **facts: object) -> Version:
        """One more version, whose bundle differs from all others unless a seed is given."""
        client = self.registry.client()
        self.registry._database.make_experiment(self.registry.name)
        experiment = client.get_experiment_by_name(self.registry.name)
        run = client.create_run(experiment.experiment_id)
        if not client.search_registered_models(f"name = '{self.registry.name}'"):
            client.create_registered_model(self.registry.name)
        number = len(client.search_model_versions(f"name = '{self.registry.name}'")) + 1
        with tempfile.TemporaryDirectory() as folder:
            made_of = replace(release(number if seed is None else seed), facts=facts)
            reference = pa.table({"amount": [number] * len(self.reference), "fraud_score": self.reference})
            digest = write_release(made_of, Path(folder, BUNDLE), reference, b"onnx")
            client.log_artifacts(run.info.run_id, str(Path(folder, BUNDLE)), BUNDLE)
        tags = {"as_of": as_of, digest_tag(BUNDLE): digest}
        made = client.create_model_version(
            self.registry.name, f"runs:/{run.info.run_id}/{BUNDLE}", run.info.run_id, tags=tags
        )
        return self.registry.version(made.version)

    def judge(
        self,
        version: Version,
        promote: bool = True,
        against: str | None = None,
        reasons: tuple[str, ...] = GOOD,
        barred: Any = (),
    ) -> None:
        """The verdict of the gate, as the evaluation records it; `against` is the champion that it was
        measured against.
        """
        self.registry.log_evaluation(
            version, {}, {"promote": promote, "reasons": reasons, "barred": barred, "champion": against}
        )

    def candidate(
        self, promote: bool = True, as_of: str = "2025-04-10", seed: int | None = None, **more: Any
    ) -> str:
        """Registered, and judged against the champion of now."""
        now = self.registry.champion()
        version = self.register(as_of, seed)
        self.judge(version, promote, now.version if now else None, **more)
        return version.version

    def gate(self, number: str, **more: Any) -> dict[str, Any]:
        return self.lifecycle.follow_the_gate(number, AT, "run", **more)

    def promoted(self, **more: Any) -> str:
        number = self.candidate(**more)
        assert self.gate(number)["kind"] == "promoted"
        return number

    def back(self, reason: str = "too many alarms") -> dict[str, Any]:
        return self.lifecycle.roll_back(AT, "anna", reason)

    @property
    def champion(self) -> str | None:
        found = self.registry.champion()
        return found.version if found else None

    @property
    def previous(self) -> str | None:
        found = self.registry._by_alias("previous")
        return found.version if found else None

    def tags(self, number: str) -> dict[str, str]:
        return dict(self.registry.version(number).tags)

    def decisions(self) -> list[tuple[str, str]]:
        return [(row["kind"], row["version"]) for row in self.lifecycle.history.entries()]
