"""What a feed holds beyond what was taken of it, looked at in each ingest run: rows of days that are already
made, or that have not come.

What is known of files is kept in the lake as the metadata of an empty partition, so that a run reads only the
files that are new or have changed. It is no truth of its own: where it is lost, every file is read once more.
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
from mlops_assets.resources.serving_log import ServingLog
from mlops_assets.steps.ingest.delivery import taken_by_service

SOURCE_FILES = "source_files"  # a partition a raw dataset
DAYS_SHOWN = 10
FROM_LOG = "from the service's log"
FILES = "files"


@dataclass(frozen=True)
class Behind:
    """Rows that the source holds of days that were made without them, by day (fewer rows are negative), and
    the files that nobody could read.

    `ahead` are rows of days that have not come, by file and day. `outside` says which rows of files that were
    read `[time]` leaves out.
    """

    rows: Mapping[str, int]
    unread: Mapping[str, str]
    last_made: str
    compared: bool = True  # whether the source can say what it holds at all
    ahead: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    outside: Sequence[str] = ()
    gone: Sequence[str] = ()  # files that the days to make again were taken from

    def __bool__(self) -> bool:
        return bool(self.rows or self.unread or self.ahead)

    def metadata(self) -> dict[str, Any]:
        """For a person: which days, how many rows, and what to do."""
        if not self.compared:
            return {"compared": "nothing: this source makes its rows as they are asked for"}
        days = [
            f"{day}: {abs(n):,} {'more' if n > 0 else 'fewer'} than were taken"
            for day, n in self.rows.items()
        ]
        told: dict[str, Any] = {"rows": sum(self.rows.values()), "days": _few(days)}
        if self.unread:
            told["files that cannot be read"] = _few([*self.unread.values()])
        remedies = []
        if self.ahead:
            told["rows of days that have not come"] = _few(
                [f"{path}: {_by_day(days)}" for path, days in self.ahead.items()]
            )
            files = _few([*self.ahead])
            remedies.append(
                f"mend the times in {files}, or move the file away until its days come: rows of days that"
                " have not come are in no count"
            )
        if self.outside:
            told["left out by [time]"] = _few(self.outside)
        if self.rows:
            first = min(self.rows)
            if self.gone:
                remedies.append(
                    f"put back {_few(self.gone)} first: the days are made from the files that are there"
                )
            remedies.append(
                f"`mlops backfill --from {first} --to {self.last_made}` makes these days and all that looks"
                " back on them again; or deliver late rows in files named for the day on which they come,"
                ' with arrival = "file" in [source]'
            )
        if remedies:
            told[REMEDY] = "; ".join(remedies)
        return told


def look(
    lake: Lake, stream: Stream, source: Source, made: Sequence[str], coming: date | None = None
) -> dict[str, FileRows] | None:
    """What the files of a stream hold of all days that are made, `made` included, and of those after
    `coming`; None for a source that cannot say.
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
    except SourceError as error:  # days that the service's log is the source of are made all the same
        return {name: FileRows("", problem=str(error))}
    if found != known:
        metadata = {FILES: {path: asdict(rows) for path, rows in found.items()}}
        lake.write(SOURCE_FILES, name, pa.table({FILES: pa.array([], pa.string())}), metadata=metadata)
    return found


def of_day(files: Mapping[str, FileRows] | None, day: str) -> dict[str, Any]:
    """What the raw manifest of a day keeps of the files that its rows came from."""
    return (
        {}
        if files is None
        else {FILES: {path: one.rows[day] for path, one in files.items() if one.rows and day in one.rows}}
    )


def last_to_come(settings: Settings, today: date) -> date | None:
    """The last day whose rows a feed may hold already; None where `[time] end` says which days count.

    It is tomorrow: east of Greenwich the next day has begun, and clocks of senders are minutes off.
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
    """Compare what the files hold with what was taken.

    A day that the service's log was the source of is none of the files' business.

    Rows of days after `coming` are told as well.
    """
    name = stream.raw
    days = lake.partitions(name)
    if files is None:
        return Behind({}, {}, days[-1], compared=False)
    served = taken_by_service(case, ServingLog(settings.serving_db), stream.dataset, days)
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
    """Rows that no day of the calendar has, of files that have rows of other days as well: a person may mean
    that, or not know of it.
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
    """The rows of some days in words: of one day, or from the first to the last."""
    first, last, total = min(rows), max(rows), sum(rows.values())
    return f"{total:,} row{'s' * (total != 1)} of {first}" + (f" to {last}" if last != first else "")


def _few(lines: Sequence[str]) -> str:
    return (
        "; ".join(lines[:DAYS_SHOWN])
        + (f"; and {len(lines) - DAYS_SHOWN} more" if len(lines) > DAYS_SHOWN else "")
        or "none"
    )
