"""What the service measures of each version: how much it scored, how much of that did not pass, what failed,
what was slow.

The counts are kept in memory. A thread that no request waits for writes them to the store, minute by minute,
where they outlive the process. The minutes are those of the machine, also where the service runs on event
time: an error or a delay happens to a process and not to an event.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

KEPT_DAYS = 30
# Milliseconds. A score takes a part of the first. Nobody waits for the last.
SLOW_MS = (1, 2, 5, 10, 25, 50, 100, 250, 1_000)
SCORED, ALARMS, ERRORS = "scored", "alarms", "errors"

Counts = Mapping[tuple[str, str], int]  # By version and name of the count.


@dataclass(frozen=True)
class Measured:
    """Of one version: new decisions, those of them that do not pass, and requests that failed while the
    version scored.

    `slower` counts, for each of `SLOW_MS`, the decisions that took longer from the stored history to the
    score, in time of the processor. A version is not slow because it waits for a busy machine.
    """

    scored: int = 0
    alarms: int = 0
    errors: int = 0
    slower: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Measured:
        """From the sums of one version's counts by their names."""
        slower, beyond = {}, 0
        for milliseconds in reversed(SLOW_MS):
            beyond += counts.get(_slow(milliseconds), 0)
            slower[milliseconds] = beyond
        return cls(counts.get(SCORED, 0), counts.get(ALARMS, 0), counts.get(ERRORS, 0), slower)

    def slower_than(self, milliseconds: float) -> int:
        """How many decisions certainly took longer. A limit between two of `SLOW_MS` counts as the upper
        one.
        """
        return self.slower.get(min(ms for ms in SLOW_MS if ms >= milliseconds), 0)


def _slow(milliseconds: int) -> str:
    """The count of decisions that took longer than that, and not longer than the next of `SLOW_MS`."""
    return f"over_{milliseconds}_ms"


_BOUNDS_S = tuple(milliseconds / 1_000 for milliseconds in SLOW_MS)
_NAMES = (None, *map(_slow, SLOW_MS))  # By the number of bounds that were exceeded.


class VersionCounts:
    """One process's counts since they were last written. Several threads may use them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def scored(self, version: str, alarm: bool, seconds: float) -> None:
        """Count a new decision. `alarm`: it does not pass. `seconds` is the processor's time."""
        name = _NAMES[bisect_left(_BOUNDS_S, seconds)]
        with self._lock:
            counts = self._counts
            key = (version, SCORED)
            counts[key] = counts.get(key, 0) + 1
            if alarm:
                key = (version, ALARMS)
                counts[key] = counts.get(key, 0) + 1
            if name:
                key = (version, name)
                counts[key] = counts.get(key, 0) + 1

    def failed(self, version: str) -> None:
        """Count a request that failed while the version scored."""
        self._add({(version, ERRORS): 1})

    def write(self, add: Callable[[Counts], None]) -> None:
        """Hand the counts to `add`. Where `add` raises, the counts are kept for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            add(counts)
        except BaseException:
            self._add(counts)
            raise

    def _add(self, counts: Counts) -> None:
        with self._lock:
            for key, n in counts.items():
                self._counts[key] = self._counts.get(key, 0) + n
