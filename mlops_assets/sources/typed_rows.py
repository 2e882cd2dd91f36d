"""The raw columns of one file as a typed table with canonical names, unread values and arrival days."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.times import midnight_us, to_us
from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED, Malformed, SourceError
from mlops_assets.core.data.values.column_values import Unread, UnreadableType, read_column
from mlops_assets.core.data.values.value_rules import TYPES, Kind, Rules
from mlops_assets.sources.column_layout import SECONDS, Composed, Layout, Origin, Since, described
from mlops_assets.sources.formats.content import Raw
from mlops_assets.sources.listing import DataFile

# Any other time is a placeholder or comes from a broken clock. It tells no arrival day.
PLAUSIBLE = (date(2000, 1, 1), date(2100, 1, 1))
_MAX_US = 2**62
_ZEROS_AT_ITS_END = r"^(-?(?:0|[1-9]\d*)\.\d*[1-9])0+$"

Values = tuple[pa.Array, dict[int, Unread]]


def typed(raw: Raw, layout: Layout, file: DataFile) -> pa.Table:
    """The canonical columns, then `malformed` and `arrival_day`.

    Raises `SourceError` for a column of the wrong type, or where no row has an arrival day.
    """
    rows = raw.table.num_rows
    if rows == 0:  # An empty column can have any type.
        fields = [(name, TYPES[kind]) for name, kind in layout.kinds.items()]
        return pa.schema([*fields, (MALFORMED, pa.string()), (ARRIVAL_DAY, pa.date32())]).empty_table()
    columns: dict[str, pa.Array] = {}
    unread: dict[str, dict[int, Unread]] = {}
    try:
        for name, kind in layout.kinds.items():
            if layout.has(name, raw.names):
                columns[name], unread[name] = _values(raw.table, layout.columns[name], kind, layout.rules)
            else:
                columns[name] = pa.repeat(pa.scalar(layout.defaults.get(name), TYPES[kind]), rows)
    except (UnreadableType, pa.ArrowException) as error:
        raise SourceError(f"{file.path}: {error}") from error
    arrival = layout.known
    if not layout.has(layout.known, raw.names) and layout.happened is not None:
        arrival = layout.happened
        columns[layout.known], unread[layout.known] = columns[arrival], unread[arrival]
    said = _said(layout, columns, unread)
    if layout.by_file:
        assert file.named_day is not None
        columns[layout.known] = _not_before(
            columns[layout.known], file.named_day, layout.has(arrival, raw.names)
        )
        days = pa.repeat(pa.scalar(file.named_day), rows)
    else:
        days = _arrival_days(file, columns[arrival], layout.columns[arrival], unread[arrival], said)
    table = pa.table({name: columns[name] for name in layout.kinds})
    table = table.append_column(MALFORMED, _malformed(raw, unread, file)).append_column(ARRIVAL_DAY, days)
    return table if said is None else table.filter(said)


def _said(
    layout: Layout, columns: Mapping[str, pa.Array], unread: Mapping[str, Mapping[int, Unread]]
) -> pa.Array | None:
    """Whether each row has a label, or could have one. None where every row counts."""
    if layout.says is None:
        return None
    flag, false_too = layout.says
    known = columns[flag].is_valid().to_numpy(zero_copy_only=False)
    said = (
        known.copy()
        if false_too
        else pc.fill_null(columns[flag], False).to_numpy(zero_copy_only=False).copy()
    )
    broken = sorted(set().union(*unread.values()))
    said[broken] |= ~known[broken]
    return pa.array(said)


def _values(table: pa.Table, origin: Origin, kind: Kind, rules: Rules) -> Values:
    if isinstance(origin, Composed):
        return _composed(table, origin, rules)
    if isinstance(origin, Since):
        return _since(table, origin, rules)
    return read_column(table.column(origin), kind, origin, rules)


def _since(table: pa.Table, origin: Since, rules: Rules) -> Values:
    """The time that is the given number of units after `since`, to the microsecond."""
    raw = table.column(origin.column)
    numbers, unread = read_column(raw, "number", origin.column, rules)
    elapsed = np.round(numbers.to_numpy(zero_copy_only=False) * SECONDS[origin.unit] * 1e6)
    within = np.abs(elapsed) < _MAX_US  # False for NaN, which stands for null.
    times = pa.array(np.where(within, elapsed, 0).astype(np.int64) + to_us(origin.since), mask=~within)
    for row in np.flatnonzero(~within & numbers.is_valid().to_numpy(zero_copy_only=False)).tolist():
        unread[row] = Unread(
            str(raw[row]), f"not a time; it is too many {origin.unit} from {origin.since:%Y-%m-%d}"
        )
    return times.cast(TYPES["time"]), unread


def _composed(table: pa.Table, origin: Composed, rules: Rules) -> Values:
    """The joined parts. Null where a part is missing, and unread where a part is unread."""
    parts, unread = zip(*(_part(table, column, rules) for column in origin.columns), strict=True)

    def joined(row: int) -> Unread:
        text = origin.separator.join(
            bad[row].text if row in bad else str(part[row]) for part, bad in zip(parts, unread, strict=True)
        )
        return Unread(text, next(bad[row].why for bad in unread if row in bad))

    return pc.binary_join_element_wise(*parts, origin.separator), {
        row: joined(row) for row in set().union(*unread)
    }


def _part(table: pa.Table, column: str, rules: Rules) -> Values:
    """A part of an id. Unlike an id, it may be a number with a fraction, such as a price.

    Such a number is its decimal text without trailing zeros. Text, floats and decimals give the same part for
    6.50.
    """
    raw = table.column(column).combine_chunks()
    values, unread = read_column(raw, "id", column, rules)
    if unread and (pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type)):
        numbers = raw.cast(pa.float64(), safe=False)
        broken = pc.fill_null(pc.and_(pc.is_finite(numbers), pc.not_equal(pc.floor(numbers), numbers)), False)
        values = pc.if_else(broken, raw.cast(pa.string()), values)
        unread = {row: value for row, value in unread.items() if not broken[row].as_py()}
    return pc.replace_substring_regex(values, _ZEROS_AT_ITS_END, r"\1"), unread


def _not_before(times: pa.Array, day: date, has_times: bool) -> pa.Array:
    """The times, but not before the beginning of the day.

    A missing time stays missing if the feed has times.
    """
    begin = midnight_us(day)
    return pc.max_element_wise(times.cast(pa.int64()), begin, skip_nulls=not has_times).cast(TYPES["time"])


def _arrival_days(
    file: DataFile, times: pa.Array, origin: Origin, unread: Mapping[int, Unread], said: pa.Array | None
) -> pa.Array:
    days = times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    plausible = pc.fill_null(
        pc.and_(pc.greater_equal(days, pa.scalar(PLAUSIBLE[0])), pc.less(days, pa.scalar(PLAUSIBLE[1]))),
        False,
    )
    if pc.all(plausible).as_py() in (True, None):
        return days
    if file.named_day is not None:
        return pc.if_else(plausible, days, pa.scalar(file.named_day))
    placed = plausible.to_numpy(zero_copy_only=False)
    if not placed.any():
        rows = np.flatnonzero(said).tolist() if said is not None else [0]
        if not rows:
            return pa.nulls(len(times), pa.date32())
        first = (
            f'"{unread[rows[0]].text}", {unread[rows[0]].why}'
            if rows[0] in unread
            else str(times[rows[0]].as_py() or "missing")
        )
        what = (
            f"no value of column {described(origin)!r} is a time, so its rows belong to no day; the first is"
            f" {first}"
        )
        raise SourceError(f"{file.path}: {what}")
    # A feed is mostly in the order of time. A row without a plausible time gets the day of the row above, or
    # of the first row with a day.
    above = np.maximum.accumulate(np.where(placed, np.arange(len(placed)), np.argmax(placed)))
    return days.take(pa.array(above))


def _malformed(raw: Raw, unread: Mapping[str, Mapping[int, Unread]], file: DataFile) -> pa.Array:
    by_row: dict[int, dict[str, Unread]] = {}
    for name, values in unread.items():
        for row, value in values.items():
            by_row.setdefault(row, {})[name] = value
    rows = sorted(by_row)
    places = raw.places(np.array(rows, dtype=np.int64)) if rows else []
    encoded: list[str | None] = [None] * raw.table.num_rows
    for row, place in zip(rows, places, strict=True):
        encoded[row] = Malformed(by_row[row], f"{file.name}, {place}").encode()
    return pa.array(encoded, type=pa.string()) if rows else pa.nulls(raw.table.num_rows, pa.string())
