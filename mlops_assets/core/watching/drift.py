"""Whether what is served still looks like what the model was trained on, with figures and Evidently's page."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Ge, Gt, Le

from mlops_assets.core.judging.measures import UndefinedMetric

BINS = 10  # deciles of the reference, for which the customary limits of the index were found
PAGE_ROWS = 5_000  # Evidently puts points on the page; more make it larger and slower, not clearer
METHOD = "psi_deciles"

Numbers = npt.NDArray[Any]


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


@dataclass(frozen=True)
class DriftReport:
    """What a comparison of a day with a reference found.

    `tested` false: nothing is known, for the reason in `note`. That is neither drift nor its absence.
    """

    drifted: bool
    tested: bool
    share: float | None  # of the tested columns, those that drifted
    columns: Mapping[str, float]  # index of each tested column
    moved: tuple[str, ...]  # columns that drifted
    untested: Mapping[str, str]  # column and why
    reference_rows: int
    current_rows: int
    note: str
    html: str = field(default="", repr=False)

    @property
    def quiet(self) -> bool:
        """Every column was tested, and too few of them drifted."""
        return self.tested and not self.drifted and not self.untested


def data_drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[str],
    thresholds: DriftThresholds,
    *,
    page: bool = True,
) -> DriftReport:
    """A report that is drifted where at least `drift_share` of the tested columns are.

    Figures come from all rows given, the page from a sample of them.
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
    """Whether the scores drifted, or, where both sides are given, the shares of the decisions.

    Either one is enough: they are what the business sees. `name` is that of the score in the report.
    """
    sides = {name: (reference_scores, current_scores)}
    if reference_decisions is not None and current_decisions is not None:
        sides["decision"] = (reference_decisions, current_decisions)
    reference, current = (
        pd.DataFrame({name: np.asarray(pair[side]) for name, pair in sides.items()}) for side in (0, 1)
    )
    return _report(reference, current, tuple(sides), thresholds, 0.0, page)


def not_tested(why: str, reference_rows: int, current_rows: int) -> DriftReport:
    """A report that says nothing, and why: what was served and the reference cannot be compared."""
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


def psi(reference: Any, current: Any, bins: int = BINS) -> float:
    """Population stability index: sum over bins of (p - q) * ln(p / q), p and q the shares of current and
    reference (Siddiqi, 2006).

    Numbers fall into quantile bins of the reference, where a value that alone fills half a bin has one to
    itself (most counts are 0); anything else is a category. Nulls and infinite values are left out. Half a
    row is added to each bin, so that an empty bin gives no infinity. Raises `UndefinedMetric` where a side has
    no known values.
    """
    before, now = _known(pd.Series(reference)), _known(pd.Series(current))
    for side, values in (("reference", before), ("current", now)):
        if not len(values):
            raise UndefinedMetric("the population stability index", f"the {side} data has no known values")
    return _psi(before, now, bins)


def _psi(before: pd.Series, now: pd.Series, bins: int = BINS) -> float:
    if pd.api.types.is_numeric_dtype(before) and pd.api.types.is_numeric_dtype(now):
        old, new = _binned(before.to_numpy(dtype=np.float64), now.to_numpy(dtype=np.float64), bins)
    else:
        codes = pd.factorize(pd.concat([before, now]).astype(str))[0]
        size = int(codes.max()) + 1
        old, new = (
            np.bincount(codes[: len(before)], minlength=size),
            np.bincount(codes[len(before) :], minlength=size),
        )
    q, p = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    return float(np.sum((p - q) * np.log(p / q)))


def _report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: tuple[str, ...],
    thresholds: DriftThresholds,
    drift_share: float,
    page: bool,
) -> DriftReport:
    known = {
        name: (_known(reference[name]), _known(current[name]))
        for name in columns
        if name in reference and name in current
    }
    untested = {
        name: why
        for name in columns
        if (why := _why_not(reference, current, name, known.get(name), thresholds.min_rows))
    }
    tested = [name for name in columns if name not in untested]
    values = {name: _psi(*known[name]) for name in tested}
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
        html=_page(reference, current, tested, thresholds, drift_share) if page and tested else "",
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
    """One sentence where every column has the same trouble: too few rows should not be said ten times."""
    reasons = set(untested.values())
    return (
        f"not tested: {reasons.pop()}"
        if len(columns) > 1 and len(untested) == len(columns) and len(reasons) == 1
        else ""
    )


def _known(values: pd.Series) -> pd.Series:
    if not pd.api.types.is_numeric_dtype(values):
        return values.dropna()
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Series(numbers[np.isfinite(numbers)])


def _binned(before: Numbers, now: Numbers, bins: int) -> tuple[Numbers, Numbers]:
    """Counts in each bin.

    One comparison a cut over all values is ten times faster than searching the cuts for each value.
    """
    places = sorted({len(before) * i // bins for i in range(1, bins)})
    cuts = np.unique(np.partition(before, places)[places])
    own = [cut for cut in cuts if 2 * bins * np.count_nonzero(before == cut) >= len(before)]
    # Bins are closed above: (below it, it] is its own.
    cuts = np.unique(np.concatenate([cuts, np.nextafter(own, -np.inf)]))
    old, new = (
        np.diff([0, *(np.count_nonzero(values <= cut) for cut in cuts), len(values)])
        for values in (before, now)
    )
    filled = (old + new) > 0
    return old[filled], new[filled]


def _page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: list[str],
    thresholds: DriftThresholds,
    drift_share: float,
) -> str:
    """Evidently's report, with the index above as its method.

    It sends nothing: only Evidently's own service has telemetry.
    """
    with warnings.catch_warnings():
        # Of what Evidently imports; nobody who reads a report can do anything about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        _register_method()
    reference, current = _sample(reference), _sample(current)
    # Evidently raises where all is null.
    columns = [name for name in columns if len(_known(reference[name])) and len(_known(current[name]))]
    if not columns:
        return ""
    numbers = [
        name
        for name in columns
        if pd.api.types.is_numeric_dtype(reference[name]) and pd.api.types.is_numeric_dtype(current[name])
    ]
    others = [name for name in columns if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=others)
    before, now = (
        Dataset.from_pandas(
            frame[columns].astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(others, "str")),
            definition,
        )
        for frame in (reference, current)
    )
    preset = DataDriftPreset(
        columns=columns,
        drift_share=drift_share or 1 / len(columns),
        method=METHOD,
        threshold=thresholds.psi,
        include_tests=True,
    )
    return str(Report([preset]).run(now, before).get_html_str(as_iframe=False))


def _sample(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(PAGE_ROWS, random_state=0) if len(frame) > PAGE_ROWS else frame


@cache
def _register_method() -> None:
    """Once a process: Evidently finds methods by name.

    Its own "psi" cuts bins of equal width over both sides, where one outlier blinds it.
    """
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def method(reference: pd.Series, current: pd.Series, _: Any, threshold: float) -> tuple[float, bool]:
        value = psi(reference, current)
        return value, value >= threshold

    register_stattest(
        StatTest(
            METHOD,
            "PSI (deciles of the reference)",
            [ColumnType.Numerical, ColumnType.Categorical],
            default_threshold=0.2,
        ),
        method,
    )
