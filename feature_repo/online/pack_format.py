"""A pack as bytes.

Columns are narrow, and the terms of an entry lie side by side. A question therefore unpacks one entry only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODES = (("b", 2**7 - 1), ("h", 2**15 - 1), ("i", 2**31 - 1), ("q", 2**63 - 1))


@dataclass(frozen=True)
class Pack:
    """Suffix aggregates of a key's events before `upto_us`.

    `times` are tiles or moments in microseconds, ascending. `values` has a row for each term. Column i is
    about all events from `times[i]` on. `latest_us` is when the last of the events became known, `newest_us`
    when the newest event happened.
    """

    upto_us: int
    latest_us: int
    newest_us: int
    times: NDArray[np.int64]
    values: NDArray[np.int64]


def encode(pack: Pack, unit: int) -> tuple[int, str, bytes, bytes]:
    """The first time, the layout, the times since the first time in units of `unit`, and the entries.

    Every column is as narrow as its numbers allow. The layout names the types of the columns.
    """
    start = int(pack.times[0]) if len(pack.times) else 0
    times = (pack.times - start) // unit
    layout = "".join(_narrowest(column) for column in (times, *pack.values))
    records = np.empty(len(times), _record(layout))
    for name, column in zip(records.dtype.names or (), pack.values, strict=True):
        records[name] = column
    return start, layout, times.astype(layout[0]).tobytes(), records.tobytes()


def decode(stored: Sequence[Any], unit: int) -> Pack:
    """The pack of a stored row. The row holds three moments and the result of `encode`."""
    upto_us, latest_us, newest_us, start, layout, offsets, body = stored
    times = np.frombuffer(offsets, layout[0]).astype(np.int64) * unit + start
    records = np.frombuffer(body, _record(layout), len(times))
    values = np.array([records[name] for name in records.dtype.names or ()], np.int64).reshape(
        len(layout) - 1, len(times)
    )
    return Pack(upto_us, latest_us, newest_us, times, values)


@lru_cache(maxsize=1024)
def entry_of(layout: str) -> Struct:
    """How to unpack one entry."""
    return Struct(f"={layout[1:]}")


def _narrowest(column: NDArray[np.int64]) -> str:
    largest = int(np.abs(column).max(initial=0))
    return next(code for code, most in CODES if largest <= most)


@lru_cache(maxsize=1024)
def _record(layout: str) -> np.dtype[Any]:
    return np.dtype([(f"t{i}", code) for i, code in enumerate(layout[1:])])
