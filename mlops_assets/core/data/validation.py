"""Every raw row ends as accepted, as a duplicate, or in quarantine with its reasons; the three always add up
to what came in.

What a row must look like is a pandera schema of the use case; nothing here knows what the columns mean.
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

from mlops_assets.core.data.base import MALFORMED, Malformed, SourceError
from mlops_assets.core.data.values.column_values import Unread, read_column
from mlops_assets.core.data.values.value_rules import TYPES, WORDS, Kind
from mlops_assets.errors import PlatformError

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

REASON = "reason"
CONFLICT = "conflicting duplicate"
MISSING = "missing"
LONGEST_QUOTE = 80  # characters of a value in a reason; the whole of it stands in its column
_UNTRIMMED = r"^\s|\s$|^$"

Known = AbstractSet[str] | pd.Index


class CountsDoNotReconcile(PlatformError):
    """Rows were lost or invented on the way: received is not accepted + duplicate + quarantined."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        super().__init__(f"received rows are not accepted + duplicate + quarantined: {self.counts}")


@dataclass(frozen=True)
class Validation:
    """`quarantined` holds every value as text, as it came, and `reason`: what is wrong, by "; " where it is
    several things.

    A reason is a short text that is the same for all rows, such as `price: not a number`, and in parentheses
    what it is about: the text that stood there, where, and what to do. `reasons` counts the short ones, the
    most frequent first; `examples` has a whole one of each.
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

    Of rows that agree in every column of the schema the first counts and the others are duplicates. Of rows
    that agree in `key` only, the least by `prefer` and then by all the columns is kept, whatever order they
    came in, and the others are quarantined. A key that is in `known` was accepted on another day. `known` is
    a `MultiIndex` where the key has several columns. Accepted rows are sorted by `order`.
    """
    raw = raw.reset_index(drop=True)
    kinds = schema_kinds(schema)
    frame, reasons = _read(raw, kinds)
    nullable = {name for name, column in schema.columns.items() if column.nullable}
    for name in kinds:
        if name not in nullable:
            reasons.add(frame[name].isna().to_numpy() & ~reasons.about(name), f"{name}: {MISSING}")
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
        accepted, _quarantined(raw, frame, kinds, reasons), len(duplicate), len(raw), counts, examples
    )


def schema_kinds(schema: DataFrameSchema) -> dict[str, Kind]:
    """How the values of each column are to be read, by the type that the schema gives it."""
    by_type: dict[str, Kind] = {
        "str": "id",
        "object": "id",
        "float64": "number",
        "datetime64[us, UTC]": "time",
        "bool": "flag",
    }
    return {name: by_type[str(column.dtype)] for name, column in schema.columns.items()}


class _Reasons:
    """What is wrong with which row, in the order in which it was found: the short reason, and what it is
    about.
    """

    def __init__(self, rows: int) -> None:
        self.mask = np.zeros(rows, dtype=bool)
        self.found: dict[int, dict[str, str]] = {}
        self._about: dict[str, np.ndarray] = {}

    def add(self, rows: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(rows):
            self.add_row(int(row), reason)

    def add_row(self, row: int, reason: str, about: str = "") -> None:
        self.mask[row] = True
        self.found.setdefault(row, {}).setdefault(reason, about)

    def unreadable(
        self, unread: Mapping[int, Unread], places: Mapping[int, str], name: str, kind: Kind
    ) -> None:
        rows = self.about(name).copy()
        rows[list(unread)] = True
        self._about[name] = rows
        head = f"not {WORDS[kind]}"
        for row, value in unread.items():
            remedy = value.why.removeprefix(head).removeprefix("; ")
            at = f" in {places[row]}" if places.get(row) else ""
            self.add_row(
                row, f"{name}: {head}", f"{_quoted(value.text)}{at}" + (f"; {remedy}" if remedy else "")
            )

    def about(self, name: str) -> np.ndarray:
        return self._about.get(name, np.zeros(len(self.mask), dtype=bool))

    def text(self, row: int) -> str:
        return "; ".join(
            f"{reason} ({about})" if about else reason for reason, about in self.found[row].items()
        )

    def summary(self) -> tuple[dict[str, int], dict[str, str]]:
        """How many rows have each reason, the most frequent first, and the first whole reason of each."""
        counts: dict[str, int] = {}
        examples: dict[str, str] = {}
        for row in sorted(self.found):
            for reason, about in self.found[row].items():
                counts[reason] = counts.get(reason, 0) + 1
                examples.setdefault(reason, f"{reason} ({about})" if about else reason)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), examples


def _read(raw: pd.DataFrame, kinds: Mapping[str, Kind]) -> tuple[pd.DataFrame, _Reasons]:
    """The schema's columns as their types, null where a value could not be read."""
    if absent := [name for name in kinds if name not in raw]:
        raise SourceError(f"column {absent[0]!r} is missing; there are {', '.join(map(str, raw.columns))}")
    reasons = _Reasons(len(raw))
    malformed = _malformed(raw)
    places = {row: found.place for row, found in malformed.items()}
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        columns[name], unread = _typed(raw[name], kind)
        unread = unread | {
            row: found.unread[name] for row, found in malformed.items() if name in found.unread
        }
        reasons.unreadable(unread, places, name, kind)
    return pd.DataFrame(columns, index=raw.index), reasons


def _malformed(raw: pd.DataFrame) -> dict[int, Malformed]:
    """What the source could not read already, by row."""
    if MALFORMED not in raw:
        return {}
    return {int(str(row)): Malformed.decode(text) for row, text in raw[MALFORMED].dropna().items()}


def _typed(values: pd.Series, kind: Kind) -> tuple[pd.Series, dict[int, Unread]]:
    if str(values.dtype) == {"number": "float64", "time": "datetime64[us, UTC]", "flag": "bool"}.get(kind):
        return values, {}
    array = _arrow(values)
    if kind == "id" and pa.types.is_string(
        array.type
    ):  # text is an id already: what a feed's words mean, its source has said
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
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of mixed types: every value by its text
        array = pa.array([None if pd.isna(value) else str(value) for value in values], type=pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _failures(frame: pd.DataFrame, schema: DataFrameSchema) -> list[tuple[int, str, str]]:
    """(row, reason, value) of every check that a row fails.

    A failure that is of no row in particular is an error of the schema and is raised.
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
        values = cases["failure_case"].map(_quoted).where(~wide, "")
        found = pd.DataFrame(
            {"row": cases["index"].astype("int64"), "reason": texts, "value": values}
        ).drop_duplicates(["row", "reason"])
        return [(int(row), str(reason), str(value)) for row, reason, value in found.itertuples(index=False)]
    return []


def _repeats(frame: pd.DataFrame, key: list[str], prefer: list[str]) -> tuple[pd.Index, pd.Index]:
    """The rows that say again what another says, and those that contradict the one which is kept."""
    repeated = frame[frame.duplicated(key, keep=False)]
    exact = repeated.index[repeated.duplicated(keep="first")]
    different = repeated.drop(index=exact)
    rest = [name for name in frame.columns if name not in key and name not in prefer]
    different = different.sort_values([*key, *prefer, *rest], kind="stable")
    return exact, different.index[different.duplicated(key, keep="first")]


def _quarantined(
    raw: pd.DataFrame, frame: pd.DataFrame, kinds: Mapping[str, Kind], reasons: _Reasons
) -> pd.DataFrame:
    rows = np.flatnonzero(reasons.mask)
    malformed = _malformed(raw)
    columns: dict[str, list[str | None]] = {}
    for name, kind in kinds.items():
        columns[name] = _texts(frame[name].iloc[rows], raw[name].iloc[rows], kind)
        for place, row in enumerate(rows):
            if int(row) in malformed and name in malformed[int(row)].unread:
                columns[name][place] = malformed[int(row)].unread[name].text
    columns[REASON] = [reasons.text(int(row)) for row in rows]
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


def _quoted(value: object) -> str:
    """The beginning of a value on one line; what cannot be seen, such as a line end or a space that does not
    break, is escaped.
    """
    text = str(value)
    seen = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST_QUOTE])
    return f'"{seen}"' if len(text) <= LONGEST_QUOTE else f'"{seen}…"'


def _among(frame: pd.DataFrame, key: Sequence[str], known: Known) -> np.ndarray:
    """Which rows have a key that is known."""
    if isinstance(known, pd.MultiIndex):
        return np.asarray(pd.MultiIndex.from_frame(frame[list(key)]).isin(known))
    return frame[key[0]].isin(_as_index(known)).to_numpy()


def _as_index(known: Known) -> pd.Index:
    return known if isinstance(known, pd.Index) else pd.Index(list(known), dtype=object)
