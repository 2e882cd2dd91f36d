"""From a vector to a calibrated score by LightGBM.

Training, service and replay use one code path, so that equal inputs give equal bits.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract.scorers.contributions import Contributions
from serving.contract.scorers.leaf_paths import UnknownShape

Matrix = npt.NDArray[np.float64]

FEW_ROWS = 1_000  # Below this, threads cost more than they bring: p99 5.5 ms against 66 µs for one row.
# Arguments of LightGBM's C interface (c_api.h).
RAW_SCORE, FLOAT64, ROW_MAJOR, FIRST_TREE, ALL_TREES = map(ctypes.c_int, (1, 1, 1, 0, -1))
ONE_THREAD, ALL_THREADS = ctypes.c_char_p(b"num_threads=1"), ctypes.c_char_p(b"num_threads=0")


@dataclass(frozen=True)
class Calibrator:
    """Platt scaling of the model's margin: score = sigmoid(a * margin + b)."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and math.isfinite(self.b)):
            raise ValueError(f"a calibrator needs finite numbers: a={self.a!r}, b={self.b!r}")

    def one(self, margin: float) -> float:
        """The probability for one margin."""
        x = self.a * margin + self.b
        if x >= 0:
            return 1.0 / (1.0 + math.exp(-x))
        small = math.exp(x)
        return small / (1.0 + small)

    def apply(self, margins: Matrix) -> Matrix:
        """Element by element through `one`: NumPy's vectorised exp may differ from the C library's in the
        last bit.
        """
        return np.array(
            [self.one(m) for m in np.asarray(margins, dtype=np.float64).ravel().tolist()], dtype=np.float64
        )


class Scorer:
    """A LightGBM text model with its calibrator."""

    def __init__(self, model_text: str, calibrator: Calibrator) -> None:
        import lightgbm

        self.calibrator = calibrator
        self._model_text = model_text
        self.booster = lightgbm.Booster(model_str=model_text)
        self.features: tuple[str, ...] = tuple(self.booster.feature_name())
        self._raw_scores = _RawScores(self.booster, len(self.features))

    def score(self, matrix: Matrix) -> Matrix:
        """Calibrated scores, one a row; columns in the order of `features`."""
        return self.calibrator.apply(self.margins(matrix))

    def margins(self, matrix: Matrix) -> Matrix:
        """The model's raw scores, before calibration."""
        self._check_width(matrix.shape[1] if matrix.ndim == 2 else -1)
        rows = np.ascontiguousarray(matrix, dtype=np.float64)
        if not len(rows):
            return np.empty(0, dtype=np.float64)
        return self._raw_scores.of_rows(rows)

    def score_one(self, values: Sequence[float]) -> float:
        """The calibrated score of one vector, equal to the bit to `score` of the same row, at a third of its
        cost.
        """
        self._check_width(len(values))
        return self.calibrator.one(self._raw_scores.of_row(values))

    def contributions(self, matrix: Matrix) -> Matrix:
        """[rows, features]: what each value added to its row's margin (SHAP values of the trees), without the
        constant.

        The first call prepares tables, which takes some tenths of a second for a hundred trees. LightGBM's
        own call answers for a model that `Contributions` refuses. It takes ten to twenty times as long.
        """
        self._check_width(matrix.shape[1] if matrix.ndim == 2 else -1)
        if self._contributions:
            return self._contributions.of(matrix)
        if not len(matrix):
            return np.empty(matrix.shape)
        rows = np.ascontiguousarray(matrix, dtype=np.float64)
        return np.asarray(self.booster.predict(rows, pred_contrib=True, num_threads=1))[:, :-1]

    @cached_property
    def _contributions(self) -> Contributions | None:
        try:
            return Contributions(self._model_text, len(self.features))
        except UnknownShape:
            return None

    def _check_width(self, columns: int) -> None:
        if columns != len(self.features):
            raise ValueError(f"the model takes {len(self.features)} features, got {columns}")


class _RawScores:
    """LightGBM's C calls for raw scores.

    Python's `Booster` does not offer the call for one row. It spends 30 µs on the arguments of the call for
    many rows.
    """

    def __init__(self, booster: Any, columns: int) -> None:
        from lightgbm.basic import _LIB, _safe_call

        self._one, self._many = _LIB.LGBM_BoosterPredictForMatSingleRowFast, _LIB.LGBM_BoosterPredictForMat
        self._free, self._raise = _LIB.LGBM_FastConfigFree, _safe_call
        self._booster = booster  # The configuration points to the booster's handle.
        self._columns = ctypes.c_int32(columns)
        self._row = (ctypes.c_double * columns)()
        self._fill = struct.Struct(f"={columns}d").pack_into
        self._result = ctypes.c_double()
        self._config = ctypes.c_void_p()
        self._arguments = (
            self._config,
            self._row,
            ctypes.byref(ctypes.c_int64()),
            ctypes.byref(self._result),
        )
        self._lock = threading.Lock()
        _safe_call(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,
                RAW_SCORE,
                FIRST_TREE,
                ALL_TREES,
                FLOAT64,
                self._columns,
                ONE_THREAD,
                ctypes.byref(self._config),
            )
        )

    def of_row(self, values: Sequence[float]) -> float:
        with self._lock:
            self._fill(self._row, 0, *values)
            if status := self._one(*self._arguments):
                self._raise(status)
            return self._result.value

    def of_rows(self, rows: Matrix) -> Matrix:
        """`rows` is C-contiguous."""
        found = np.empty(len(rows))
        status = self._many(
            self._booster._handle,
            ctypes.c_void_p(rows.ctypes.data),
            FLOAT64,
            ctypes.c_int32(len(rows)),
            self._columns,
            ROW_MAJOR,
            RAW_SCORE,
            FIRST_TREE,
            ALL_TREES,
            ONE_THREAD if len(rows) < FEW_ROWS else ALL_THREADS,
            ctypes.byref(ctypes.c_int64()),
            ctypes.c_void_p(found.ctypes.data),
        )
        if status:
            self._raise(status)
        return found

    def __del__(self) -> None:
        if getattr(self, "_config", None):
            self._free(self._config)


def names_in_text(model_text: str) -> tuple[str, ...]:
    """The features in the header of a LightGBM text model, without loading it; () where it names none."""
    for line in model_text.split("\n", 40)[:40]:
        if line.startswith("feature_names="):
            return tuple(line.removeprefix("feature_names=").split(" "))
    return ()
