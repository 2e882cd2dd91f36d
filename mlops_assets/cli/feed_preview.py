"""The feeds before their first backfill: what a few rows of each look like, and what would become of them.

Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.cli.output import padded
from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED, Source, SourceError, by_day
from mlops_assets.core.data.validation import validate
from mlops_assets.core.use_case import Table, UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.sources.files import Preview

SAMPLE_ROWS = 1_000
SHOWN = 5  # of files that are left out
LABEL_DAYS = 28  # days of labels that are looked at where they have no files of their own
BEFORE_DAYS = 30  # a label of the sample is looked for among the transactions of so many days before it
NO_LABELS = "there is no [source.labels]: no label comes from files, and without labels nothing is learnt"


@runtime_checkable
class Previewed(Protocol):
    """A source that can show its feeds without reading them to the end."""

    def preview(self, rows: int = ...) -> Preview: ...

    def preview_labels(self, rows: int = ...) -> Preview | None: ...


@dataclass(frozen=True)
class Look:
    """One feed as it was found.

    `mapping` is canonical column -> the feed's name and a value; `reasons` are (rows, why), of the sample.
    """

    name: str
    files: int
    first_day: date | None
    last_day: date | None
    mapping: dict[str, tuple[str, str]]
    sampled: int
    quarantined: int
    reasons: list[tuple[int, str]]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def look_at_feeds(case: UseCase, settings: Settings, today: date) -> list[Look]:
    """The transactions' feed and the labels', with all that is wrong with either in `problems`.

    Rows of days after tomorrow have not come.
    """
    source = case.open_source(settings.source, settings.base)
    looks = []
    transactions = labels = None
    try:
        transactions = (
            source.preview(SAMPLE_ROWS)
            if isinstance(source, Previewed)
            else _first_days(source, settings, "transactions", 1)
        )
        looks.append(_look("transactions", case.event_table, settings, transactions, today))
        looks[-1].problems.extend(_beside_the_calendar(settings, transactions))
    except SourceError as error:
        looks.append(_unread("transactions", error))
    try:
        labels = source.preview_labels(SAMPLE_ROWS) if isinstance(source, Previewed) else None
        if labels is None and transactions is not None:
            labels = _first_days(source, settings, "labels", LABEL_DAYS, transactions.days)
        if labels is not None:
            looks.append(_look("labels", case.label_table, settings, labels, today))
            if transactions is not None and labels.rows.num_rows:
                _match(source, labels, looks[-1])
            elif not labels.rows.num_rows:
                missing = isinstance(source, Previewed) and "labels" not in settings.source
                looks[-1].notes.append(NO_LABELS if missing else "none in the days that were looked at")
    except SourceError as error:
        looks.append(_unread("labels", error))
    return looks


def shown(looks: list[Look]) -> str:
    """For a person: a table of each feed's columns, and one of what would be quarantined."""
    parts = []
    for look in looks:
        parts.append(f"\n{look.name}: {_summary(look)}\n")
        if look.mapping:
            cells = [["column", "feed", "such as"], *([name, *found] for name, found in look.mapping.items())]
            parts.append(_indented(padded(cells)))
        if look.reasons:
            parts.append(
                _indented(
                    padded(
                        [
                            ["rows", "would be quarantined for"],
                            *([f"{rows:,}", why] for rows, why in look.reasons),
                        ]
                    )
                )
            )
        parts += [f"  {note}\n" for note in look.notes]
    return "".join(parts)


def _summary(look: Look) -> str:
    if not look.mapping and look.problems:
        return "cannot be read"
    days = (
        f"arrival days {look.first_day} to {look.last_day}" if look.first_day else "no day of arrival known"
    )
    files = f"{look.files:,} file{'s' * (look.files != 1)}, " if look.files else ""
    return f"{files}{days}; {look.sampled:,} rows looked at, {look.quarantined:,} would be quarantined"


def _look(name: str, feed: Table, settings: Settings, preview: Preview, today: date) -> Look:
    counts, examples, quarantined = Counter[str](), dict[str, str](), 0
    rows = preview.rows
    if rows.num_rows:
        days = pc.min_max(rows[ARRIVAL_DAY]).as_py()
        for day, table in by_day(rows, days["min"], days["max"]).items():
            if table.num_rows:
                found = validate(
                    table.to_pandas(),
                    feed.schema(date.fromisoformat(day)),
                    key=feed.key,
                    order=feed.order,
                    prefer=feed.prefer,
                )
                counts.update(found.reasons)
                examples = {**found.examples, **examples}
                quarantined += len(found.quarantined)
    notes = [f"left out, as its name is not that of a table: {path}" for path in preview.left_out[:SHOWN]]
    if preview.unread:
        notes.append(f"{preview.unread:,} more files have days that are known once they are read")
    notes += _left_out(settings, rows, today)
    problems = []
    if rows.num_rows and (share := quarantined / rows.num_rows) > settings.ingest.max_quarantined_share:
        limit = settings.ingest.max_quarantined_share
        problems.append(
            f"{name}: {share:.0%} of the rows looked at would be quarantined, more than [ingest]"
            f" max_quarantined_share = {limit:g}: {examples[counts.most_common(1)[0][0]]}"
        )
    mapping = {column: (where, _example(rows, column)) for column, where in preview.mapping.items()}
    first, last = preview.days or (None, None)
    reasons = [(rows, examples[reason]) for reason, rows in counts.most_common()]
    return Look(
        name, len(preview.files), first, last, mapping, rows.num_rows, quarantined, reasons, notes, problems
    )


def _unread(name: str, error: SourceError) -> Look:
    return Look(
        name, 0, None, None, {}, 0, 0, [], problems=[f"{name}: {problem}" for problem in error.problems]
    )


def _first_days(
    source: Source, settings: Settings, name: str, days: int, known: tuple[date, date] | None = None
) -> Preview:
    """Of a source, or labels, that cannot be seen otherwise: what came on the first days."""
    start = known[0] if known else settings.time.start
    table = getattr(source, name)(start, start + timedelta(days=days - 1))
    first, last = known or (start, settings.time.end or start)
    columns = {
        column: "as it is"
        for column in table.column_names
        if table.num_rows and column not in (MALFORMED, ARRIVAL_DAY)
    }
    return Preview((), (), columns, table.slice(0, SAMPLE_ROWS), (first, last), 0)


def _beside_the_calendar(settings: Settings, preview: Preview) -> list[str]:
    if preview.days is None:
        return []
    (first, last), time = preview.days, settings.time
    if last < time.start or (time.end is not None and first > time.end):
        bounds = f"[time] start = {time.start}" + (f" and end = {time.end}" if time.end else "")
        return [
            f"transactions: arrived from {first} to {last}, and {bounds}: no row would be read; set start ="
            f" {first}"
        ]
    return []


def _left_out(settings: Settings, rows: pa.Table, today: date) -> list[str]:
    """Rows of the sample that are of no day which is made: beside the calendar, or of days that have not
    come.
    """
    start, end, days = settings.time.start, settings.time.end, rows[ARRIVAL_DAY]
    last = end or today + timedelta(days=1)
    found = []
    for outside, why in (
        (days.filter(pc.less(days, pa.scalar(start))), f"before [time] start = {start}"),
        (
            days.filter(pc.greater(days, pa.scalar(last))),
            f"after [time] end = {end}" if end else "on days that have not come: mend their times",
        ),
    ):
        if len(outside):
            found.append(
                f"{len(outside):,} of the rows looked at arrive from {pc.min(outside)} to {pc.max(outside)},"
                f" {why}"
            )
    return found


def _match(source: Source, labels: Preview, look: Look) -> None:
    """How many labels of the sample are of a transaction that arrived in the days before them."""
    days = pc.min_max(labels.rows[ARRIVAL_DAY]).as_py()
    first = days["min"] - timedelta(days=BEFORE_DAYS)
    known = source.transactions(first, days["max"])["transaction_id"]
    ids = labels.rows["transaction_id"].drop_null()
    matched = pc.sum(pc.is_in(ids, value_set=known.combine_chunks())).as_py() or 0
    among = f"transactions that arrived from {first} to {days['max']}"
    if len(ids) and len(known) and not matched:
        look.problems.append(
            f"labels: none of {len(ids):,} is of a transaction: their ids look like {_first(ids)!r}, those of"
            f" {among} like {_first(known)!r}"
        )
    elif len(ids):
        look.notes.append(f"{matched:,} of {len(ids):,} labels are of {among}")


def _example(rows: pa.Table, column: str) -> str:
    value = _first(rows[column].drop_null()) if column in rows.column_names else None
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)


def _first(values: Any) -> Any:
    return values[0].as_py() if len(values) else None


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
