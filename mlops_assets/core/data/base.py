"""A source delivers raw rows with canonical names and fixed types, so that all days of a lake are one table.

A raw table has two more columns after the columns of its stream: `malformed` has the values of a row that
could not be read (null for a row without such values, see `Malformed`), and `arrival_day`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from mlops_assets.core.data.values.column_values import Unread
from mlops_assets.errors import PlatformError

ARRIVAL_DAY = "arrival_day"
MALFORMED = "malformed"


class SourceError(PlatformError):
    """A feed as a whole cannot be read. The message names the file, the column or the value.

    A feed can have several problems.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Malformed:
    """The values of one row that could not be read, by column, and the place of the row.

    A place is such as `tx.csv, line 14`. It is empty where the place is unknown.
    """

    unread: Mapping[str, Unread]
    place: str = ""

    def encode(self) -> str:
        """The text in the column `malformed`."""
        columns = {name: [value.text, value.why] for name, value in self.unread.items()}
        return json.dumps({"format": 2, "place": self.place, "columns": columns}, ensure_ascii=False)

    @classmethod
    def decode(cls, encoded: str) -> Malformed:
        """The value of an encoded text. Older homes hold column -> text, without a reason or a place."""
        values = json.loads(encoded)
        if values.get("format") != 2:
            return cls({name: Unread(text, "") for name, text in values.items()})
        return cls(
            {name: Unread(text, why) for name, (text, why) in values["columns"].items()}, values["place"]
        )


class Source(Protocol):
    """Raw rows by the day on which the platform learnt of them. A day without a delivery has no rows."""

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        """The rows of a stream that arrived from `first` to `last`, both included, as its raw table.

        `dataset` names a stream of the use case: its events, its labels or a further feed. The day of
        `label_timestamp` (UTC) is the arrival day of a label, that of `created_timestamp` for other rows.
        Raises `SourceError` where the feed cannot be read.
        """
        ...


@dataclass(frozen=True)
class FileRows:
    """The content of one file of a feed. It saves reading an unchanged file again.

    `version` changes with the file. `rows` has the number of rows by arrival day (ISO), and is None until
    somebody asks for days of the file. `span` is the first and the last arrival day in the file, None without
    rows. Labels become known later than their events, so `rows` can have days up to `delay_days` after the
    span. `problem` says why the file cannot be read.
    """

    version: str
    rows: Mapping[str, int] | None = None
    span: tuple[str, str] | None = None
    problem: str | None = None
    delay_days: int = 0


@runtime_checkable
class Holdings(Protocol):
    """A source that can say what its files hold, of ingested days too. A simulator has no files."""

    def holdings(
        self, dataset: str, first: date, last: date, known: Mapping[str, FileRows]
    ) -> dict[str, FileRows]:
        """Every file of a stream with rows that arrived from `first` to `last`, by name.

        Files that have not changed since `known` are not read. Raises `SourceError`.
        """
        ...


def by_day(table: pa.Table, first: date, last: date) -> dict[str, pa.Table]:
    """Split a raw table into a table for each day (ISO) from `first` to `last`, without `arrival_day`.

    A day without arrivals has an empty table.
    """
    days = table.column(ARRIVAL_DAY).cast(pa.int32()).to_numpy()
    rows = table.drop_columns([ARRIVAL_DAY])
    if len(days) and np.any(days[1:] < days[:-1]):
        order = np.argsort(days, kind="stable")
        days, rows = days[order], rows.take(order)
    wanted = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    numbers = [(day - date(1970, 1, 1)).days for day in wanted]
    begins, ends = np.searchsorted(days, numbers, side="left"), np.searchsorted(days, numbers, side="right")
    return {
        day.isoformat(): rows.slice(int(b), int(e - b))
        for day, b, e in zip(wanted, begins, ends, strict=True)
    }
