"""The streams of a use case as tables: columns, the schema of an accepted row, and the rule for repeats.

All of it follows from the declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED
from mlops_assets.core.data.values.value_rules import TYPES, Kind
from mlops_assets.core.keys import quarantined, raw
from serving.contract.subject import Event, Feed, Key, Labels, Number, Subject, Text
from serving.contract.subject.event import TEXT_LENGTH, Column

if TYPE_CHECKING:
    import pandas as pd
    from pandera.pandas import Check, DataFrameSchema, Hypothesis

FIRST_DAY = date(2000, 1, 1)  # A time before it comes from a clock that was never set.
EVENT_TIMESTAMP, CREATED_TIMESTAMP = "event_timestamp", "created_timestamp"
LABEL_TIMESTAMP = "label_timestamp"

Highest = Mapping[str, float]  # highest believable value by the name of a Number, as configured


@dataclass(frozen=True)
class Stream:
    """One stream of rows and how it is ingested.

    `kinds` are its columns in order. `key` identifies a row. `order` sorts the accepted rows of a day. Among
    rows of one key, the row that sorts first by `prefer` is kept. `arrival` is the time column whose day is
    the arrival day. With `once`, a key that one day accepted is not accepted on another day.
    """

    dataset: str
    kinds: Mapping[str, Kind]
    key: tuple[str, ...]
    order: tuple[str, ...]
    prefer: tuple[str, ...]
    arrival: str
    once: bool
    build_schema: Callable[[date | None], DataFrameSchema]

    @property
    def raw(self) -> str:
        """The dataset of the rows as they were delivered."""
        return raw(self.dataset)

    @property
    def quarantined(self) -> str:
        """The dataset of the quarantined rows."""
        return quarantined(self.dataset)

    @property
    def columns(self) -> pa.Schema:
        """The columns of the accepted rows."""
        return pa.schema([(name, TYPES[kind]) for name, kind in self.kinds.items()])

    @property
    def raw_columns(self) -> pa.Schema:
        """The columns that a source delivers: those of the stream, then `malformed` and `arrival_day`."""
        return self.columns.append(pa.field(MALFORMED, pa.string())).append(
            pa.field(ARRIVAL_DAY, pa.date32())
        )

    def schema(self, arrival_day: date | None = None) -> DataFrameSchema:
        """The schema of an accepted row. With `arrival_day`, none of its times is after that day."""
        return self.build_schema(arrival_day)

    def delivered(self, columns: Mapping[str, Any]) -> pa.Table:
        """Typed columns as a raw table without malformed values, for sources such as simulators.

        The day of the column `arrival` is the arrival day.
        """
        rows = pa.table({name: pa.array(columns[name], TYPES[kind]) for name, kind in self.kinds.items()})
        days = rows.column(self.arrival).cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        rows = rows.append_column(MALFORMED, pa.nulls(rows.num_rows, pa.string()))
        return rows.append_column(ARRIVAL_DAY, days).cast(self.raw_columns)


def streams_of(subject: Subject, highest: Highest | None = None) -> tuple[Stream, ...]:
    """The streams of a use case: its events, its labels, then its further feeds.

    `highest` replaces the declared `high` of a believable Number.
    """
    return (
        event_stream(subject.event, highest),
        label_stream(subject.event, subject.labels),
        *map(feed_stream, subject.feeds),
    )


def event_stream(event: Event, highest: Highest | None = None) -> Stream:
    """The stream of the events that are scored. An event is accepted once."""
    believable = {name: high for name, high in (highest or {}).items() if name in event.believable} or {
        name: event.number(name).high for name in event.believable
    }
    return Stream(
        event.dataset,
        event.kinds,
        key=(event.id,),
        order=(EVENT_TIMESTAMP, event.id),
        prefer=(CREATED_TIMESTAMP,),
        arrival=CREATED_TIMESTAMP,
        once=True,
        build_schema=partial(_schema, (event.id,), event.keys, event.columns, believable),
    )


def label_stream(event: Event, labels: Labels) -> Stream:
    """The stream of labels.

    Several labels of one event are no error. The verdicts decide between them.
    """
    return Stream(
        labels.dataset,
        {event.id: "id", labels.name: "flag", LABEL_TIMESTAMP: "time"},
        key=(event.id, labels.name, LABEL_TIMESTAMP),
        order=(LABEL_TIMESTAMP, event.id, labels.name),
        prefer=(),
        arrival=LABEL_TIMESTAMP,
        once=False,
        build_schema=partial(_label_schema, event.id, labels.name),
    )


def feed_stream(feed: Feed) -> Stream:
    """The stream of a further feed."""
    keys: dict[str, Kind] = {key.name: "id" for key in feed.keys}
    columns: dict[str, Kind] = {column.name: column.kind for column in feed.columns}
    return Stream(
        feed.name,
        {EVENT_TIMESTAMP: "time", CREATED_TIMESTAMP: "time", **keys, **columns},
        key=feed.id,
        order=tuple(dict.fromkeys((EVENT_TIMESTAMP, *feed.id))),
        prefer=(CREATED_TIMESTAMP,),
        arrival=CREATED_TIMESTAMP,
        once=True,
        build_schema=partial(_schema, (), feed.keys, feed.columns, {}),
    )


def _schema(
    ids: Iterable[str],
    keys: Iterable[Key],
    columns: Iterable[Column],
    believable: Highest,
    arrival_day: date | None,
) -> DataFrameSchema:
    import pandera.pandas as pa

    time = "datetime64[us, UTC]"
    return pa.DataFrameSchema(
        {
            **{name: pa.Column(object) for name in ids},
            EVENT_TIMESTAMP: pa.Column(time, _time_checks(arrival_day)),
            CREATED_TIMESTAMP: pa.Column(time, _time_checks(arrival_day)),
            **{key.name: pa.Column(object, nullable=key.nullable) for key in keys},
            **{column.name: _column(column, believable) for column in columns},
        },
        checks=pa.Check(_known_after_it_happened, error="created_timestamp: before event_timestamp"),
        strict=True,
    )


def _label_schema(event_id: str, label: str, arrival_day: date | None) -> DataFrameSchema:
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {
            event_id: pa.Column(object),
            label: pa.Column(bool),
            LABEL_TIMESTAMP: pa.Column("datetime64[us, UTC]", _time_checks(arrival_day)),
        },
        strict=True,
    )


def _column(column: Column, believable: Highest) -> Any:
    import pandera.pandas as pa

    if isinstance(column, Number):
        high = believable.get(column.name, column.high)
        too_much = f"above {high:.15g}"
        if column.name in believable:
            too_much += f", the highest believable {column.name} ([bounds] max_{column.name})"
        return pa.Column(
            float,
            [
                pa.Check.ge(column.low, error=f"below {column.low:.15g}"),
                pa.Check.le(high, error=too_much),
            ],
        )
    if isinstance(column, Text):
        too_long = f"longer than {TEXT_LENGTH} characters"
        return pa.Column(object, pa.Check.str_length(max_value=TEXT_LENGTH, error=too_long))
    return pa.Column(bool)


def _time_checks(arrival_day: date | None) -> list[Check | Hypothesis]:
    import pandas as pd
    import pandera.pandas as pa

    checks: list[Check | Hypothesis] = [
        pa.Check.ge(pd.Timestamp(FIRST_DAY, tz="UTC"), error=f"before {FIRST_DAY}")
    ]
    if arrival_day is not None:
        end = pd.Timestamp(arrival_day + timedelta(days=1), tz="UTC")
        checks.append(pa.Check.lt(end, error="after its day of arrival"))
    return checks


def _known_after_it_happened(frame: pd.DataFrame) -> pd.Series:
    return frame[EVENT_TIMESTAMP] <= frame[CREATED_TIMESTAMP]
