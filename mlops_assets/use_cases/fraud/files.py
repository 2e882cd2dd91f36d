"""Feeds that come as files: which files hold rows of which days of arrival, and what stands in them, read once and typed.

A file is opened for a range of days only where its Parquet statistics, or a first reading, say that it holds rows of them. A date in the name
of a file is where rows without a readable time belong, and the only day whose reading fails when the file itself cannot be read.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from mlops_assets.core.parsing import TYPES, Kind, UnreadableType, original_text, read_column
from mlops_assets.core.source import ARRIVAL_DAY, MALFORMED, FileRows, SourceError

SUFFIXES = (".parquet", ".pq", ".csv", ".csv.gz")
PLAUSIBLE = (date(2000, 1, 1), date(2100, 1, 1))  # a time outside is a placeholder or a broken clock, and says nothing of the day of arrival
CACHED_ROWS = 4_000_000
_DAY_IN_NAME = re.compile(r"(?<!\d)(20\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The columns to read (canonical name -> name in the file), how, and which of them (the first that is there) says when a row arrived."""

    columns: Mapping[str, str]
    kinds: Mapping[str, Kind]
    arrival: tuple[str, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)  # of columns that a feed may leave out altogether


@dataclass(frozen=True)
class DataFile:
    path: str
    size: int
    stamp: str  # changes when the file does
    named_day: date | None


class Folder:
    """One file or a folder of files, on a disk or at any fsspec address."""

    def __init__(self, path: str, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._spans: dict[DataFile, tuple[date, date] | None] = {}
        self._tables: OrderedDict[DataFile, pa.Table] = OrderedDict()

    def rows(self, first: date, last: date) -> pa.Table:
        """Typed rows that arrived from `first` to `last`, in the order of the files, with `malformed` and `arrival_day`."""
        tables = []
        for file in self._files():
            if (span := self._span_or_skip(file, first, last)) and span[0] <= last and span[1] >= first:
                table = self._table(file)
                if span[0] < first or span[1] > last:
                    days = table.column(ARRIVAL_DAY)
                    table = table.filter(pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last))))
                tables.append(table)
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def holdings(
        self, first: date, last: date, known: Mapping[str, FileRows], counted: Callable[[pa.Table], pa.Table] | None = None, delay_days: int = 0
    ) -> dict[str, FileRows]:
        """How many rows arrived on which day, by file; only files that are new or have changed since `known` are read, and each once.

        `counted` makes of a file's rows those that count, which may arrive up to `delay_days` later than the file's own rows.
        """
        found = {}
        for file in self._files():
            version, before = f"{file.size} {file.stamp}", known.get(file.path)
            same = before if before is not None and before.version == version and before.problem is None else None
            if same is not None:
                self._spans.setdefault(file, same.span and (date.fromisoformat(same.span[0]), date.fromisoformat(same.span[1])))
            try:
                span = self._spans[file] if file in self._spans else self._span(file)
                near = span is not None and span[0] <= last and span[1] + timedelta(days=delay_days) >= first
                if same is None or (near and same.rows is None):
                    rows = _counts(counted(self._table(file)) if counted else self._table(file)) if near else None
                    same = FileRows(version, rows, span and (span[0].isoformat(), span[1].isoformat()))
                self._spans[file], found[file.path] = span, same
            except SourceError as error:
                found[file.path] = FileRows(version, problem=str(error))
        return found

    @property
    def schema(self) -> pa.Schema:
        typed = [(name, TYPES[kind]) for name, kind in self.layout.kinds.items()]
        return pa.schema([*typed, (MALFORMED, pa.string()), (ARRIVAL_DAY, pa.date32())])

    def _files(self) -> list[DataFile]:
        try:
            self._fs, root = fsspec.core.url_to_fs(self.path)
            found = self._fs.find(root, detail=True)
        except (OSError, ImportError, ValueError) as error:
            raise SourceError(f"{self.path}: cannot be listed ({error})") from error
        if not found and not self._fs.exists(root):
            raise SourceError(f"{self.path}: no such file or folder")
        base = root if len(found) != 1 or root not in found else root.rsplit("/", 1)[0]
        hidden = re.compile(r"(^|/)[._]")
        chosen = {p: facts for p, facts in found.items() if p.lower().endswith(SUFFIXES) and not hidden.search(p[len(base) :].lstrip("/"))}
        if not chosen:
            raise SourceError(f"{self.path}: holds no file that ends in {', '.join(SUFFIXES)}")
        stamps = ("mtime", "LastModified", "last_modified", "updated", "etag", "ETag")
        return [
            DataFile(p, int(f["size"] or 0), str(next((f[s] for s in stamps if s in f), "")), _named_day(p[len(base) :]))
            for p, f in sorted(chosen.items())
        ]

    def _span_or_skip(self, file: DataFile, first: date, last: date) -> tuple[date, date] | None:
        """The first and last day of arrival in a file, None where it has no rows."""
        try:
            if file not in self._spans:
                self._spans[file] = self._span(file)
            return self._spans[file]
        except SourceError as error:
            if file.named_day is None or first <= file.named_day <= last:
                raise
            _log.warning("left out, as its name is of another day: %s", error)
            return None

    def _span(self, file: DataFile) -> tuple[date, date] | None:
        if not file.path.endswith((".csv", ".csv.gz")):
            metadata = self._open_parquet(file, lambda parquet: parquet.metadata)
            if span := _span_of_statistics(metadata, self._arrival_column(file, metadata.schema.to_arrow_schema().names)):
                return span
        days = self._table(file).column(ARRIVAL_DAY)
        if len(days) == 0:
            return None
        extremes = pc.min_max(days).as_py()
        return extremes["min"], extremes["max"]

    def _arrival_column(self, file: DataFile, names: list[str]) -> str:
        wanted = [self.layout.columns[name] for name in self.layout.arrival]
        if present := [name for name in wanted if name in names]:
            return present[0]
        raise _missing(file, wanted[-1], names)

    def _table(self, file: DataFile) -> pa.Table:
        if file in self._tables:
            self._tables.move_to_end(file)
            return self._tables[file]
        table = self._typed(file, *self._read(file))
        self._tables[file] = table
        while len(self._tables) > 1 and sum(t.num_rows for t in self._tables.values()) > CACHED_ROWS:
            self._tables.popitem(last=False)
        return table

    def _read(self, file: DataFile) -> tuple[pa.Table, list[str]]:
        """The columns of the layout that a file has, and the names of all that it has."""
        if file.size == 0:
            raise SourceError(f"{file.path}: is empty, without even a header")
        wanted = list(dict.fromkeys(self.layout.columns.values()))
        if file.path.endswith((".csv", ".csv.gz")):
            return _read_csv(self._fs, file, wanted)

        def read(parquet: pq.ParquetFile) -> tuple[pa.Table, list[str]]:
            names = list(parquet.schema_arrow.names)
            # A thread of Arrow's that still holds the Python file as the interpreter ends would abort the process.
            return parquet.read(columns=[name for name in wanted if name in names], use_threads=False), names

        return self._open_parquet(file, read)

    def _open_parquet(self, file: DataFile, use: Any) -> Any:
        if file.size == 0:
            raise SourceError(f"{file.path}: is empty, 0 bytes")
        try:
            with self._fs.open(file.path, "rb") as handle, pq.ParquetFile(handle) as parquet:
                return use(parquet)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{file.path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error

    def _typed(self, file: DataFile, table: pa.Table, names: list[str]) -> pa.Table:
        layout, columns, unread = self.layout, {}, {}
        arrival = next(name for name in layout.arrival if layout.columns[name] == self._arrival_column(file, names))
        for name, kind in layout.kinds.items():
            source = layout.columns[name]
            if source in table.column_names:
                if names.count(source) > 1:
                    raise SourceError(f"{file.path}: has more than one column {source!r}")
                try:
                    columns[name], bad = read_column(table.column(source), kind, source)
                except (UnreadableType, pa.ArrowException) as error:
                    raise SourceError(f"{file.path}: {error}") from error
                if bad.any():
                    unread[name] = dict(zip(np.flatnonzero(bad).tolist(), original_text(table.column(source), np.flatnonzero(bad)), strict=True))
            elif name in layout.arrival and layout.columns[arrival] != source:
                columns[name] = None  # a feed without it says nothing of it: known when it happened
            elif name in layout.defaults:
                columns[name] = pa.repeat(pa.scalar(layout.defaults[name], TYPES[kind]), table.num_rows)
            else:
                raise _missing(file, source, names)
        arrays = {name: columns[arrival] if array is None else array for name, array in columns.items()}
        if arrival in unread:  # the same text was not read for the columns that stand on it
            unread.update({name: unread[arrival] for name, array in columns.items() if array is None})
        typed = pa.table(arrays).append_column(MALFORMED, _malformed(table.num_rows, unread))
        return typed.append_column(ARRIVAL_DAY, self._arrival_days(file, arrays[arrival], layout.columns[arrival]))

    def _arrival_days(self, file: DataFile, times: pa.Array, column: str) -> pa.Array:
        days = times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        plausible = pc.fill_null(pc.and_(pc.greater_equal(days, pa.scalar(PLAUSIBLE[0])), pc.less(days, pa.scalar(PLAUSIBLE[1]))), False)
        if pc.all(plausible).as_py() in (True, None):
            return days
        instead = file.named_day or pc.min(days.filter(plausible)).as_py()
        if instead is None:
            raise SourceError(f"{file.path}: no value of column {column!r} is a time, so its rows belong to no day; the first is {_first(times)}")
        return pc.if_else(plausible, days, pa.scalar(instead))


def _counts(rows: pa.Table) -> dict[str, int]:
    """Rows by day of arrival."""
    return {str(entry["values"]): int(entry["counts"]) for entry in pc.value_counts(rows.column(ARRIVAL_DAY)).to_pylist()}


def _missing(file: DataFile, column: str, names: list[str]) -> SourceError:
    return SourceError(f"{file.path}: column {column!r} is missing; there are {', '.join(names)}")


def _first(times: pa.Array) -> object:
    return times[0].as_py() if len(times) else None


def _named_day(path: str) -> date | None:
    for year, month, day in reversed(_DAY_IN_NAME.findall(path)):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


def _span_of_statistics(metadata: pq.FileMetaData, column: str) -> tuple[date, date] | None:
    """From the footer alone, where it is complete and plausible."""
    index = metadata.schema.to_arrow_schema().get_field_index(column)
    position = next((i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column), None)
    if position is None or not pa.types.is_timestamp(metadata.schema.to_arrow_schema().field(index).type):
        return None
    days = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(position).statistics
        if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
            return None
        days += [_day(statistics.min), _day(statistics.max)]
    if not days or min(days) < PLAUSIBLE[0] or max(days) >= PLAUSIBLE[1]:
        return None
    return min(days), max(days)


def _day(value: datetime) -> date:
    offset = value.utcoffset()
    return (value.replace(tzinfo=None) - offset if offset else value).date()


def _malformed(rows: int, unread: Mapping[str, Mapping[int, str]]) -> pa.Array:
    texts: dict[int, dict[str, str]] = {}
    for name, values in unread.items():
        for row, value in values.items():
            texts.setdefault(row, {})[name] = value
    if not texts:
        return pa.nulls(rows, pa.string())
    return pa.array([json.dumps(texts[row], ensure_ascii=False) if row in texts else None for row in range(rows)], type=pa.string())


def _read_csv(fs: Any, file: DataFile, wanted: list[str]) -> tuple[pa.Table, list[str]]:
    with fs.open(file.path, "rb", compression="infer") as handle:
        try:
            content = handle.read()
        except (OSError, EOFError) as error:
            raise SourceError(f"{file.path}: cannot be read ({error})") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{file.path}: line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8") from error
    names = next(csv.reader([content.split(b"\n", 1)[0].decode().rstrip("\r")]), [])
    present = [name for name in wanted if name in names]
    options = pcsv.ConvertOptions(include_columns=present, column_types={name: pa.string() for name in present}, strings_can_be_null=False)
    try:
        return pcsv.read_csv(pa.BufferReader(content), convert_options=options, parse_options=pcsv.ParseOptions(newlines_in_values=True)), names
    except pa.ArrowException as error:
        raise SourceError(f"{file.path}: cannot be read as CSV ({str(error).splitlines()[0]})") from error
