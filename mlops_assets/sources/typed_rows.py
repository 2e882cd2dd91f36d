"""Raw columns of one file become a typed table: canonical names, what could not be read and where, and the day on which each row arrived."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.parsing import TYPES, Kind, UnreadableType, original_text, read_column
from mlops_assets.core.source import ARRIVAL_DAY, MALFORMED, SourceError
from mlops_assets.sources.content import Raw
from mlops_assets.sources.layout import SECONDS, Composed, Layout, Origin, Since, described
from mlops_assets.sources.listing import DataFile

PLAUSIBLE = (date(2000, 1, 1), date(2100, 1, 1))  # a time outside is a placeholder or a broken clock, and says nothing of the day of arrival
_MAX_US = 2**62

Unread = dict[int, str]  # row -> the text that stood there


def typed(raw: Raw, layout: Layout, file: DataFile) -> pa.Table:
    """The canonical columns, then `malformed` and `arrival_day`."""
    rows = raw.table.num_rows
    if rows == 0:  # an empty column may be of any type
        fields = [(name, TYPES[kind]) for name, kind in layout.kinds.items()]
        return pa.schema([*fields, (MALFORMED, pa.string()), (ARRIVAL_DAY, pa.date32())]).empty_table()
    columns: dict[str, pa.Array] = {}
    unread: dict[str, Unread] = {}
    try:
        for name, kind in layout.kinds.items():
            if layout.has(name, raw.names):
                columns[name], unread[name] = _values(raw.table, layout.columns[name], kind)
            else:
                columns[name] = pa.repeat(pa.scalar(layout.defaults.get(name), TYPES[kind]), rows)
    except (UnreadableType, pa.ArrowException) as error:
        raise SourceError(f"{file.path}: {error}") from error
    arrival = layout.known
    if not layout.has(layout.known, raw.names) and layout.happened is not None:
        arrival = layout.happened
        columns[layout.known], unread[layout.known] = columns[arrival], unread[arrival]
    if layout.by_file:
        assert file.named_day is not None
        columns[layout.known] = _not_before(columns[layout.known], file.named_day, layout.has(arrival, raw.names))
        days = pa.repeat(pa.scalar(file.named_day), rows)
    else:
        days = _arrival_days(file, columns[arrival], layout.columns[arrival])
    table = pa.table({name: columns[name] for name in layout.kinds})
    return table.append_column(MALFORMED, _malformed(rows, unread)).append_column(ARRIVAL_DAY, days)


def _values(table: pa.Table, origin: Origin, kind: Kind) -> tuple[pa.Array, Unread]:
    if isinstance(origin, Composed):
        return _composed(table, origin)
    if isinstance(origin, Since):
        return _since(table, origin)
    return _read(table, origin, kind)


def _read(table: pa.Table, column: str, kind: Kind) -> tuple[pa.Array, Unread]:
    values, bad = read_column(table.column(column), kind, column)
    rows = np.flatnonzero(bad)
    return values, dict(zip(rows.tolist(), original_text(table.column(column), rows), strict=True)) if len(rows) else {}


def _since(table: pa.Table, origin: Since) -> tuple[pa.Array, Unread]:
    """The moment that is so many units after `since`, to the microsecond."""
    numbers, unread = _read(table, origin.column, "number")
    elapsed = np.round(numbers.to_numpy(zero_copy_only=False) * SECONDS[origin.unit] * 1e6)
    within = np.abs(elapsed) < _MAX_US  # false of NaN as well, which stands for null
    times = pa.array(np.where(within, elapsed, 0).astype(np.int64) + _microseconds(origin.since), mask=~within)
    far = np.flatnonzero(~within & numbers.is_valid().to_numpy(zero_copy_only=False))
    unread |= dict(zip(far.tolist(), original_text(table.column(origin.column), far), strict=True)) if len(far) else {}
    return times.cast(TYPES["time"]), unread


def _composed(table: pa.Table, origin: Composed) -> tuple[pa.Array, Unread]:
    """The parts joined; null where one is missing, unread where one is."""
    parts, unread = zip(*(_part(table, column) for column in origin.columns), strict=True)

    def text(row: int) -> str:
        return origin.separator.join(bad.get(row, str(part[row])) for part, bad in zip(parts, unread, strict=True))

    texts = {row: text(row) for row in set().union(*unread)}
    return pc.binary_join_element_wise(*parts, origin.separator), texts


def _part(table: pa.Table, column: str) -> tuple[pa.Array, Unread]:
    """As an id is read, except that an amount may be a part of one."""
    raw = table.column(column)
    if pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type):
        numbers = raw.cast(pa.float64(), safe=False).combine_chunks()
        whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53))
        digits = pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64()).cast(pa.string())
        finite = pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
        return pc.coalesce(digits, finite.cast(pa.string())), {}
    return _read(table, column, "id")


def _not_before(times: pa.Array, day: date, has_times: bool) -> pa.Array:
    """The times, or the beginning of the day where they are before it or where the feed has none."""
    begin = pa.scalar(datetime.combine(day, time(), UTC), TYPES["time"])
    return pc.max_element_wise(times, begin, skip_nulls=not has_times)


def _arrival_days(file: DataFile, times: pa.Array, origin: Origin) -> pa.Array:
    days = times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    plausible = pc.fill_null(pc.and_(pc.greater_equal(days, pa.scalar(PLAUSIBLE[0])), pc.less(days, pa.scalar(PLAUSIBLE[1]))), False)
    if pc.all(plausible).as_py() in (True, None):
        return days
    instead = file.named_day or pc.min(days.filter(plausible)).as_py()
    if instead is None:
        what = f"no value of column {described(origin)!r} is a time, so its rows belong to no day; the first is {times[0].as_py()}"
        raise SourceError(f"{file.path}: {what}")
    return pc.if_else(plausible, days, pa.scalar(instead))


def _microseconds(moment: datetime) -> int:
    return int(pa.scalar(moment, TYPES["time"]).cast(pa.int64()).as_py())


def _malformed(rows: int, unread: Mapping[str, Unread]) -> pa.Array:
    texts: dict[int, dict[str, str]] = {}
    for name, values in unread.items():
        for row, value in values.items():
            texts.setdefault(row, {})[name] = value
    if not texts:
        return pa.nulls(rows, pa.string())
    return pa.array([json.dumps(texts[row], ensure_ascii=False) if row in texts else None for row in range(rows)], type=pa.string())
