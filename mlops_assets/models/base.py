"""The seam of model families: what training, evaluation and the bundle need of a library that fits models."""

from __future__ import annotations

from typing import Any, Protocol

from mlops_assets.core.judging.measuring.measures import Scores
from mlops_assets.core.learning.learner import Learner, Matrix
from serving.contract.bundle import Release


class ModelFamily(Learner, Protocol):
    """A way to fit models: fits (`Learner`), their search space, contributions and export.

    A family promises that equal rows, recipe and seed give equal bytes of the model text, that the text
    scores alike in training and in the service, and that the exported file gives the service's scores.
    """

    @property
    def name(self) -> str:
        """The name of the family in bundles, and of its library on model cards, such as "lightgbm"."""
        ...

    @property
    def description(self) -> str:
        """What the models are, for a model card."""
        ...

    def contributions(self, fit: Release, rows: Matrix) -> Scores:
        """What each feature added to the margin of each row: [rows, features], without the constant."""
        ...

    def export(self, release: Release, score: str) -> bytes:
        """The release as an ONNX file whose output is named `score`, after it gave every golden row its
        score.
        """
        ...

    def log_model(self, mlflow: Any, text: str, example: Matrix) -> str:
        """Log the model of that text to MLflow's active run; returns its address.

        `example` holds some rows of features; the model's signature follows from them.
        """
        ...
