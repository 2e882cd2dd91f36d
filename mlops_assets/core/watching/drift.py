"""Whether the served features and scores are distributed like those of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mlops_assets.core.watching.drift_page import PAGE_ROWS
from mlops_assets.core.watching.drift_page import page as page_of
from mlops_assets.core.watching.drift_thresholds import DriftThresholds
from mlops_assets.core.watching.stability import known as known_values
from mlops_assets.core.watching.stability import psi_of_known


@dataclass(frozen=True)
class DriftReport:
    """The comparison of a day with a reference.

    Without `tested`, nothing is known, for the reason in `note`. That is neither drift nor its absence.
    """

    drifted: bool
    tested: bool
    share: float | None  # the share of drifted columns among the tested columns
    columns: Mapping[str, float]  # the index of each tested column
    moved: tuple[str, ...]  # the drifted columns
    untested: Mapping[str, str]  # the reason by column
    reference_rows: int
    current_rows: int
    note: str
    html: str = field(default="", repr=False)

    @property
    def quiet(self) -> bool:
        """Whether all columns were tested, and too few drifted."""
        return self.tested and not self.drifted and not self.untested


def data_drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[str],
    thresholds: DriftThresholds,
    *,
    page: bool = True,
) -> DriftReport:
    """The drift of features. It is drift where at least `drift_share` of the tested columns drifted.

    Figures come from all rows. The page shows a sample of them.
    """
    return _report(reference, current, tuple(columns), thresholds, thresholds.drift_share, page)


def prediction_drift(
    reference_scores: pd.Series,
    current_scores: pd.Series,
    thresholds: DriftThresholds,
    reference_decisions: pd.Series | None = None,
    current_decisions: pd.Series | None = None,
    *,
    name: str = "score",
    page: bool = True,
) -> DriftReport:
    """The drift of scores, and of decisions where both sides are given. Either of them is enough.

    `name` is the name of the score in the report.
    """
    sides = {name: (reference_scores, current_scores)}
    if reference_decisions is not None and current_decisions is not None:
        sides["decision"] = (reference_decisions, current_decisions)
    reference, current = (
        pd.DataFrame({name: np.asarray(pair[side]) for name, pair in sides.items()}) for side in (0, 1)
    )
    return _report(reference, current, tuple(sides), thresholds, 0.0, page)


def not_tested(why: str, reference_rows: int, current_rows: int) -> DriftReport:
    """A report without a result. `why` says why the two sides cannot be compared."""
    return DriftReport(
        drifted=False,
        tested=False,
        share=None,
        columns={},
        moved=(),
        untested={},
        reference_rows=reference_rows,
        current_rows=current_rows,
        note=f"not tested: {why}",
    )


def _report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: tuple[str, ...],
    thresholds: DriftThresholds,
    drift_share: float,
    page: bool,
) -> DriftReport:
    known = {
        name: (known_values(reference[name]), known_values(current[name]))
        for name in columns
        if name in reference and name in current
    }
    untested = {
        name: why
        for name in columns
        if (why := _why_not(reference, current, name, known.get(name), thresholds.min_rows))
    }
    tested = [name for name in columns if name not in untested]
    values = {name: psi_of_known(*known[name]) for name in tested}
    shifts = {
        name: len(known[name][0]) / len(reference) - len(known[name][1]) / len(current) for name in tested
    }
    gone = {name: shift for name, shift in shifts.items() if abs(shift) >= thresholds.null_shift}
    moved = tuple(name for name in tested if values[name] >= thresholds.psi or name in gone)
    share = len(moved) / len(tested) if tested else None
    notes = [f"{name} not tested: {why}" for name, why in untested.items()]
    notes += [f"the share of nulls in {name} changed by {shift:+.0%}" for name, shift in gone.items()]
    if page and tested and max(len(reference), len(current)) > PAGE_ROWS:
        notes.append(f"the page shows {PAGE_ROWS:,} rows of each side, the figures come from all of them")
    if not columns:
        notes.append("no columns were given")
    return DriftReport(
        drifted=share is not None and bool(moved) and share >= drift_share,
        tested=bool(tested),
        share=share,
        columns=values,
        moved=moved,
        untested=untested,
        reference_rows=len(reference),
        current_rows=len(current),
        note=_common(untested, columns) or "; ".join(notes),
        html=page_of(reference, current, tested, thresholds.psi, drift_share) if page and tested else "",
    )


def _why_not(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    name: str,
    known: tuple[pd.Series, pd.Series] | None,
    min_rows: int,
) -> str:
    for i, (side, frame) in enumerate((("the reference", reference), ("the current data", current))):
        if len(frame) < min_rows:
            return f"{side} has {len(frame):,} rows, at least {min_rows:,} are needed"
        if name not in frame:
            return f"{side} has no such column"
        if known and not len(known[i]):
            return f"it is null in all {len(frame):,} rows of {side}"
        if known and len(known[i]) < min_rows:
            return f"it is known in {len(known[i]):,} rows of {side}, at least {min_rows:,} are needed"
    return ""


def _common(untested: Mapping[str, str], columns: tuple[str, ...]) -> str:
    """One sentence where all columns have the same problem, such as too few rows. Otherwise empty."""
    reasons = set(untested.values())
    return (
        f"not tested: {reasons.pop()}"
        if len(columns) > 1 and len(untested) == len(columns) and len(reasons) == 1
        else ""
    )
