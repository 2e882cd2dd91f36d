"""The seam of model families: what training, evaluation and bundles need from a library that fits models."""

from __future__ import annotations

from typing import Any, Protocol

from mlops_assets.core.judging.measuring.measures import Scores
from mlops_assets.core.learning.learner import Learner, Matrix
from serving.contract.bundle import Release


class ModelFamily(Learner, Protocol):
    """A kind of model: fits (`Learner`), search space, contributions and export.

    A family promises three things. Equal rows, recipe and seed give equal bytes of the model text. The text
    gives equal scores in training and in the service. The exported file gives the scores of the service.
    """

    @property
    def name(self) -> str:
        """The name of the family in bundles and model cards, such as "lightgbm"."""
        ...

    @property
    def description(self) -> str:
        """The kind of model in words, for model cards."""
        ...

    def contributions(self, fit: Release, rows: Matrix) -> Scores:
        """The contribution of each feature to the log-odds, without the constant: [rows, features]."""
        ...

    def export(self, release: Release, score: str) -> bytes:
        """The bytes of the release as an ONNX file with the output `score`.

        The file gives every golden row its recorded score. Raises a `PlatformError` where it does not, or
        where ONNX cannot express the model.
        """
        ...

    def log_model(self, mlflow: Any, text: str, example: Matrix) -> str:
        """Log the model of that text to MLflow's active run. Returns its URI.

        `example` holds some rows of features; the model's signature follows from them.
        """
        ...
