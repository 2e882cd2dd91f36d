"""The seam of scorers. A scorer gives a vector its calibrated score; the bundle's `family` names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serving.errors import ServingError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from serving.contract.bundle import Release

FAMILIES = ("lightgbm", "onnx")


class ScorerError(ServingError):
    """A model that cannot be scored here; the message says what is missing or wrong."""


class Scorer(Protocol):
    """A loaded model with its calibrator.

    - Equal rows get equal bits: in a batch and alone, in any process on one machine.
    - A missing value is NaN.
    - Several threads may use one scorer at once.
    - A row of another width than `features` raises `ValueError`.
    """

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns, in the model's order."""
        ...

    def score(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Calibrated scores from 0 to 1, one a row of [rows, features]."""
        ...

    def score_one(self, values: Sequence[float]) -> float:
        """The calibrated score of one vector, equal to the bit to `score` of the same row."""
        ...

    def contributions(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[rows, features]: what each value added to the log-odds of its row.

        The first call may take some tenths of a second.
        """
        ...


def load_scorer(release: Release, directory: Path) -> Scorer:
    """The scorer of a release by its `family`; `directory` is the verified bundle.

    `ScorerError` for a family that this platform does not score, or whose library is not installed. A
    library's own error for a damaged model is not changed.
    """
    if release.family == "lightgbm":
        from serving.contract.scorers import lightgbm

        return lightgbm.Scorer(release.model_text, release.calibrator)
    if release.family == "onnx":
        from serving.contract.bundle import ONNX
        from serving.contract.scorers import onnx

        return onnx.Scorer((directory / ONNX).read_bytes())
    raise ScorerError(f"family {release.family!r}: this platform scores {' and '.join(FAMILIES)}")
