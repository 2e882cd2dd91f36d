"""The recorded facts that a model card is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops_assets.core.words import Words
from serving.contract.subject import Subject


@dataclass(frozen=True)
class Facts:
    """The recorded facts of a version.

    `tags` are those of the registered version. `record` has the keys of `provenance.json`. `library` is the
    name of the model family, and `made_by` its description, such as "gradient-boosted trees (LightGBM)".
    `review` and `block` are the thresholds of the policy. `champion` is the version that serves now.
    """

    subject: Subject
    library: str
    made_by: str
    description: str
    owner: str
    version: str
    run_id: str
    champion: str | None
    tags: Mapping[str, str]
    record: Mapping[str, Any]
    features: tuple[str, ...]
    review: float
    block: float

    @property
    def use_case(self) -> str:
        """The name of the use case."""
        return self.subject.name

    @property
    def name(self) -> str:
        """The name of the version, with its use case."""
        return f"{self.use_case} version {self.version}"

    @property
    def words(self) -> Words:
        """The words of the use case."""
        return Words.of(self.subject)
