"""Every raw row ends as accepted, as a duplicate, or in quarantine with its reasons; the three always add up to what came in.

What a row must look like is a pandera schema of the use case; nothing here knows what the columns mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.parsing import TYPES, WORDS, Kind, read_column
from mlops_assets.core.source import MALFORMED, SourceError

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

REASON = "reason"
CONFLICT = "conflicting duplicate"
MISSING = "missing"
_UNTRIMMED = r"^\s|\s$|^$"

Known = AbstractSet[str] | pd.Index


class CountsDoNotReconcile(Exception):
    """Rows were lost or invented on the way: received is not accepted + duplicate + quarantined."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        super().__init__(f"received rows are not accepted + duplicate + quarantined: {self.counts}")


@dataclass(frozen=True)
class Validation:
    """`quarantined` holds every value as text, as it came, and `reason`: what is wrong, by "; " where it is several things."""

    accepted: pd.DataFrame
    quarantined: pd.DataFrame
    duplicates: int
    received: int

    def __post_init__(self) -> None:
        if self.received != len(self.accepted) + self.duplicates + len(self.quarantined):
            raise CountsDoNotReconcile(self.counts)

    @property
    def counts(self) -> dict[str, int]:
        return {"received": self.received, "accepted": len(self.accepted), "duplicate": self.duplicates, "quarantined": len(self.quarantined)}

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were quarantined for each reason, the most frequent first."""
        single = self.quarantined[REASON].str.split("; ").explode()
        counted = single.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        return {str(reason): int(n) for reason, n in counted.items()}


def validate(
    raw: pd.DataFrame,
    schema: DataFrameSchema,
    *,
    key: Sequence[str],
    order: Sequence[str],
    prefer: Sequence[str] = (),
    known: Known | None = None,
) -> Validation:
    """Sort the rows of one arrival day into accepted, duplicate and quarantined.

    Of rows that agree in every column of the schema the first counts and the others are duplicates. Of rows that agree in `key` only, the least
    by `prefer` and then by all the columns is kept, whatever order they came in, and the others are quarantined. A first key column that is
    in `known` was accepted on another day. Accepted rows are sorted by `order`.
    """
    raw = raw.reset_index(drop=True)
    kinds = schema_kinds(schema)
    frame, reasons = _read(raw, kinds)
    nullable = {name for name, column in schema.columns.items() if column.nullable}
    for name in kinds:
        if name not in nullable:
            reasons.add(frame[name].isna().to_numpy() & ~reasons.about(name), f"{name}: {MISSING}")
    readable = frame[~reasons.mask].astype({name: "bool" for name, kind in kinds.items() if kind == "flag"})
    for row, reason in _failures(readable, schema):
        reasons.add_row(row, reason)
    if known is not None and len(known):
        reasons.add(frame[key[0]].isin(_as_index(known)).to_numpy(), f"{key[0]}: accepted on another day")
    sound = frame[~reasons.mask]
    duplicate, conflicting = _repeats(sound, list(key), list(prefer))
    for row in conflicting:
        reasons.add_row(row, CONFLICT)
    accepted = sound.drop(index=duplicate.union(conflicting)).astype({name: "bool" for name, kind in kinds.items() if kind == "flag"})
    accepted = accepted.sort_values([*order], kind="stable", ignore_index=True)
    return Validation(accepted, _quarantined(raw, frame, kinds, reasons), len(duplicate), len(raw))


def schema_kinds(schema: DataFrameSchema) -> dict[str, Kind]:
    """How the values of each column are to be read, by the type that the schema gives it."""
    by_type: dict[str, Kind] = {"str": "id", "object": "id", "float64": "number", "datetime64[us, UTC]": "time", "bool": "flag"}
    return {name: by_type[str(column.dtype)] for name, column in schema.columns.items()}


class _Reasons:
    """What is wrong with which row, in the order in which it was found."""

    def __init__(self, rows: int) -> None:
        self.mask = np.zeros(rows, dtype=bool)
        self.texts: dict[int, list[str]] = {}
        self._about: dict[str, np.ndarray] = {}

    def add(self, rows: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(rows):
            self.add_row(int(row), reason)

    def add_row(self, row: int, reason: str) -> None:
        self.mask[row] = True
        known = self.texts.setdefault(row, [])
        if reason not in known:
            known.append(reason)

    def unreadable(self, rows: np.ndarray, name: str, kind: Kind) -> None:
        self._about[name] = self.about(name) | rows
        self.add(rows, f"{name}: not {WORDS[kind]}")

    def about(self, name: str) -> np.ndarray:
        return self._about.get(name, np.zeros(len(self.mask), dtype=bool))


def _read(raw: pd.DataFrame, kinds: Mapping[str, Kind]) -> tuple[pd.DataFrame, _Reasons]:
    """The schema's columns as their types, null where a value could not be read."""
    if absent := [name for name in kinds if name not in raw]:
        raise SourceError(f"column {absent[0]!r} is missing; there are {', '.join(map(str, raw.columns))}")
    reasons = _Reasons(len(raw))
    unread = _unread_before(raw)
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        columns[name], bad = _typed(raw[name], kind)
        if name in unread:
            bad = bad.copy()
            bad[list(unread[name])] = True
        reasons.unreadable(bad, name, kind)
    return pd.DataFrame(columns, index=raw.index), reasons


def _unread_before(raw: pd.DataFrame) -> dict[str, dict[int, str]]:
    """What the source could not read already: column -> row -> the text that stood there."""
    unread: dict[str, dict[int, str]] = {}
    if MALFORMED in raw:
        for row, text in raw[MALFORMED].dropna().items():
            for name, value in json.loads(text).items():
                unread.setdefault(name, {})[int(str(row))] = value
    return unread


def _typed(values: pd.Series, kind: Kind) -> tuple[pd.Series, np.ndarray]:
    nothing_bad = np.zeros(len(values), dtype=bool)
    if str(values.dtype) == {"number": "float64", "time": "datetime64[us, UTC]", "flag": "bool"}.get(kind):
        return values, nothing_bad
    array = _arrow(values)
    if kind == "id" and pa.types.is_string(array.type) and not pc.any(pc.match_substring_regex(array, _UNTRIMMED)).as_py():
        return values.astype(object), nothing_bad
    typed, bad = read_column(array, kind, str(values.name))
    return typed.to_pandas().astype({"number": "float64", "time": "datetime64[us, UTC]"}.get(kind, "object")), bad


def _arrow(values: pd.Series) -> pa.Array:
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of mixed types: every value by its text
        array = pa.array([None if pd.isna(value) else str(value) for value in values], type=pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _failures(frame: pd.DataFrame, schema: DataFrameSchema) -> list[tuple[int, str]]:
    """(row, reason) of every check that a row fails. A failure that is of no row in particular is an error of the schema and is raised."""
    from pandera.errors import SchemaErrors

    if frame.empty:
        return []
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            raise
        wide = cases["schema_context"] == "DataFrameSchema"
        texts = cases["check"].astype(str).where(wide, cases["column"].astype(str) + ": " + cases["check"].astype(str))
        found = pd.DataFrame({"row": cases["index"].astype("int64"), "reason": texts}).drop_duplicates()
        return [(int(row), str(reason)) for row, reason in zip(found["row"], found["reason"], strict=True)]
    return []


def _repeats(frame: pd.DataFrame, key: list[str], prefer: list[str]) -> tuple[pd.Index, pd.Index]:
    """The rows that say again what another says, and those that contradict the one which is kept."""
    repeated = frame[frame.duplicated(key, keep=False)]
    exact = repeated.index[repeated.duplicated(keep="first")]
    different = repeated.drop(index=exact)
    rest = [name for name in frame.columns if name not in key and name not in prefer]
    different = different.sort_values([*key, *prefer, *rest], kind="stable")
    return exact, different.index[different.duplicated(key, keep="first")]


def _quarantined(raw: pd.DataFrame, frame: pd.DataFrame, kinds: Mapping[str, Kind], reasons: _Reasons) -> pd.DataFrame:
    rows = np.flatnonzero(reasons.mask)
    unread = _unread_before(raw)
    columns: dict[str, list[str | None]] = {}
    for name, kind in kinds.items():
        columns[name] = _texts(frame[name].iloc[rows], raw[name].iloc[rows], kind)
        if name in unread:
            columns[name] = [unread[name].get(int(row), text) for row, text in zip(rows, columns[name], strict=True)]
    columns[REASON] = ["; ".join(reasons.texts[int(row)]) for row in rows]
    table = pd.DataFrame(columns, dtype=object)
    return table.sort_values([*table.columns], kind="stable", ignore_index=True)


def _texts(typed: pd.Series, raw: pd.Series, kind: Kind) -> list[str | None]:
    """The values as text; those that could not be read as they came."""
    array = pa.array(typed, type=TYPES[kind], from_pandas=True)
    if kind == "time":
        local = array.cast(pa.timestamp("us")).cast(pa.string())
        array = pc.binary_join_element_wise(pc.replace_substring(local, " ", "T"), "Z", "")
    texts: list[str | None] = array.cast(pa.string()).to_pylist()
    for row in np.flatnonzero(typed.isna().to_numpy() & raw.notna().to_numpy()):
        texts[row] = str(raw.iloc[row])
    return texts


def _as_index(known: Known) -> pd.Index:
    return known if isinstance(known, pd.Index) else pd.Index(list(known), dtype=object)
