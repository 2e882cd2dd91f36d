"""The rows that features are asked for: a pandas frame, or SQL over the lake.

Each column becomes Arrow once, when it is first used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from numpy.typing import NDArray

from feature_repo.engine.columns import microseconds
from feature_repo.engine.ids import NotAnId, ids_of_numbers
from feature_repo.errors import FeatureError
from feature_repo.lake.datasets import Lake
from feature_repo.plugins.cells import id_or_null


class EntityError(FeatureError, ValueError):
    """The rows that features were asked for cannot be used. The message names the column."""


class EntityRows:
    """The rows in their own order, with all their columns.

    `at_us` are the moments that features are asked for, in microseconds. Raises `EntityError` for two columns
    of one name, and for a row without a time.
    """

    def __init__(self, given: pd.DataFrame | pa.Table) -> None:
        self._given = given
        self.names = [
            str(c) for c in (given.columns if isinstance(given, pd.DataFrame) else given.column_names)
        ]
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._keys: dict[str, pa.ChunkedArray] = {}
        if repeated := sorted({n for n in self.names if self.names.count(n) > 1}):
            raise EntityError(f"{', '.join(repeated)}: more than one column has this name")
        head = given.head(0) if isinstance(given, pd.DataFrame) else given.slice(0, 0).to_pandas()
        self.at_us = self._moments(
            infer_event_timestamp_from_entity_df({str(n): dtype for n, dtype in head.dtypes.items()})
        )

    @classmethod
    def of(cls, asked: pd.DataFrame | str, lake: Lake) -> EntityRows:
        """The rows of a frame, or of an SQL query over the lake's datasets."""
        return cls(rows_from_sql(lake, asked) if isinstance(asked, str) else asked.reset_index(drop=True))

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as Arrow. `EntityError` where its values are of different types."""
        if name not in self._columns:
            try:
                column = (
                    pa.array(self._given[name], from_pandas=True)
                    if isinstance(self._given, pd.DataFrame)
                    else self._given[name]
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise EntityError(f"{name}: its values are of different types ({error})") from error
            self._columns[name] = (
                column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
            )
        return self._columns[name]

    def key(self, name: str) -> pa.ChunkedArray:
        """The ids of a column, as text.

        A whole number becomes its decimal text. None and NaN are a null key, which has an empty history.
        `EntityError` where the column is missing, or where a value is no id.
        """
        if name not in self.names:
            raise EntityError(f"{name}: this key column is missing; there are {', '.join(self.names)}")
        if name not in self._keys:
            self._keys[name] = self._ids(name)
        return self._keys[name]

    def _ids(self, name: str) -> pa.ChunkedArray:
        try:
            column = self.column(name)
        except EntityError:  # The column holds text and numbers.
            try:
                ids = [id_or_null(value, name, row) for row, value in enumerate(self._given[name])]
            except NotAnId as error:
                raise EntityError(str(error)) from error
            return pa.chunked_array([pa.array(ids, pa.string())])
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_string_view(kind):
            return column.cast(pa.string())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
            return column
        texts = ids_of_numbers(column.combine_chunks())
        if texts is None:
            raise EntityError(f"{name}: ids are text or whole numbers, these are {kind}")
        missing = pc.is_null(column, nan_is_null=True)
        if texts.null_count > (pc.sum(missing).as_py() or 0):
            row = next(i for i, text in enumerate(texts) if not text.is_valid and not missing[i].as_py())
            raise EntityError(str(NotAnId(column[row].as_py(), name, row)))
        return pa.chunked_array([texts])

    def with_features(self, features: Mapping[str, pa.ChunkedArray]) -> pa.Table:
        """The rows as Arrow, with the features after their own columns."""
        return pa.table({**{n: self.column(n) for n in self.names}, **features})

    def frame_with_features(self, features: Mapping[str, pa.ChunkedArray]) -> pd.DataFrame:
        """The rows as a frame, with the features. The columns of a given frame stay unchanged."""
        given = self._given if isinstance(self._given, pd.DataFrame) else self._given.to_pandas()
        return pd.concat([given, pa.table(dict(features)).to_pandas()], axis=1)

    def _moments(self, name: str) -> NDArray[np.int64]:
        """Microseconds since the epoch. A time without a zone is UTC. Nanoseconds are cut off."""
        if not isinstance(self._given, pd.DataFrame) and pa.types.is_timestamp(self._given[name].type):
            if missing := self._given[name].null_count:
                raise EntityError(f"{name}: {missing} of {len(self._given)} rows have no time")
            return microseconds(self._given[name])
        given = self._given[name] if isinstance(self._given, pd.DataFrame) else self._given[name].to_pandas()
        times = self._parsed(name, given)
        if missing := int(np.count_nonzero(times.isna())):
            raise EntityError(f"{name}: {missing} of {len(times)} rows have no time")
        return times.as_unit("us").asi8

    def _parsed(self, name: str, given: pd.Series[Any]) -> pd.DatetimeIndex:
        if pd.api.types.is_datetime64_any_dtype(given.dtype):
            return pd.DatetimeIndex(given)
        if pd.api.types.is_numeric_dtype(given.dtype):
            raise EntityError(f"{name}: these are {given.dtype}, not times")
        try:
            return pd.DatetimeIndex(pd.to_datetime(given, utc=True, format="ISO8601"))
        except (ValueError, TypeError) as error:
            raise EntityError(f"{name}: {error}") from error


def rows_from_sql(lake: Lake, query: str) -> pa.Table:
    """The rows of an SQL query, in which every dataset of the lake is a table of the same name."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in dict.fromkeys(re.findall(r"[a-z_][a-z0-9_]*", query)):
            if days := lake.partitions(name):
                connection.register(name, lake.read(name, days))
        return connection.sql(query).to_arrow_table()
