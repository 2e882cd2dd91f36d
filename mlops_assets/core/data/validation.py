"""Every raw row becomes accepted, a duplicate, or quarantined with its reasons.

The three counts add up to the number of rows received. A pandera schema says what a row must look like. This
module does not know what the columns mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.data.base import SourceError
from mlops_assets.core.data.quarantine import Reasons, malformed_rows, quarantined_rows, quoted
from mlops_assets.core.data.values.column_values import Unread, read_column
from mlops_assets.core.data.values.value_rules import Kind
from mlops_assets.errors import PlatformError

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

CONFLICT = "conflicting duplicate"
MISSING = "missing"
_UNTRIMMED = r"^\s|\s$|^$"

Known = AbstractSet[str] | pd.Index


class CountsDoNotReconcile(PlatformError):
    """Rows were lost or invented: received is not accepted + duplicate + quarantined."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        super().__init__(f"received rows are not accepted + duplicate + quarantined: {self.counts}")


@dataclass(frozen=True)
class Validation:
    """The rows of one arrival day, sorted.

    `quarantined` holds every value as its original text, and the column `reason`. Several reasons of a row
    are joined by "; ". A reason is a short text that is equal for all rows, such as `price: not a number`.
    Details follow in parentheses: the value, its place, and what to do. `reasons` counts the rows by short
    reason, the most frequent first. `examples` has one reason with details for each.
    """

    accepted: pd.DataFrame
    quarantined: pd.DataFrame
    duplicates: int
    received: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.received != len(self.accepted) + self.duplicates + len(self.quarantined):
            raise CountsDoNotReconcile(self.counts)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows: "received", "accepted", "duplicate" and "quarantined"."""
        return {
            "received": self.received,
            "accepted": len(self.accepted),
            "duplicate": self.duplicates,
            "quarantined": len(self.quarantined),
        }


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

    Rows that agree in every column of the schema are duplicates of the first of them. Of rows that agree only
    in `key`, the row that sorts first by `prefer` and then by all columns is kept, whatever the order of
    arrival. The others are quarantined. A row whose key is in `known`, the keys that other days accepted, is
    quarantined. `known` is a `MultiIndex` where the key has several columns. Accepted rows are sorted by
    `order`. Raises `SourceError` where a column of the schema is missing.
    """
    raw = raw.reset_index(drop=True)
    kinds = schema_kinds(schema)
    frame, reasons = _read(raw, kinds)
    nullable = {name for name, column in schema.columns.items() if column.nullable}
    for name in kinds:
        if name not in nullable:
            reasons.add(frame[name].isna().to_numpy() & ~reasons.unread_in(name), f"{name}: {MISSING}")
    readable = frame[~reasons.mask].astype({name: "bool" for name, kind in kinds.items() if kind == "flag"})
    for row, reason, value in _failures(readable, schema):
        reasons.add_row(row, reason, value)
    if known is not None and len(known):
        reasons.add(_among(frame, key, known), f"{', '.join(key)}: accepted on another day")
    sound = frame[~reasons.mask]
    duplicate, conflicting = _repeats(sound, list(key), list(prefer))
    for row in conflicting:
        reasons.add_row(row, CONFLICT)
    accepted = sound.drop(index=duplicate.union(conflicting)).astype(
        {name: "bool" for name, kind in kinds.items() if kind == "flag"}
    )
    accepted = accepted.sort_values([*order], kind="stable", ignore_index=True)
    counts, examples = reasons.summary()
    return Validation(
        accepted, quarantined_rows(raw, frame, kinds, reasons), len(duplicate), len(raw), counts, examples
    )


def schema_kinds(schema: DataFrameSchema) -> dict[str, Kind]:
    """The kind of each column, derived from its type in the schema."""
    by_type: dict[str, Kind] = {
        "str": "id",
        "object": "id",
        "float64": "number",
        "datetime64[us, UTC]": "time",
        "bool": "flag",
    }
    return {name: by_type[str(column.dtype)] for name, column in schema.columns.items()}


def _read(raw: pd.DataFrame, kinds: Mapping[str, Kind]) -> tuple[pd.DataFrame, Reasons]:
    """The schema's columns with their types, and the reasons. A value that cannot be read is null."""
    if absent := [name for name in kinds if name not in raw]:
        raise SourceError(f"column {absent[0]!r} is missing; there are {', '.join(map(str, raw.columns))}")
    reasons = Reasons(len(raw))
    malformed = malformed_rows(raw)
    places = {row: found.place for row, found in malformed.items()}
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        columns[name], unread = _typed(raw[name], kind)
        unread = unread | {
            row: found.unread[name] for row, found in malformed.items() if name in found.unread
        }
        reasons.add_unread(unread, places, name, kind)
    return pd.DataFrame(columns, index=raw.index), reasons


def _typed(values: pd.Series, kind: Kind) -> tuple[pd.Series, dict[int, Unread]]:
    if str(values.dtype) == {"number": "float64", "time": "datetime64[us, UTC]", "flag": "bool"}.get(kind):
        return values, {}
    array = _arrow(values)
    # A text is an id: the source has already applied the rules of its feed.
    if kind == "id" and pa.types.is_string(array.type):
        if not pc.any(pc.match_substring_regex(array, _UNTRIMMED)).as_py():
            return values.astype(object), {}
        trimmed = pc.utf8_trim_whitespace(array)
        return (
            pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
            .to_pandas()
            .astype(object),
            {},
        )
    typed, unread = read_column(array, kind, str(values.name))
    return (
        typed.to_pandas().astype({"number": "float64", "time": "datetime64[us, UTC]"}.get(kind, "object")),
        unread,
    )


def _arrow(values: pd.Series) -> pa.Array:
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of mixed types
        array = pa.array([None if pd.isna(value) else str(value) for value in values], type=pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _failures(frame: pd.DataFrame, schema: DataFrameSchema) -> list[tuple[int, str, str]]:
    """(row, reason, value) of every check that a row fails.

    Raises pandera's `SchemaErrors` for a failure without a row: the schema itself is wrong.
    """
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
        texts = (
            cases["check"]
            .astype(str)
            .where(wide, cases["column"].astype(str) + ": " + cases["check"].astype(str))
        )
        values = cases["failure_case"].map(quoted).where(~wide, "")
        found = pd.DataFrame(
            {"row": cases["index"].astype("int64"), "reason": texts, "value": values}
        ).drop_duplicates(["row", "reason"])
        return [(int(row), str(reason), str(value)) for row, reason, value in found.itertuples(index=False)]
    return []


def _repeats(frame: pd.DataFrame, key: list[str], prefer: list[str]) -> tuple[pd.Index, pd.Index]:
    """The exact repeats of a row, and the rows that contradict the row that is kept."""
    repeated = frame[frame.duplicated(key, keep=False)]
    exact = repeated.index[repeated.duplicated(keep="first")]
    different = repeated.drop(index=exact)
    rest = [name for name in frame.columns if name not in key and name not in prefer]
    different = different.sort_values([*key, *prefer, *rest], kind="stable")
    return exact, different.index[different.duplicated(key, keep="first")]


def _among(frame: pd.DataFrame, key: Sequence[str], known: Known) -> np.ndarray:
    """Whether the key of each row is known."""
    if isinstance(known, pd.MultiIndex):
        return np.asarray(pd.MultiIndex.from_frame(frame[list(key)]).isin(known))
    return frame[key[0]].isin(_as_index(known)).to_numpy()


def _as_index(known: Known) -> pd.Index:
    return known if isinstance(known, pd.Index) else pd.Index(list(known), dtype=object)
