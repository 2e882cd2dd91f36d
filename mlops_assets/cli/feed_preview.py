"""The feeds before their first backfill: some rows of each feed, and what would happen to them.

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
from mlops_assets.core.data.streams import Stream
from mlops_assets.core.data.validation import validate
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.resources.environments import Settings
from mlops_assets.sources.feed_folder import Preview
from mlops_assets.sources.source_kinds import open_source

SAMPLE_ROWS = 1_000
SHOWN = 5  # Names of files that are left out
LABEL_DAYS = 28  # Days of labels that are looked at where labels have no files of their own
BEFORE_DAYS = 30  # The event of a label is looked for in so many days before the label.
NO_LABELS = "there is no [source.labels]: no label comes from files, and without labels nothing is learnt"


@runtime_checkable
class Previewed(Protocol):
    """A source that can show its streams without reading them to the end."""

    def preview(self, dataset: str, rows: int = ...) -> Preview | None:
        """The first rows of a stream; None for labels without files of their own."""


@dataclass(frozen=True)
class Look:
    """One feed, as it was found.

    `mapping` is canonical column -> the feed's name and a value. `reasons` are (rows, reason), from the
    sample.
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
    """The feed of the events, the feed of the labels and the further feeds.

    `problems` of a feed lists everything that is wrong with it. Rows after tomorrow count as rows that have
    not come yet.
    """
    source = open_source(case, settings.source, settings.base)
    events, labels, *feeds = case.streams(settings.bounds)
    event_rows, look = _events(source, settings, events, today)
    looks = [look]
    try:
        looks += _labels(case, source, settings, labels, event_rows, today)
    except SourceError as error:
        looks.append(_unread(labels.dataset, error))
    return looks + [_events(source, settings, feed, today)[1] for feed in feeds]


def _events(source: Source, settings: Settings, stream: Stream, today: date) -> tuple[Preview | None, Look]:
    """A stream with rows of its own, and its look."""
    try:
        rows = source.preview(stream.dataset, SAMPLE_ROWS) if isinstance(source, Previewed) else None
        rows = rows or _first_days(source, settings, stream.dataset, 1)
        look = _look(stream, settings, rows, today)
        look.problems.extend(_beside_the_calendar(settings, stream.dataset, rows))
        return rows, look
    except SourceError as error:
        return None, _unread(stream.dataset, error)


def _labels(
    case: UseCase, source: Source, settings: Settings, stream: Stream, events: Preview | None, today: date
) -> list[Look]:
    """The look of the labels; None where they come with events that cannot be read."""
    labels = source.preview(stream.dataset, SAMPLE_ROWS) if isinstance(source, Previewed) else None
    if labels is None and events is not None:
        labels = _first_days(source, settings, stream.dataset, LABEL_DAYS, events.days)
    if labels is None:
        return []
    look = _look(stream, settings, labels, today)
    if events is not None and labels.rows.num_rows:
        _match(case, source, labels, look)
    elif not labels.rows.num_rows:
        missing = isinstance(source, Previewed) and "labels" not in settings.source
        look.notes.append(NO_LABELS if missing else "no label in the days that were looked at")
    return [look]


def shown(looks: list[Look]) -> str:
    """The text for a person: a table of each feed's columns, and a table of the rows for quarantine."""
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


def _look(feed: Stream, settings: Settings, preview: Preview, today: date) -> Look:
    name = feed.dataset
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
    notes = [
        f"left out, because its name is not the name of a table: {path}" for path in preview.left_out[:SHOWN]
    ]
    if preview.unread:
        notes.append(f"{preview.unread:,} more files have to be read before their days are known")
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
    """The rows of the first days, for a source or labels that have no other preview."""
    start = known[0] if known else settings.time.start
    table = source.rows(name, start, start + timedelta(days=days - 1))
    first, last = known or (start, settings.time.end or start)
    columns = {
        column: "as it is"
        for column in table.column_names
        if table.num_rows and column not in (MALFORMED, ARRIVAL_DAY)
    }
    return Preview((), (), columns, table.slice(0, SAMPLE_ROWS), (first, last), 0)


def _beside_the_calendar(settings: Settings, name: str, preview: Preview) -> list[str]:
    if preview.days is None:
        return []
    (first, last), time = preview.days, settings.time
    if last < time.start or (time.end is not None and first > time.end):
        bounds = f"[time] start = {time.start}" + (f" and end = {time.end}" if time.end else "")
        return [
            f"{name}: arrived from {first} to {last}, and {bounds}: no row would be read; set start = {first}"
        ]
    return []


def _left_out(settings: Settings, rows: pa.Table, today: date) -> list[str]:
    """The rows of the sample whose day is outside the calendar, or has not come yet."""
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


def _match(case: UseCase, source: Source, labels: Preview, look: Look) -> None:
    """How many labels of the sample belong to an event that arrived in the days before them."""
    words, days = Words.of(case), pc.min_max(labels.rows[ARRIVAL_DAY]).as_py()
    first = days["min"] - timedelta(days=BEFORE_DAYS)
    known = source.rows(case.event.dataset, first, days["max"])[case.event.id]
    ids = labels.rows[case.event.id].drop_null()
    matched = pc.sum(pc.is_in(ids, value_set=known.combine_chunks())).as_py() or 0
    among = f"{words.events} that arrived from {first} to {days['max']}"
    if len(ids) and len(known) and not matched:
        look.problems.append(
            f"labels: none of {len(ids):,} belongs to {_one(words.event)}; their ids look like"
            f" {_first(ids)!r}, those of {among} like {_first(known)!r}"
        )
    elif len(ids):
        look.notes.append(f"{matched:,} of {len(ids):,} labels are of {among}")


def _example(rows: pa.Table, column: str) -> str:
    value = _first(rows[column].drop_null()) if column in rows.column_names else None
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)


def _one(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _first(values: Any) -> Any:
    return values[0].as_py() if len(values) else None


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
