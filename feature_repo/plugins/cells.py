"""Cells of the frames that people hand to Feast: missing values, ids, times."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.engine.ids import NotAnId, id_text

Ints = NDArray[np.int64]


def is_null(value: Any) -> bool:
    """Whether a cell is missing: None, NaN, or the missing value of pandas."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float | np.floating | Decimal) and bool(value != value)


def id_or_null(value: Any, column: str, row: int) -> str | None:
    """A cell as an id; None for a missing cell. `NotAnId` names the column and the row, from 0."""
    if is_null(value):
        return None
    try:
        return id_text(value)
    except NotAnId as error:
        raise NotAnId(value, column, row) from error


def frame_times(frame: pd.DataFrame, name: str) -> tuple[Ints, NDArray[np.bool_]]:
    """The microseconds of a column, and which cells hold a time. A time without a zone is UTC."""
    if name not in frame.columns or pd.api.types.is_numeric_dtype(frame[name].dtype):
        return np.zeros(len(frame), np.int64), np.zeros(len(frame), bool)
    given = frame[name]
    if not pd.api.types.is_datetime64_any_dtype(given.dtype):
        given = pd.to_datetime(given, utc=True, format="ISO8601", errors="coerce")
    index = pd.DatetimeIndex(given)
    return index.as_unit("us").asi8, ~np.asarray(index.isna())


def id_or_as_is(value: Any) -> Any:
    """A whole number as its text, and None for a missing cell.

    Any other value stays as it is, and its type is refused later.
    """
    try:
        return None if is_null(value) else id_text(value)
    except NotAnId:
        return value


def cell_or_none(value: Any) -> Any:
    """A cell, with None for the missing values of pandas.

    NaN stays NaN, because a NaN in a column of numbers is an error and no null.
    """
    return None if value is pd.NA or value is pd.NaT else value
