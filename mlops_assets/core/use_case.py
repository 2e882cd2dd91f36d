"""A use case: the frozen value that a folder of declarations gives to the machinery. A second
use case is a second value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlops_assets.core.data.base import Source
from serving.contract.bounds import Bounds
from serving.contract.subject import Subject

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema


@dataclass(frozen=True)
class Table:
    """The rows of a feed: canonical columns, what an accepted row satisfies, and how repeats
    are told apart.
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


@dataclass(frozen=True, kw_only=True)
class UseCase(Subject):
    """The subject, and what only the code location needs.

    No value here opens a file or imports a heavy library.

    `declarations` is the package with the Feast objects.
    """

    description: str
    owner: str
    declarations: str
    feature_service: str
    views: tuple[FeatureView, ...]
    drift_columns: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    event_table: Table
    label_table: Table
    open_source: Callable[[Mapping[str, Any], Path], Source]
    within: Callable[[UseCase, Bounds], UseCase]  # the use case, held to the bounds of a configuration

    @property
    def subject(self) -> Subject:
        """What travels in the release bundle."""
        return Subject(**{field.name: getattr(self, field.name) for field in fields(Subject)})
