"""The rows of a feed that no ingested day has: late rows of past days, and rows of future days.

Each ingest run checks for them. The lake keeps what is known of each file as the metadata of an empty
partition, so that a run reads only new and changed files. Without this metadata, every file is read again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from feature_repo.lake.datasets import Lake
from mlops_assets.core.data.base import FileRows, Holdings, Source, SourceError
from mlops_assets.core.data.completeness import Taken, gone, untaken
from mlops_assets.core.data.streams import Stream
from mlops_assets.core.keys import REMEDY
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from serving.store.opening import serving_log

SOURCE_FILES = "source_files"  # has a partition for each raw dataset
DAYS_SHOWN = 10
FROM_LOG = "from the service's log"
FILES = "files"


@dataclass(frozen=True)
class Behind:
    """The difference between a source and the ingested days.

    `rows` has, by day, how many more rows the source holds than were ingested (negative: fewer). `unread` are
    files that cannot be read, with the reason. `ahead` are rows of future days, by file and day. `outside`
    has a line for the rows that `[time]` leaves out. `compared` is false for a source without files.
    """

    rows: Mapping[str, int]
    unread: Mapping[str, str]
    last_made: str
    compared: bool = True
    ahead: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    outside: Sequence[str] = ()
    gone: Sequence[str] = ()  # missing files that the days to ingest again came from

    def __bool__(self) -> bool:
        return bool(self.rows or self.unread or self.ahead)

    def metadata(self) -> dict[str, Any]:
        """Days, rows, files and what to do, for the UI."""
        if not self.compared:
            return {"compared": "nothing: this source generates its rows on demand"}
        days = [
            f"{day}: {abs(n):,} {'more' if n > 0 else 'fewer'} than were ingested"
            for day, n in self.rows.items()
        ]
        told: dict[str, Any] = {"rows": sum(self.rows.values()), "days": _few(days)}
        if self.unread:
            told["files that cannot be read"] = _few([*self.unread.values()])
        remedies = []
        if self.ahead:
            told["rows of future days"] = _few(
                [f"{path}: {_by_day(days)}" for path, days in self.ahead.items()]
            )
            files = _few([*self.ahead])
            remedies.append(
                f"correct the times in {files}, or move the file away until its days come: rows of future"
                " days are in no count"
            )
        if self.outside:
            told["left out by [time]"] = _few(self.outside)
        if self.rows:
            first = min(self.rows)
            if self.gone:
                remedies.append(
                    f"put back {_few(self.gone)} first: days are ingested from the files that exist"
                )
            remedies.append(
                f"`mlops backfill --from {first} --to {self.last_made}` ingests these days again, with all"
                " days that look back on them; or deliver late rows in files named for their day of arrival,"
                ' with arrival = "file" in [source]'
            )
        if remedies:
            told[REMEDY] = "; ".join(remedies)
        return told


def look(
    lake: Lake, stream: Stream, source: Source, made: Sequence[str], coming: date | None = None
) -> dict[str, FileRows] | None:
    """What each file of a stream holds of the ingested days, `made` among them, and of days after `coming`.

    None for a source without files.
    """
    name, dataset = stream.raw, stream.dataset
    if not isinstance(source, Holdings):
        return None
    days = sorted({*lake.partitions(name), *made})
    known = _known_files(lake, name)
    try:
        found = source.holdings(dataset, date.fromisoformat(days[0]), date.fromisoformat(days[-1]), known)
        if coming and any(
            one.rows is None and one.span and one.span[1] > coming.isoformat() for one in found.values()
        ):
            found = source.holdings(dataset, coming + timedelta(days=1), date.max, found)
    except SourceError as error:  # Served days can still be ingested from the service's log.
        return {name: FileRows("", problem=str(error))}
    if found != known:
        metadata = {FILES: {path: asdict(rows) for path, rows in found.items()}}
        lake.write(SOURCE_FILES, name, pa.table({FILES: pa.array([], pa.string())}), metadata=metadata)
    return found


def of_day(files: Mapping[str, FileRows] | None, day: str) -> dict[str, Any]:
    """The metadata for the raw manifest of a day: rows by file."""
    return (
        {}
        if files is None
        else {FILES: {path: one.rows[day] for path, one in files.items() if one.rows and day in one.rows}}
    )


def last_to_come(settings: Settings, today: date) -> date | None:
    """The last day whose rows a feed may already hold: tomorrow. None where `[time] end` is configured.

    East of Greenwich the next day has begun, and clocks of senders can be minutes off.
    """
    return None if settings.time.end else today + timedelta(days=1)


def behind(
    case: UseCase,
    lake: Lake,
    settings: Settings,
    stream: Stream,
    files: Mapping[str, FileRows] | None,
    coming: date | None = None,
) -> Behind:
    """Compare the files with the ingested days, and find rows of days after `coming`.

    Days that came from the service's log are not compared.
    """
    name = stream.raw
    days = lake.partitions(name)
    if files is None:
        return Behind({}, {}, days[-1], compared=False)
    served = serving_log(settings.serving_db).served_days(case, stream.dataset, days)
    taken = {
        m.partition: Taken(m.rows, m.metadata.get(FILES))
        for m in lake.manifests(name, days)
        if FROM_LOG not in m.metadata
    }
    held: dict[str, dict[str, int]] = {}
    for path, one in files.items():
        for day, count in (one.rows or {}).items():
            held.setdefault(day, {})[path] = count
    taken = {day: one for day, one in taken.items() if day not in served}
    rows = untaken(held, taken)
    again = [day for day in taken if rows and day >= min(rows)]
    unread = {path: one.problem for path, one in files.items() if one.problem}
    return Behind(
        rows,
        unread,
        days[-1],
        ahead=_ahead(files, coming) if coming else {},
        outside=_outside(files, settings),
        gone=gone(held, taken, again),
    )


def _ahead(files: Mapping[str, FileRows], coming: date) -> dict[str, dict[str, int]]:
    found = {}
    for path, one in files.items():
        last = (coming + timedelta(days=one.delay_days)).isoformat()
        if days := {day: rows for day, rows in sorted((one.rows or {}).items()) if day > last}:
            found[path] = days
    return found


def _outside(files: Mapping[str, FileRows], settings: Settings) -> list[str]:
    """A line for the rows outside the calendar, for each file that also has rows within it.

    A person may intend that, or may not know of it.
    """
    start, end = settings.time.start.isoformat(), settings.time.end.isoformat() if settings.time.end else None
    found = []
    for path, one in files.items():
        rows = one.rows or {}
        before = {day: n for day, n in rows.items() if day < start}
        after = {
            day: n
            for day, n in rows.items()
            if end and day > (date.fromisoformat(end) + timedelta(days=one.delay_days)).isoformat()
        }
        found += [f"{path}: {_by_day(before)}, before [time] start = {start}"] if before else []
        found += [f"{path}: {_by_day(after)}, after [time] end = {end}"] if after else []
    return found


def _known_files(lake: Lake, name: str) -> dict[str, FileRows]:
    manifest = lake.manifest(SOURCE_FILES, name)
    kept = manifest.metadata.get(FILES, {}) if manifest else {}
    return {
        path: FileRows(**{**one, "span": tuple(one["span"]) if one["span"] else None})
        for path, one in kept.items()
    }


def _by_day(rows: Mapping[str, int]) -> str:
    """The number of rows in words, with their first and last day."""
    first, last, total = min(rows), max(rows), sum(rows.values())
    return f"{total:,} row{'s' * (total != 1)} of {first}" + (f" to {last}" if last != first else "")


def _few(lines: Sequence[str]) -> str:
    return (
        "; ".join(lines[:DAYS_SHOWN])
        + (f"; and {len(lines) - DAYS_SHOWN} more" if len(lines) > DAYS_SHOWN else "")
        or "none"
    )
