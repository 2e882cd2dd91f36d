"""Rows by key and time: their order, and one number for a key and a time together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LIMIT = 2**62  # The bits of a number. The sum of two numbers still fits an int64.


def by_key_and_time(codes: Ints, *times: Ints) -> Ints:
    """The positions of the rows, sorted by key code (not negative), then by the times.

    Equal rows keep their order. NumPy's stable sorts are linear here: they sort times that mostly come in
    order, and keys 16 bits at a time.
    """
    order = np.arange(len(codes))
    for time in reversed(times):
        ordered = time[order]
        if (ordered[1:] < ordered[:-1]).any():
            order = order[np.argsort(ordered, kind="stable")]
    for bits in range(0, int(codes.max(initial=0)).bit_length(), 16):
        digits = (codes >> bits).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


@dataclass(frozen=True)
class Clock:
    """One sortable int64 for (key code, time).

    The number holds the time since `low`. Where keys times the span of the times exceed its bits, it holds
    the rank of the time among `times`. Comparisons with `<` and `>=` hold against every time that was given
    to `over`.
    """

    low: int
    span: int
    times: Ints | None = None

    @classmethod
    def over(cls, keys: int, *times: Ints) -> Clock:
        """The clock for keys coded from 0 up to, not including, `keys`, and for all the times given."""
        given = [t for t in times if len(t)]
        low = min((int(t.min()) for t in given), default=0)
        span = max((int(t.max()) for t in given), default=0) - low + 2
        if (keys + 1) * span < LIMIT:
            return cls(low, span)
        ranks = np.unique(np.concatenate(given))
        return cls(0, len(ranks) + 1, ranks)

    def place(self, codes: Ints, times: Ints) -> Ints:
        """The number of each (key code, time)."""
        offsets = (
            np.searchsorted(self.times, times)
            if self.times is not None
            else np.clip(times - self.low, 0, self.span - 1)
        )
        return codes * self.span + offsets
