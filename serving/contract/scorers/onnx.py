"""From a vector to a calibrated score by ONNX Runtime, for bundles of the family `onnx`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.contract.scorers.base import ScorerError

Matrix = npt.NDArray[np.float64]

INPUT = "features"  # float64 [rows, features], NaN for null.
NAMES = "features"  # The key of the file's metadata that lists the names as JSON.
SMALLEST = 1e-15  # A score is at least this far from 0 and 1 before it becomes log-odds.


class Scorer:
    """The bundle's ONNX file: one input `features`, one output with a calibrated score a row."""

    def __init__(self, content: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ScorerError(
                "the release is scored by ONNX Runtime, which is not installed; install it with"
                " `pip install onnxruntime`"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._output = self._session.get_outputs()[0].name
        told = self._session.get_modelmeta().custom_metadata_map
        if NAMES not in told:
            raise ScorerError(f"the ONNX file does not name its features (metadata {NAMES!r}, a JSON list)")
        self.features: tuple[str, ...] = tuple(json.loads(told[NAMES]))

    def score(self, matrix: Matrix) -> Matrix:
        """Calibrated scores, one a row.

        Each row is scored alone. In a batch ONNX Runtime adds the trees up in another order, and the last
        bits of a score would depend on the other rows.
        """
        self._check_width(matrix.shape[1] if matrix.ndim == 2 else -1)
        return np.array([self.score_one(row) for row in matrix.tolist()], dtype=np.float64)

    def score_one(self, values: Sequence[float]) -> float:
        """The probability for one vector. `ValueError` for a vector of another length."""
        self._check_width(len(values))
        return float(self._scores(np.array([values], dtype=np.float64))[0])

    def contributions(self, matrix: Matrix) -> Matrix:
        """[rows, features]: what each value changes in the log-odds of its row, compared with null in its
        place; 0 for a null.
        """
        self._check_width(matrix.shape[1] if matrix.ndim == 2 else -1)
        return np.array([self._changes(row) for row in matrix.tolist()]).reshape(matrix.shape)

    def _changes(self, values: Sequence[float]) -> list[float]:
        whole = _log_odds(self.score_one(values))
        without = np.tile(np.array(values, dtype=np.float64), (len(values), 1))
        np.fill_diagonal(without, np.nan)
        return [
            0.0 if value != value else whole - _log_odds(score)
            for value, score in zip(values, self._scores(without).tolist(), strict=True)
        ]

    def _scores(self, matrix: Matrix) -> Matrix:
        return np.asarray(self._session.run([self._output], {INPUT: matrix})[0], dtype=np.float64).ravel()

    def _check_width(self, columns: int) -> None:
        if columns != len(self.features):
            raise ValueError(f"the model takes {len(self.features)} features, got {columns}")


def _log_odds(score: float) -> float:
    inside = min(max(score, SMALLEST), 1.0 - SMALLEST)
    return math.log(inside / (1.0 - inside))
