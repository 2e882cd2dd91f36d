"""The thresholds of drift, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class DriftThresholds:
    """The thresholds of drift, each with its reason."""

    # Siddiqi, Credit Risk Scorecards (2006): no shift below 0.1, a significant one from 0.2 (others: 0.25).
    psi: Annotated[float, Gt(0)] = 0.2
    # Of the columns. One column can move by chance, two of ten have a common cause.
    drift_share: Annotated[float, Gt(0), Le(1)] = 0.2
    # Of the rows. The index compares values only, and a column that becomes null is drift too.
    null_shift: Annotated[float, Gt(0), Le(1)] = 0.2
    # Chance gives an index of about 9 / rows, here 0.045, and less than 0.1 on 95 of 100 days.
    min_rows: Annotated[int, Ge(1)] = 200
