"""What the machinery has to be told of a use case: names, schemas, where events come from.

A second use case is a second value of this class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlops_assets.core.data.base import Source
from serving.contract.bounds import Bounds

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema


@dataclass(frozen=True)
class Feed:
    """One stream of rows that comes in: its canonical columns, what an accepted row satisfies on its arrival
    day, and how repeats are told apart.
    """

    columns: pa.Schema
    raw_columns: pa.Schema
    schema: Callable[[date | None], DataFrameSchema]
    key: tuple[str, ...]
    order: tuple[str, ...]
    prefer: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureView:
    """One feature view as the graph shows it; `stream` is the lake dataset that it aggregates."""

    name: str
    stream: str
    description: str


@dataclass(frozen=True)
class UseCase:
    """Declarations of one use case; no value here opens a file or imports a heavy library before it is
    called.
    """

    name: str
    description: str
    owner: str
    feature_service: str
    views: tuple[FeatureView, ...]
    drift_columns: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    transactions: Feed
    labels: Feed
    open_source: Callable[[Mapping[str, Any], Path], Source]
    within: Callable[[UseCase, Bounds], UseCase]  # the use case, held to the bounds of a configuration
