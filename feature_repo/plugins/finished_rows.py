"""Rows of finished values that come in through Feast for materialized views.

They come as a frame, as typed columns, or as a write batch of Feast. Good rows are returned, bad rows are
refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.engine.local.materialized_views import MaterializedView, row_times
from feature_repo.plugins import finished_values
from feature_repo.plugins.cells import cell_or_none, frame_times, id_or_as_is
from feature_repo.plugins.pushes import AHEAD_US
from feature_repo.plugins.refusals import Refusals, now_us
from feature_repo.times import EPOCH, to_us


def pushed_values(
    view: Any, materialized: MaterializedView, frame: pd.DataFrame, refusals: Refusals
) -> list[finished_values.Row]:
    """The good rows of a frame of finished values.

    NaN is refused. None in a column of objects is a null, which is a value.
    """
    columns: dict[str, pa.Array] = {}
    bad: dict[int, tuple[str, object]] = {}
    for name, kind in {**dict.fromkeys(materialized.keys, pa.string()), **materialized.types}.items():
        source = materialized.sources[name]
        given = [cell_or_none(v) for v in frame[source].tolist()] if source in frame.columns else None
        if given is None:
            bad |= {i: (source, None) for i in range(len(frame)) if i not in bad}
            given = [None] * len(frame)
        if name in materialized.keys:
            given = [id_or_as_is(v) for v in given]
        elif pa.types.is_timestamp(kind):
            given = [v.floor("us") if isinstance(v, pd.Timestamp) else v for v in given]
        columns[name] = _typed(source, given, kind, bad)
    for time in materialized.times:
        us, known = frame_times(frame, time)
        for i in np.flatnonzero(~known).tolist():
            value = cell_or_none(frame[time].iloc[i]) if time in frame.columns else None
            if time == materialized.event_time or value is not None:
                bad.setdefault(i, (time, value))
        columns[time] = pa.array(us, pa.timestamp("us", "UTC"), mask=~known)
    table = pa.table(columns)
    for i, (field, value) in sorted(bad.items()):
        refusals.add(i, field, value, _value_row(table, materialized, i) | {field: value})
    return good_values(view, materialized, table, refusals, set(bad))


def good_values(
    view: Any,
    materialized: MaterializedView,
    table: pa.Table,
    refusals: Refusals,
    bad: Set[int] = frozenset(),
) -> list[finished_values.Row]:
    """The good rows of typed columns.

    The rows in `bad`, numbers that are not finite, missing ids, and times too far ahead are refused.
    """
    wrong: dict[int, tuple[str, object]] = {}
    for name in materialized.keys:
        empty = pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name], ""))
        wrong |= {i: (materialized.sources[name], table[name][i].as_py()) for i in _where(empty)}
    for name in materialized.types:
        if pa.types.is_floating(table[name].type):
            wrong |= {
                i: (materialized.sources[name], table[name][i].as_py())
                for i in _where(pc.invert(pc.is_finite(table[name])))
                if i not in wrong
            }
    timed = table.set_column(
        table.column_names.index(materialized.event_time),
        materialized.event_time,
        pc.fill_null(table[materialized.event_time], EPOCH),
    )
    event_us, created_us = row_times(materialized, timed)
    latest = now_us() + AHEAD_US
    for time, us in (
        (materialized.event_time, event_us),
        (materialized.created_time or materialized.event_time, created_us),
    ):
        wrong |= {
            i: (time, table[time][i].as_py()) for i in np.flatnonzero(us > latest).tolist() if i not in wrong
        }
    for i, (field, value) in sorted(wrong.items()):
        if i not in bad:
            refusals.add(i, field, value, _value_row(table, materialized, i))
    good = np.array([i for i in range(table.num_rows) if i not in wrong and i not in bad], np.int64)
    return finished_values.rows_of(
        view, materialized.keys, table.take(good), event_us[good].tolist(), created_us[good].tolist()
    )


def finished_rows(data: Iterable[Any], refusals: Refusals) -> list[finished_values.Row]:
    """The good rows of a write batch of Feast: (entity key, features, event time, created time or None).

    Raises `NotAnId` for an entity key that is no id.
    """
    latest_us, good = now_us() + AHEAD_US, []
    for i, (given, features, event, created) in enumerate(data):
        entity = finished_values.with_text_ids(given)
        offence = _offence(features, event, created or event, latest_us)
        if offence is None:
            row = finished_values.Row(entity, features, to_us(event), to_us(created or event))
            good.append(row)
        else:
            ids = {k: v.string_val for k, v in zip(entity.join_keys, entity.entity_values, strict=True)}
            refusals.add(i, *offence, {**ids, offence[0]: offence[1]})
    return good


def _offence(
    features: Mapping[str, Value], event: datetime | None, created: Any, latest_us: int
) -> tuple[str, object] | None:
    """The field and the value for which a row is refused; None for a good row."""
    if event is None:
        return "event_timestamp", None
    if max(to_us(event), to_us(created)) > latest_us:
        return "event_timestamp", event
    for name, value in features.items():
        if not finished_values.is_finite(value):
            return name, getattr(value, value.WhichOneof("val") or "null_val")
    return None


def _typed(source: str, given: list[Any], kind: pa.DataType, bad: dict[int, tuple[str, object]]) -> pa.Array:
    """A column in its declared type. A value that does not fit becomes null and is noted in `bad`."""
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


def _value_row(table: pa.Table, materialized: MaterializedView, row: int) -> dict[str, object]:
    return {materialized.sources.get(n, n): table[n][row].as_py() for n in table.column_names}


def _where(mask: pa.ChunkedArray) -> list[int]:
    """The rows where a mask is true."""
    # Arrow's own indices_nonzero crashes on an empty column.
    return np.flatnonzero(np.asarray(pc.fill_null(mask, False).combine_chunks())).tolist()
