"""The raw rows of days, from the service's log for served days and from the source for all others."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.data.base import ARRIVAL_DAY, Source, by_day
from mlops_assets.core.data.streams import Stream
from mlops_assets.core.use_case import UseCase
from serving.store.base import ServingLog


def delivered(
    case: UseCase, log: ServingLog, source: Source, stream: Stream, days: Sequence[str]
) -> tuple[dict[str, pa.Table], set[str]]:
    """A raw table for each day, and the served days. Tables of served days come from the service's log.

    Tables of all other days come from the source. Raises `SourceError` where the source cannot be read.
    """
    served = log.served_days(case, stream.dataset, days)
    tables = {day: from_log(case, log, stream, day) for day in served}
    if others := sorted(set(days) - served):
        first, last = date.fromisoformat(others[0]), date.fromisoformat(others[-1])
        rows = by_day(source.rows(stream.dataset, first, last), first, last)
        tables |= {day: table for day, table in rows.items() if day not in served}
    return tables, served


def from_log(case: UseCase, log: ServingLog, stream: Stream, day: str) -> pa.Table:
    """The service's log of a day in the columns of a raw table. Ready-made vectors bring no event."""
    if stream.dataset == case.event.dataset:
        rows = log.decisions(day, case)
        rows = rows.filter(pc.equal(rows.column("kind"), case.event.noun))
        rows = rows.rename_columns({"prediction_id": case.event.id})
    elif stream.dataset == case.labels.dataset:
        rows = log.labels(day, case)
    else:
        (feed,) = (feed for feed in case.feeds if feed.name == stream.dataset)
        rows = log.feed_events(day, feed)
    fields = [field for field in stream.raw_columns if field.name != ARRIVAL_DAY]
    columns = [
        rows.column(field.name) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in fields
    ]
    return pa.table(columns, names=[field.name for field in fields])
