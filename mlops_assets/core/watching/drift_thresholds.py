"""The thresholds of drift, each beside its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class DriftThresholds:
    """The thresholds, each beside its reason."""

    # Siddiqi, Credit Risk Scorecards (2006): under 0.1 no shift, from 0.2 (others say 0.25) a significant one
    psi: Annotated[float, Gt(0)] = 0.2
    # of the columns: one alone can move by itself, two of ten are a cause in common
    drift_share: Annotated[float, Gt(0), Le(1)] = 0.2
    # of the rows: the index compares values only, a column that goes missing is drift too
    null_shift: Annotated[float, Gt(0), Le(1)] = 0.2
    # chance alone gives about 9 / rows: 0.045, and under 0.1 in 95 of 100 days
    min_rows: Annotated[int, Ge(1)] = 200
