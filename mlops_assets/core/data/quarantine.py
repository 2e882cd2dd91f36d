"""Why a row goes to quarantine, and the quarantined rows as text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.core.data.base import MALFORMED, Malformed
from mlops_assets.core.data.values.column_values import Unread
from mlops_assets.core.data.values.value_rules import TYPES, WORDS, Kind

REASON = "reason"
LONGEST_QUOTE = 80  # Characters of a value in a reason. The column of the value holds all of them.


class Reasons:
    """What is wrong with each row of a table, in the order of discovery.

    A reason is a short text that is equal for all rows, such as `price: not a number`. Each row adds its own
    details: the value, the place of the row, and what to do.
    """

    def __init__(self, rows: int) -> None:
        self.mask = np.zeros(rows, dtype=bool)  # the rows with any reason
        self._found: dict[int, dict[str, str]] = {}
        self._by_column: dict[str, np.ndarray] = {}

    def add(self, rows: np.ndarray, reason: str) -> None:
        """Add a reason to the rows of a boolean mask."""
        for row in np.flatnonzero(rows):
            self.add_row(int(row), reason)

    def add_row(self, row: int, reason: str, details: str = "") -> None:
        """Add a reason to one row. A row keeps the first details of a reason."""
        self.mask[row] = True
        self._found.setdefault(row, {}).setdefault(reason, details)

    def add_unread(
        self, unread: Mapping[int, Unread], places: Mapping[int, str], name: str, kind: Kind
    ) -> None:
        """Add the unread values of the column `name`, by row. `places` are the places in the file, by row."""
        rows = self.unread_in(name).copy()
        rows[list(unread)] = True
        self._by_column[name] = rows
        head = f"not {WORDS[kind]}"
        for row, value in unread.items():
            remedy = value.why.removeprefix(head).removeprefix("; ")
            at = f" in {places[row]}" if places.get(row) else ""
            details = f"{quoted(value.text)}{at}" + (f"; {remedy}" if remedy else "")
            self.add_row(row, f"{name}: {head}", details)

    def unread_in(self, name: str) -> np.ndarray:
        """The rows whose value in the column could not be read, as a boolean mask."""
        return self._by_column.get(name, np.zeros(len(self.mask), dtype=bool))

    def text(self, row: int) -> str:
        """All reasons of a row with their details."""
        return "; ".join(_whole(reason, details) for reason, details in self._found[row].items())

    def summary(self) -> tuple[dict[str, int], dict[str, str]]:
        """The number of rows by reason, the most frequent first, and one example of each with details."""
        counts: dict[str, int] = {}
        examples: dict[str, str] = {}
        for row in sorted(self._found):
            for reason, details in self._found[row].items():
                counts[reason] = counts.get(reason, 0) + 1
                examples.setdefault(reason, _whole(reason, details))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), examples


def malformed_rows(raw: pd.DataFrame) -> dict[int, Malformed]:
    """The values that the source could not read, by row."""
    if MALFORMED not in raw:
        return {}
    return {int(str(row)): Malformed.decode(text) for row, text in raw[MALFORMED].dropna().items()}


def quarantined_rows(
    raw: pd.DataFrame, frame: pd.DataFrame, kinds: Mapping[str, Kind], reasons: Reasons
) -> pd.DataFrame:
    """The rows with a reason, sorted: every column as text, and `reason`.

    `frame` has the typed columns of `raw`. A value that could not be read keeps its original text.
    """
    rows = np.flatnonzero(reasons.mask)
    malformed = malformed_rows(raw)
    columns: dict[str, list[str | None]] = {}
    for name, kind in kinds.items():
        columns[name] = _texts(frame[name].iloc[rows], raw[name].iloc[rows], kind)
        for place, row in enumerate(rows):
            if int(row) in malformed and name in malformed[int(row)].unread:
                columns[name][place] = malformed[int(row)].unread[name].text
    columns[REASON] = [reasons.text(int(row)) for row in rows]
    table = pd.DataFrame(columns, dtype=object)
    return table.sort_values([*table.columns], kind="stable", ignore_index=True)


def quoted(value: object) -> str:
    """The beginning of a value on one line. Invisible characters, such as line ends, are escaped."""
    text = str(value)
    seen = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST_QUOTE])
    return f'"{seen}"' if len(text) <= LONGEST_QUOTE else f'"{seen}…"'


def _whole(reason: str, details: str) -> str:
    return f"{reason} ({details})" if details else reason


def _texts(typed: pd.Series, raw: pd.Series, kind: Kind) -> list[str | None]:
    array = pa.array(typed, type=TYPES[kind], from_pandas=True)
    if kind == "time":
        local = array.cast(pa.timestamp("us")).cast(pa.string())
        array = pc.binary_join_element_wise(pc.replace_substring(local, " ", "T"), "Z", "")
    texts: list[str | None] = array.cast(pa.string()).to_pylist()
    for row in np.flatnonzero(typed.isna().to_numpy() & raw.notna().to_numpy()):
        texts[row] = str(raw.iloc[row])
    return texts
