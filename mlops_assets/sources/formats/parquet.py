"""One Parquet file: its wanted columns, and the arrival days in its footer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_assets.core.data.values.value_rules import USUAL
from mlops_assets.sources.column_layout import Layout
from mlops_assets.sources.formats.content import ContentError, Raw


def read(handle: IO[bytes], layout: Layout) -> Raw:
    """The wanted columns of a Parquet file. Raises `ContentError`."""
    with _opened(handle) as parquet:
        names = list(parquet.schema_arrow.names)
        columns = layout.chosen(names)
        # A thread of Arrow that holds the Python file at the end of the interpreter would abort the process.
        table = parquet.read(columns=columns, use_threads=False)
        return Raw(table, names, row_numbers)


def row_numbers(rows: np.ndarray) -> list[str]:
    """The places of rows (from 0) in words, such as `row 1`."""
    return [f"row {row + 1}" for row in rows.tolist()]


def days_of_footer(handle: IO[bytes], layout: Layout) -> tuple[date, date] | None:
    """The first and the last arrival day by the footer. None where its statistics are incomplete.

    Raises `ContentError`.
    """
    with _opened(handle) as parquet:
        column = layout.arrival_column(list(parquet.schema_arrow.names))
        try:
            days = _days(parquet.metadata, column) if isinstance(column, str) else None
            if days is None or layout.rules.timezone == USUAL.timezone:
                return days
            # The footer can have days of a local clock.
            return days[0] - timedelta(days=1), days[1] + timedelta(days=1)
        except (OverflowError, ValueError):  # Python's datetime cannot hold the value.
            return None


@contextmanager
def _opened(handle: IO[bytes]) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(handle) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ContentError(
            f"cannot be read as Parquet ({reason}); it may be cut off: fetch it again"
        ) from error


def _days(metadata: pq.FileMetaData, column: str) -> tuple[date, date] | None:
    schema = metadata.schema.to_arrow_schema()
    position = next(
        (i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column), None
    )
    if position is None or not pa.types.is_timestamp(schema.field(schema.get_field_index(column)).type):
        return None
    days = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(position).statistics
        if (
            statistics is None
            or not statistics.has_min_max
            or not statistics.has_null_count
            or statistics.null_count
        ):
            return None
        days += [_day(statistics.min), _day(statistics.max)]
    return (min(days), max(days)) if days else None


def _day(value: datetime) -> date:
    offset = value.utcoffset()
    return (value.replace(tzinfo=None) - offset if offset else value).date()
