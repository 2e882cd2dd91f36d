"""Evidently's page of a drift report, for people."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pandas as pd

from mlops_assets.core.watching.stability import known, psi

PAGE_ROWS = 5_000  # The page holds all points. More points make it slower, not clearer.
METHOD = "psi_deciles"


def page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: list[str],
    threshold: float,
    drift_share: float,
) -> str:
    """Evidently's report as HTML, with the index of `stability` as its method. Empty without a known value.

    Evidently sends no telemetry here. Only its own service does.
    """
    with warnings.catch_warnings():
        # The warnings come from imports of Evidently. A reader of a report can do nothing about them.
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        _register_method()
    reference, current = _sample(reference), _sample(current)
    # Evidently raises for a column without a value.
    columns = [name for name in columns if len(known(reference[name])) and len(known(current[name]))]
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
        threshold=threshold,
        include_tests=True,
    )
    return str(Report([preset]).run(now, before).get_html_str(as_iframe=False))


def _sample(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(PAGE_ROWS, random_state=0) if len(frame) > PAGE_ROWS else frame


@cache
def _register_method() -> None:
    """Register the method, once in a process. Evidently finds methods by name.

    Evidently's own "psi" has bins of equal width, which a single outlier makes useless.
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
