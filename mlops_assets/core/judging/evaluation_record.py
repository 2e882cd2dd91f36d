"""What the evaluation of a candidate measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlops_assets.core.judging.measuring.slices import Slice


@dataclass(frozen=True)
class Evaluation:
    """The figures that the gate decides on.

    An undefined metric is NaN, with its reason in `undefined`. The gate refuses a candidate with NaN.
    """

    rows: int
    positives: int
    clusters: Mapping[str, int]  # the number of groups, by names such as "routes"
    resampled: str  # the name of the `clusters` by which the difference varies most
    first_day: str
    last_day: str
    k: int
    reviews_per_day: int
    reference: str  # "champion", "baseline" where there is none, or "none"
    metrics: Mapping[str, Mapping[str, float]]  # by "candidate", "champion", "baseline", as given
    undefined: Mapping[str, str]
    difference: float  # average precision, candidate minus reference
    bootstrap: tuple[float, ...]  # the difference on each resample
    # 90 % intervals of average precision and value saved: of both models and of their difference
    intervals: Mapping[str, tuple[float, float]]
    slices: tuple[Slice, ...]
    # the relative calibration error that correct scores show by chance, on each draw of labels
    calibration_by_chance: tuple[float, ...] = ()
    # events of the same days without a verdict, which no other figure covers
    unknown_rows: int | None = None
    unknown_value: float | None = None  # the sum of their values; None where cases are counted
    train_rows: int | None = None
    train_positive_share: float | None = None
    # the factor between the values and the expected values, see `evaluate`
    value_factor: float | None = None
    value: str | None = None  # the name of the value column

    def lower_bound(self, confidence: float) -> float:
        """The one-sided lower bound of the difference by percentile bootstrap. NaN where it is undefined."""
        return float(np.quantile(self.bootstrap, 1 - confidence)) if self.bootstrap else math.nan

    @property
    def positive_share(self) -> float:
        """The share of positives in the holdout, from 0 to 1; NaN without rows."""
        return self.positives / self.rows if self.rows else math.nan

    @property
    def unknown_share(self) -> float | None:
        """The share of events without a verdict on the holdout's days. None where these were not counted."""
        total = self.rows + (self.unknown_rows or 0)
        return None if self.unknown_rows is None or not total else self.unknown_rows / total

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON, with null for NaN and quantiles for resamples.

        The counts of `clusters` are at the top level. Figures about the value column have its name, such as
        "unknown_weight" and "weight_factor".
        """
        values = {**asdict(self), "unknown_share": self.unknown_share}
        values |= values.pop("clusters")
        name, unknown, factor = (values.pop(key) for key in ("value", "unknown_value", "value_factor"))
        if name is not None:
            values |= {f"unknown_{name}": unknown, f"{name}_factor": factor}
        values |= {name: _quantiles(getattr(self, name)) for name in ("bootstrap", "calibration_by_chance")}
        values["slices"] = [
            {**asdict(one), "difference": one.difference, "bootstrap": _quantiles(one.bootstrap)}
            for one in self.slices
        ]
        return _without_nan(values)


def _quantiles(resamples: Sequence[float]) -> dict[str, float | None]:
    shown = (0.05, 0.1, 0.5, 0.9, 0.95)
    values: Sequence[float | None] = (
        np.quantile(resamples, shown).tolist() if len(resamples) else [None] * len(shown)
    )
    return {
        "resamples": len(resamples),
        **{f"q{round(100 * q):02d}": value for q, value in zip(shown, values, strict=True)},
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
