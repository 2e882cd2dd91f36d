"""What comes in through Feast, row by row: good rows go in, bad ones to quarantine with their reason, and who
sent them learns of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.ids import NotAnId, id_text
from feature_repo.engine.local.materialized_views import PlainView, row_times
from feature_repo.engine.plan import ViewPlan
from feature_repo.online.sqlite import finished_values
from feature_repo.online.sqlite.state import OnlineState
from feature_repo.times import EPOCH

AHEAD_US = 86_400_000_000  # clocks may be a day off; what is further ahead is no event yet
Ints = NDArray[np.int64]


class RefusedRows(BadEvent):
    """Some rows went to quarantine, all others are in.

    `row` (from 0), `field`, `value` and `reason` are the first offence.
    """

    def __init__(self, taken: int, refused: int, row: int, field: str, value: object, reason: str) -> None:
        super().__init__(field, value)
        self.taken, self.refused, self.row, self.reason = taken, refused, row, reason
        shown = value.isoformat() if isinstance(value, datetime) else repr(value)
        self.args = (
            (
                f"{taken} rows were taken and {refused} refused; the first of these is row {row}, with"
                f" {field}: {shown} ({reason})"
            ),
        )


class RefusedPush(Exception):
    """Nothing of a push can be read as rows; nothing was taken.

    The message says where it was meant to go, and why.
    """


class Refusals:
    """The bad rows of one call, whichever views they were meant for."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.offences: dict[int, tuple[str, object, str]] = {}
        self._new: list[tuple[Mapping[str, object], str]] = []

    def add(
        self, row: int, field: str, value: object, event: Mapping[str, object], reason: str | None = None
    ) -> None:
        reason = reason or _kind(value)
        self.offences.setdefault(row, (field, value, reason))
        self._new.append((event, f"{field}: {reason}"))

    def keep(self, state: OnlineState, stream: str) -> None:
        """Put what was added since the last time into quarantine, under the name of a stream or a plain view."""
        now_us = _now_us()
        for event, reason in self._new:
            state.quarantine(stream, event, reason, now_us)
        self._new = []

    @property
    def summary(self) -> RefusedRows:
        first = min(self.offences)
        return RefusedRows(self.rows - len(self.offences), len(self.offences), first, *self.offences[first])

    def tell(self) -> None:
        """Raises `RefusedRows` if there are any."""
        if self.offences:
            raise self.summary


def as_frame(where: str, given: object) -> pd.DataFrame:
    """What somebody pushed, if it is a frame with each column once; otherwise `RefusedPush`."""
    if not isinstance(given, pd.DataFrame):
        raise RefusedPush(f"{where}: a push takes a pandas DataFrame, and got {type(given).__name__}")
    if len(twice := given.columns[given.columns.duplicated()]):
        raise RefusedPush(
            f"{where}: more than one column is called {twice[0]!r}, so that it is not known which of them"
            " counts"
        )
    return given


def push_events(
    state: OnlineState, views: Sequence[ViewPlan], frame: pd.DataFrame, refusals: Refusals
) -> None:
    """Raw events of one stream, for all its views.

    Without created_timestamp they were known at once. Nanoseconds are cut off.
    """
    stream, now_us = views[0].stream, _now_us()
    ids = dict.fromkeys(c for v in views for c in (*v.event_id, v.entity) if c != "event_timestamp")
    at_us, known_at = _frame_times(frame, "event_timestamp")
    created_us, known_created = _frame_times(frame, "created_timestamp")
    for i, row in enumerate(frame.to_dict("records")):
        event = {str(name): _value(value) for name, value in row.items()}
        at, created = int(at_us[i]), int(created_us[i])
        try:
            if not known_at[i]:
                raise BadEvent("event_timestamp", event.get("event_timestamp"))
            if not known_created[i]:
                if event.get("created_timestamp") is not None:
                    raise BadEvent("created_timestamp", event["created_timestamp"])
                created = at
            if created < at:
                refusals.add(
                    i,
                    "created_timestamp",
                    EPOCH + timedelta(microseconds=created),
                    event,
                    "before event_timestamp",
                )
                continue
            for name, moment in (("event_timestamp", at), ("created_timestamp", created)):
                if moment > now_us + AHEAD_US:
                    raise BadEvent(name, EPOCH + timedelta(microseconds=moment))
            for name in ids:
                event[name] = _id(event.get(name))
                if not event[name] or not isinstance(event[name], str):
                    raise BadEvent(name, event[name])
            state.push(stream, state.plan.event_id(stream, event, at), event, at, created)
        except BadEvent as bad:
            refusals.add(i, bad.field, bad.value, event)


def pushed_values(
    view: Any, plain: PlainView, frame: pd.DataFrame, refusals: Refusals
) -> list[finished_values.Row]:
    """The good rows of a frame of finished values.

    A NaN in it is refused; None in a column of objects is a null, which is a value.
    """
    columns: dict[str, pa.Array] = {}
    bad: dict[int, tuple[str, object]] = {}
    for name, kind in {**dict.fromkeys(plain.keys, pa.string()), **plain.types}.items():
        source = plain.sources[name]
        given = [_value(v) for v in frame[source].tolist()] if source in frame.columns else None
        if given is None:
            bad |= {i: (source, None) for i in range(len(frame)) if i not in bad}
            given = [None] * len(frame)
        if name in plain.keys:
            given = [_id(v) for v in given]
        elif pa.types.is_timestamp(kind):
            given = [v.floor("us") if isinstance(v, pd.Timestamp) else v for v in given]
        columns[name] = _typed(source, given, kind, bad)
    for time in plain.times:
        us, known = _frame_times(frame, time)
        for i in np.flatnonzero(~known).tolist():
            value = _value(frame[time].iloc[i]) if time in frame.columns else None
            if time == plain.event_time or value is not None:
                bad.setdefault(i, (time, value))
        columns[time] = pa.array(us, pa.timestamp("us", "UTC"), mask=~known)
    table = pa.table(columns)
    for i, (field, value) in sorted(bad.items()):
        refusals.add(i, field, value, _value_row(table, plain, i) | {field: value})
    return good_values(view, plain, table, refusals, set(bad))


def good_values(
    view: Any, plain: PlainView, table: pa.Table, refusals: Refusals, bad: Set[int] = frozenset()
) -> list[finished_values.Row]:
    """Rows of typed columns, without those in `bad` and those whose numbers are not finite, whose ids are
    missing, or that are too far ahead.
    """
    wrong: dict[int, tuple[str, object]] = {}
    for name in plain.keys:
        empty = pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name], ""))
        wrong |= {i: (plain.sources[name], table[name][i].as_py()) for i in _where(empty)}
    for name in plain.types:
        if pa.types.is_floating(table[name].type):
            wrong |= {
                i: (plain.sources[name], table[name][i].as_py())
                for i in _where(pc.invert(pc.is_finite(table[name])))
                if i not in wrong
            }
    timed = table.set_column(
        table.column_names.index(plain.event_time),
        plain.event_time,
        pc.fill_null(table[plain.event_time], EPOCH),
    )
    event_us, created_us = row_times(plain, timed)
    latest = _now_us() + AHEAD_US
    for time, us in ((plain.event_time, event_us), (plain.created_time or plain.event_time, created_us)):
        wrong |= {
            i: (time, table[time][i].as_py()) for i in np.flatnonzero(us > latest).tolist() if i not in wrong
        }
    for i, (field, value) in sorted(wrong.items()):
        if i not in bad:
            refusals.add(i, field, value, _value_row(table, plain, i))
    good = np.array([i for i in range(table.num_rows) if i not in wrong and i not in bad], np.int64)
    return finished_values.rows_of(
        view, plain.keys, table.take(good), event_us[good].tolist(), created_us[good].tolist()
    )


def finished_rows(data: Iterable[Any], refusals: Refusals) -> list[finished_values.Row]:
    """The good rows of what Feast calls a write batch: (entity key, features, event time, created time or
    None).
    """
    latest, good = _now_us() + AHEAD_US, []
    for i, (entity, features, event, created) in enumerate(data):
        row = finished_values.Row(
            finished_values.with_text_ids(entity),
            features,
            *(moment_us(t) if t is not None else None for t in (event, created or event)),
        )  # type: ignore[arg-type]
        offence = next(
            (
                (n, getattr(v, v.WhichOneof("val")))
                for n, v in features.items()
                if not finished_values.is_finite(v)
            ),
            None,
        )
        if event is None:
            offence = ("event_timestamp", None)
        elif max(row.event_us, row.created_us) > latest:
            offence = ("event_timestamp", event)
        if offence is None:
            good.append(row)
        else:
            ids = {
                k: v.string_val for k, v in zip(row.entity.join_keys, row.entity.entity_values, strict=True)
            }
            refusals.add(i, *offence, {**ids, offence[0]: offence[1]})
    return good


def moment_us(moment: datetime) -> int:
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)


def _typed(source: str, given: list[Any], kind: pa.DataType, bad: dict[int, tuple[str, object]]) -> pa.Array:
    """A column in its declared type; what does not fit is null in it, and an offence."""
    try:
        return pa.array(given, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        for i, value in enumerate(given):
            try:
                pa.scalar(value, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                bad.setdefault(i, (source, value))
                given[i] = None
        return pa.array(given, kind)


def _frame_times(frame: pd.DataFrame, name: str) -> tuple[Ints, NDArray[np.bool_]]:
    """Microseconds, and where there is a time at all. Without a zone it is UTC."""
    if name not in frame.columns or pd.api.types.is_numeric_dtype(frame[name].dtype):
        return np.zeros(len(frame), np.int64), np.zeros(len(frame), bool)
    given = frame[name]
    if not pd.api.types.is_datetime64_any_dtype(given.dtype):
        given = pd.to_datetime(given, utc=True, format="ISO8601", errors="coerce")
    index = pd.DatetimeIndex(given)
    return index.as_unit("us").asi8, ~np.asarray(index.isna())


def _value_row(table: pa.Table, plain: PlainView, row: int) -> dict[str, object]:
    return {plain.sources.get(n, n): table[n][row].as_py() for n in table.column_names}


def _where(mask: pa.ChunkedArray) -> list[int]:
    # Arrow's own indices_nonzero crashes on an empty column.
    return np.flatnonzero(np.asarray(pc.fill_null(mask, False).combine_chunks())).tolist()


def _id(value: Any) -> Any:
    """A whole number as its text, NaN as missing, and what is no id as it is: it is refused by its type."""
    try:
        return None if value is None or value != value else id_text(value)
    except NotAnId:
        return value


def _value(value: Any) -> Any:
    return None if value is pd.NA or value is pd.NaT else value


def _kind(value: object) -> str:
    """What is wrong with a value, in few words: refusals are counted by it."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return (
        "more than a day ahead"
        if isinstance(value, datetime)
        else f"cannot be used as {type(value).__name__}"
    )


def _now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6)
