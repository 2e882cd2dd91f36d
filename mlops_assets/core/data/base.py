"""A source is where raw rows come from; what it gives has canonical names and fixed types, so that a lake of
many days stays one table.

A raw table has, after its own columns, `malformed` (what could not be read of a row, null for a row that
could; see `Malformed`) and `arrival_day`.
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
    """A feed as a whole cannot be read; the message names the file, the column or the value.

    Several things may be wrong with its configuration.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Malformed:
    """The columns of one row that could not be read, and where the row stood, such as `tx.csv, line 14`;
    empty where nobody knows.
    """

    unread: Mapping[str, Unread]
    place: str = ""

    def encode(self) -> str:
        columns = {name: [value.text, value.why] for name, value in self.unread.items()}
        return json.dumps({"format": 2, "place": self.place, "columns": columns}, ensure_ascii=False)

    @classmethod
    def decode(cls, encoded: str) -> Malformed:
        """Homes of before hold column -> text, without a reason or a place."""
        values = json.loads(encoded)
        if values.get("format") != 2:
            return cls({name: Unread(text, "") for name, text in values.items()})
        return cls(
            {name: Unread(text, why) for name, (text, why) in values["columns"].items()}, values["place"]
        )


class Source(Protocol):
    """Raw rows by the day on which the platform learnt of them. No rows means that nothing was delivered."""

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        """The rows of a stream that arrived from `first` to `last`, both included, as its raw table.

        `dataset` names a stream of the use case: its events, its labels or a further feed. Labels arrive by
        `label_timestamp`, other rows by `created_timestamp`.
        """
        ...


@dataclass(frozen=True)
class FileRows:
    """What is in one file of a feed, so that it need not be read again while it does not change: how many
    rows arrived on which day (ISO).

    `version` changes when the file does. `rows` is None where nobody asked for days of the file yet. `span`
    is the first and last day of arrival of whatever the file holds, None where it has no rows. `rows` may be
    of days up to `delay_days` after that: labels become known later than their events. `problem` says
    why the file could not be read.
    """

    version: str
    rows: Mapping[str, int] | None = None
    span: tuple[str, str] | None = None
    problem: str | None = None
    delay_days: int = 0


@runtime_checkable
class Holdings(Protocol):
    """A source that can say what its files hold, also of days that are long made.

    One that makes its rows as they are asked for cannot.
    """

    def holdings(
        self, dataset: str, first: date, last: date, known: Mapping[str, FileRows]
    ) -> dict[str, FileRows]:
        """Every file of a stream with rows that arrived from `first` to `last`, by name; what `known` says of
        a file that has not changed is taken for it.
        """
        ...


def by_day(table: pa.Table, first: date, last: date) -> dict[str, pa.Table]:
    """Split a raw table into one table a day (ISO), without `arrival_day`; a day on which nothing arrived has
    an empty one.
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
