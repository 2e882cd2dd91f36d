"""The events that every moment of a sorted group of keys sees, as bounds into the sorted events.

Events that were created no later than they happened are known to every later moment, so a window is a run of
them. The few late events are apart, each with the run of moments that see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]

PAIRS_AT_ONCE = 4_000_000  # Pairs of a late event and a moment at a time. It bounds the memory.
LIMIT = 2**62


@dataclass(frozen=True)
class WindowBounds:
    """One window at every moment.

    The window's on-time events are those from `first` up to, not including, `end`. Each late event is seen by
    the moments from `late_from` up to, not including, `late_to`.
    """

    first: Ints
    end: Ints
    late_from: Ints
    late_to: Ints

    @cached_property
    def counts(self) -> Ints:
        """How many events each moment sees."""
        return self.add_late(self.end - self.first, np.ones(len(self.late_from), np.int64))

    def sums(self, values: Array, late: Array) -> Array:
        """The sum at every moment, by differences of prefix sums.

        Prefix sums may wrap, because their differences are right modulo 2^64. See `wide`.
        """
        prefix = np.zeros(len(values) + 1, values.dtype)
        np.cumsum(values, out=prefix[1:])
        return self.add_late(prefix[self.end] - prefix[self.first], late)

    def add_late(self, totals: Array, late: Array) -> Array:
        """The totals of the on-time events with the late values added.

        Each late value belongs to a run of moments. The value is added at the start of the run and subtracted
        at its end, and the running sum is what each moment adds.
        """
        if not len(late):
            return totals
        steps = np.zeros(len(totals) + 1, totals.dtype)
        np.add.at(steps, self.late_from, late)
        np.subtract.at(steps, self.late_to, late)
        return totals + np.cumsum(steps)[:-1]

    def pairs(self) -> Iterator[tuple[Ints, Ints]]:
        """Every pair of a moment and a late event that the moment sees, some millions of pairs at a time."""
        lengths = self.late_to - self.late_from
        ends = np.cumsum(lengths)
        done, total = 0, int(ends[-1]) if len(ends) else 0
        first = 0
        while done < total:
            last = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")), first + 1)
            count = lengths[first:last]
            events = np.repeat(np.arange(first, last), count)
            within = np.arange(len(events)) - np.repeat(np.cumsum(count) - count, count)
            yield self.late_from[events] + within, events
            first, done = last, int(ends[last - 1])


def wide(bound: int, *columns: Array) -> list[Array]:
    """The columns unchanged where no sum of a window can reach 2^62, else as Python's integers.

    `bound` is the greatest size that a sum can have.
    """
    return list(columns) if bound < LIMIT else [column.astype(object) for column in columns]
