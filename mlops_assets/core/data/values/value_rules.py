"""The kinds of values, and what a feed may write differently from the usual form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Kind = Literal["id", "number", "time", "flag", "text"]
Epoch = Literal["s", "ms", "us"]
UTC = "UTC"

TYPES: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "number": pa.float64(),
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "text": pa.string(),
}
WORDS: dict[Kind, str] = {
    "id": "an identifier",
    "number": "a number",
    "time": "a time",
    "flag": "true or false",
    "text": "a text",
}
# Databases, pandas and spreadsheets write these words for a missing value.
MISSING_WORDS = ("NULL", "\\N", "nan", "NaT", "<NA>", "#N/A", "N/A", "None", "-")
TRUE, FALSE = ("true", "t", "yes", "y"), ("false", "f", "no", "n")
THOUSANDS = ("", ",", ".", "'", " ", "_")


@dataclass(frozen=True)
class Rules:
    """How a feed writes its values.

    `section` is the table of the configuration that holds the rules. Raises `ValueError` for a rule that has
    no meaning, such as an unknown timezone. The message names the key and its value.
    """

    missing: tuple[str, ...] = MISSING_WORDS  # In any case. Empty text is always missing.
    decimal: str = "."
    thousands: str = ""
    timezone: str = UTC  # of times without a zone
    epoch: Epoch | None = None  # the unit of a bare number since 1970, where a time is expected
    true: tuple[str, ...] = ()  # in addition to `TRUE`, in any case
    false: tuple[str, ...] = ()
    section: str = "[source]"

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise ValueError(f'decimal = "{self.decimal}": the decimal mark is "." or ","')
        if self.thousands not in THOUSANDS:
            raise ValueError(
                f'thousands = "{self.thousands}": between thousands stands one of'
                f" {', '.join(map(repr, THOUSANDS[1:]))}"
            )
        if self.thousands == self.decimal:
            other = "," if self.decimal == "." else "."
            raise ValueError(
                f'thousands = "{self.thousands}": the decimal mark is the same; set decimal = "{other}"'
            )
        if both := sorted({w.lower() for w in self.true} & {w.lower() for w in self.false}):
            raise ValueError(f'flags: "{both[0]}" is listed as true and as false')
        try:
            if self.timezone != UTC:
                import pandas as pd  # Its import takes long, and most configurations name no zone.

                pd.DatetimeIndex([0]).tz_localize(self.timezone)
        except Exception as error:  # Each library of time zones raises its own class.
            raise ValueError(
                f'timezone = "{self.timezone}": no such zone; write it like "Europe/Berlin"'
            ) from error


USUAL = Rules()
