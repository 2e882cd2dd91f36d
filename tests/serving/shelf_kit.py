"""A registry of a few bundles without MLflow, and the follower that asks it."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving_kit import ONNX_FILE, REFERENCE, tiny_release

from feature_repo.engine.plan import FeaturePlan
from serving.champion_registry import Named
from serving.contract.bundle import Release, write_release
from serving.releases import Follower
from serving.settings import ServingSettings


class Shelf:
    """A registry that names one bundle and counts how often it is fetched; and the world around the follower,
    as the test sets it.
    """

    def __init__(self, tmp_path: Path, plan: FeaturePlan, home: Path | None = None) -> None:
        self.downloads, self._folder = 0, tmp_path / "shelf"
        self.named = self.put("1", tiny_release(plan))
        self.reasons: list[str] = []
        self.seconds = 1_000.0
        self.outcomes: list[str] = []
        self.settings = ServingSettings(home or tmp_path / "home", clock="event")
        self.follower = Follower(
            self.settings, self, lambda plan: self.reasons, self.outcomes.append, lambda: self.seconds
        )

    @property
    def bundle(self) -> Path:
        """The bundle that is named."""
        return self._folder / self.named.version / "bundle"

    def put(self, version: str, release: Release) -> Named:
        """One more bundle. It is not named yet."""
        digest = write_release(release, self._folder / version / "bundle", REFERENCE, ONNX_FILE)
        return Named(version, "run", digest)

    def champion(self) -> Named:
        return self.named

    def download(self, named: Named, into: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copytree(self._folder / named.version / "bundle", into / "bundle"))

    def poll(self, after_s: float = 0) -> str | None:
        self.seconds += after_s
        self.follower.poll()
        return self.follower.current.version if self.follower.current else None
