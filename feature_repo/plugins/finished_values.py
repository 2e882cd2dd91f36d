"""Finished values of materialized views in the service's file: the newest row of each entity.

The order of arrival does not matter. No function commits. The name of the table does not begin with
`online_`, so a rebuild of the online state leaves the table alone.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Map, Value
from feast.type_map import python_values_to_proto_values

from feature_repo.engine.ids import id_texts
from feature_repo.times import from_us

TABLE = """
CREATE TABLE IF NOT EXISTS feast_values (
    view TEXT, entity BLOB, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL, features BLOB NOT NULL,
    PRIMARY KEY (view, entity)
) WITHOUT ROWID
"""
UPSERT = """
INSERT INTO feast_values VALUES (?, ?, ?, ?, ?) ON CONFLICT (view, entity)
DO UPDATE SET event_us = excluded.event_us, created_us = excluded.created_us, features = excluded.features
WHERE (excluded.event_us, excluded.created_us) >= (event_us, created_us)
"""


class Row(NamedTuple):
    """The finished values of one entity, the time for which they hold, and the time at which they became
    known.
    """

    entity: EntityKey
    features: Mapping[str, Value]
    event_us: int
    created_us: int


def write(connection: sqlite3.Connection, view: str, rows: Iterable[Row]) -> None:
    """Keep each row that is no older than the stored row of its entity.

    The last of several rows with the same event and created time stays, as a correction.
    """
    connection.executemany(
        UPSERT, ((view, _key(r.entity), r.event_us, r.created_us, _packed(r.features)) for r in rows)
    )


def read(
    connection: sqlite3.Connection, view: str, entities: Iterable[EntityKey], ttl_us: int, now_us: int
) -> list[tuple[datetime | None, Any]]:
    """The time and the features of each entity, as Feast's `online_read` gives them.

    (None, None) where there is no row. The time and None where the row is older than the ttl (0: no limit). A
    null feature is left out.
    """
    result: list[tuple[datetime | None, Any]] = []
    for entity in entities:
        found = connection.execute(
            "SELECT event_us, features FROM feast_values WHERE view = ? AND entity = ?",
            (view, _key(with_text_ids(entity))),
        ).fetchone()
        if found is None:
            result.append((None, None))
            continue
        event_us, packed = found
        happened = from_us(event_us)
        stale = ttl_us and event_us < now_us - ttl_us
        result.append(
            (
                happened,
                (
                    None
                    if stale
                    else {n: v for n, v in Map.FromString(packed).val.items() if v.WhichOneof("val")}
                ),
            )
        )
    return result


def forget(connection: sqlite3.Connection, view: str) -> None:
    """Delete all values of a view."""
    connection.execute("DELETE FROM feast_values WHERE view = ?", (view,))


def rows_of(
    view: Any, keys: Sequence[str], table: pa.Table, event_us: Iterable[int], created_us: Iterable[int]
) -> list[Row]:
    """The keys and features of a table in Feast's own encoding, row by row."""
    ids = [[Value(string_val=v) for v in table[k].to_pylist()] for k in keys] or [
        [Value(string_val=DUMMY_ENTITY_VAL)] * table.num_rows
    ]
    names = [f.name for f in view.features]
    columns = [
        python_values_to_proto_values(table[f.name].to_pylist(), f.dtype.to_value_type())
        for f in view.features
    ]
    entities = [
        EntityKey(join_keys=keys or [DUMMY_ENTITY_ID], entity_values=values)
        for values in zip(*ids, strict=True)
    ]
    features = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return [Row(*row) for row in zip(entities, features, event_us, created_us, strict=True)]


def with_text_ids(entity: EntityKey) -> EntityKey:
    """The key with whole numbers as their decimal text, as keys are stored and looked up.

    Raises `NotAnId` for a null, and for a number that is no id.
    """
    found = [(v, v.WhichOneof("val")) for v in entity.entity_values]
    if all(kind == "string_val" for _, kind in found):
        return entity
    texts = id_texts("entity key", [getattr(v, kind or "", None) for v, kind in found])
    return EntityKey(join_keys=entity.join_keys, entity_values=[Value(string_val=text) for text in texts])


def is_finite(value: Value) -> bool:
    """False for NaN and infinity."""
    kind = value.WhichOneof("val")
    return kind not in ("double_val", "float_val") or math.isfinite(getattr(value, kind))


def _key(entity: EntityKey) -> bytes:
    return bytes(serialize_entity_key(entity, entity_key_serialization_version=3))


def _packed(features: Mapping[str, Value]) -> bytes:
    return bytes(Map(val=features).SerializeToString())
