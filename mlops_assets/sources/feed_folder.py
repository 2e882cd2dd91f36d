"""A feed as a folder of files: the arrival days of each file, and its typed rows.

A file is read for a range of days only if its Parquet footer, its name (`by_file`) or a first reading say
that it has rows of these days. A row without a readable time belongs to the day in the file's name, or to the
day of the row above. An unreadable file fails the day in its name, or every day if its name has no day.
"""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED, FileRows, SourceError
from mlops_assets.core.data.values.value_rules import TYPES
from mlops_assets.sources import listing
from mlops_assets.sources.column_layout import Layout, described
from mlops_assets.sources.formats import content, delimited, parquet
from mlops_assets.sources.formats.content import ContentError, Raw
from mlops_assets.sources.listing import DataFile
from mlops_assets.sources.typed_rows import PLAUSIBLE, typed

CACHED_ROWS = 4_000_000
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Preview:
    """A feed before its first backfill.

    `mapping` has the place of each canonical column in words. `rows` are the first rows, raw and typed.
    `days` are the first and the last arrival day in the first file and in every file whose name or footer
    tells its days. `unread` is the number of all other files.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    mapping: dict[str, str]
    rows: pa.Table
    days: tuple[date, date] | None
    unread: int


class Folder:
    """One file or a folder of files, on a disk or at any fsspec address."""

    def __init__(self, path: str, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._spans: dict[DataFile, tuple[date, date] | None] = {}
        self._tables: OrderedDict[DataFile, pa.Table] = OrderedDict()
        self._told: set[str] = set()

    def rows(self, first: date, last: date) -> pa.Table:
        """The typed rows that arrived from `first` to `last`, in the order of the files.

        They have the columns `malformed` and `arrival_day`. Raises `SourceError` for a file that cannot be
        read.
        """
        tables = []
        for file in self._files():
            if (span := self._span_or_skip(file, first, last)) and span[0] <= last and span[1] >= first:
                table = self._table(file)
                if span[0] < first or span[1] > last:
                    days = table.column(ARRIVAL_DAY)
                    table = table.filter(
                        pc.and_(
                            pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last))
                        )
                    )
                tables.append(table)
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def preview(self, rows: int) -> Preview:
        """The feed by its names, footers, and first file with rows.

        `rows` is the most rows to show. Raises `SourceError` as in `rows`.
        """
        files = self._files()
        table, names, opened = self.schema.empty_table(), self.layout.wanted, 0
        for file in files:
            raw = self._read(file)
            table, names, opened = typed(raw, self.layout, file), raw.names, opened + 1
            if table.num_rows:
                break
        spans = [_extremes(table)] if table.num_rows else []
        told = [self._told_span(file) for file in files[opened:]]
        spans += [span for span in told if span is not None]
        mapping = {column: self._found(column, names) for column in self.layout.kinds}
        days = (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None
        return Preview(
            tuple(file.path for file in files),
            self._listing.left_out,
            mapping,
            table.slice(0, rows),
            days,
            sum(span is None for span in told),
        )

    def holdings(
        self,
        first: date,
        last: date,
        known: Mapping[str, FileRows],
        counted: Callable[[pa.Table], pa.Table] | None = None,
        delay_days: int = 0,
    ) -> dict[str, FileRows]:
        """The number of rows by arrival day, for each file.

        Only files that are new or have changed since `known` are read. `counted` derives the rows to count
        from the rows of a file. They arrive up to `delay_days` after the rows of the file.
        """
        found = {}
        for file in self._files():
            version, before = f"{file.size} {file.stamp}", known.get(file.path)
            same = (
                before
                if before is not None and before.version == version and before.problem is None
                else None
            )
            if same is not None:
                span = same.span and (date.fromisoformat(same.span[0]), date.fromisoformat(same.span[1]))
                self._spans.setdefault(file, span)
            try:
                span = self._spans[file] if file in self._spans else self._span(file)
                near = span is not None and span[0] <= last and span[1] + timedelta(days=delay_days) >= first
                if same is None or (near and same.rows is None):
                    rows = (
                        _counts(counted(self._table(file)) if counted else self._table(file))
                        if near
                        else None
                    )
                    same = FileRows(version, rows, span and (span[0].isoformat(), span[1].isoformat()))
                self._spans[file], found[file.path] = span, replace(same, delay_days=delay_days)
            except SourceError as error:
                found[file.path] = FileRows(version, problem=str(error))
        return found

    @property
    def schema(self) -> pa.Schema:
        """The columns of `rows`."""
        columns = [(name, TYPES[kind]) for name, kind in self.layout.kinds.items()]
        return pa.schema([*columns, (MALFORMED, pa.string()), (ARRIVAL_DAY, pa.date32())])

    def _files(self) -> tuple[DataFile, ...]:
        self._fs, self._listing = listing.find(self.path)
        for path in self._listing.left_out:
            if path not in self._told:
                self._told.add(path)
                _log.warning("left out, because its name is not the name of a table: %s", path)
        if self.layout.by_file and (
            nameless := [file.path for file in self._listing.files if file.named_day is None]
        ):
            raise SourceError(
                f'{nameless[0]}: its name holds no day, and arrival = "file" takes the day of arrival from'
                " it; name it like 2026-03-01.csv, or leave arrival out"
            )
        return self._listing.files

    def _span_or_skip(self, file: DataFile, first: date, last: date) -> tuple[date, date] | None:
        """The first and the last arrival day in a file. None without rows, or if the file is unreadable.

        An unreadable file is an error only for the day in its name.
        """
        try:
            if file not in self._spans:
                self._spans[file] = self._span(file)
            return self._spans[file]
        except SourceError as error:
            if file.named_day is None or first <= file.named_day <= last:
                raise
            _log.warning("left out, because its name has another day: %s", error)
            return None

    def _span(self, file: DataFile) -> tuple[date, date] | None:
        if span := self._told_span(file):
            return span
        table = self._table(file)
        return _extremes(table) if table.num_rows else None

    def _told_span(self, file: DataFile) -> tuple[date, date] | None:
        """The span that the name of the file (`by_file`) or a complete, plausible Parquet footer tells."""
        if self.layout.by_file:
            return (file.named_day, file.named_day) if file.named_day is not None else None

        def from_footer(handle: IO[bytes]) -> tuple[date, date] | None:
            return parquet.days_of_footer(handle, self.layout) if _is_parquet(handle) else None

        span = self._opened(file, from_footer)
        return span if span and span[0] >= PLAUSIBLE[0] and span[1] < PLAUSIBLE[1] else None

    def _table(self, file: DataFile) -> pa.Table:
        if file in self._tables:
            self._tables.move_to_end(file)
            return self._tables[file]
        table = typed(self._read(file), self.layout, file)
        self._tables[file] = table
        while len(self._tables) > 1 and sum(t.num_rows for t in self._tables.values()) > CACHED_ROWS:
            self._tables.popitem(last=False)
        return table

    def _read(self, file: DataFile) -> Raw:
        """The columns of the layout that a file has."""
        return self._opened(file, self._content)

    def _content(self, handle: IO[bytes]) -> Raw:
        if _is_parquet(handle):
            return parquet.read(handle, self.layout)
        text = content.unpacked(handle.read())
        if text.startswith(content.PARQUET):
            return parquet.read(io.BytesIO(text), self.layout)
        return delimited.read(text, self.layout)

    def _opened(self, file: DataFile, use: Callable[[IO[bytes]], T]) -> T:
        """The result of `use` on the open file. Raises `SourceError` with the file and the place in it."""
        if file.size == 0:
            raise SourceError(f"{file.path}: is empty, without even a header")
        try:
            with self._fs.open(file.path, "rb") as handle:
                return use(handle)
        except ContentError as error:
            raise SourceError(
                f"{file.path}{f', {error.place}' if error.place else ''}: {error.what}"
            ) from error
        except OSError as error:
            raise SourceError(f"{file.path}: cannot be opened ({error})") from error

    def _found(self, column: str, names: list[str]) -> str:
        if self.layout.has(column, names):
            return described(self.layout.columns[column])
        return f"missing, {self.layout.default_of(column)}"


def _is_parquet(handle: IO[bytes]) -> bool:
    magic = handle.read(len(content.PARQUET))
    handle.seek(0)
    return magic == content.PARQUET


def _extremes(table: pa.Table) -> tuple[date, date]:
    extremes = pc.min_max(table.column(ARRIVAL_DAY)).as_py()
    return extremes["min"], extremes["max"]


def _counts(rows: pa.Table) -> dict[str, int]:
    """The number of rows by arrival day."""
    counts = pc.value_counts(rows.column(ARRIVAL_DAY)).to_pylist()
    return {str(entry["values"]): int(entry["counts"]) for entry in counts}
