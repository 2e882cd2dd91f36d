"""Counts what each version does, in memory; a thread that no request waits for writes the counts to
serving.db, where they outlive the process.
"""

from __future__ import annotations

import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Mapping

from serving.store.sqlite.measured import ALARMS, ERRORS, SCORED, SLOW_MS, add_measured, slow

BOUNDS_S = tuple(milliseconds / 1_000 for milliseconds in SLOW_MS)
NAMES = (None, *(slow(milliseconds) for milliseconds in SLOW_MS))  # by how many of the bounds were exceeded


class Tally:
    """One process's counts since they were last written. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def scored(self, version: str, alarm: bool, seconds: float) -> None:
        name = NAMES[bisect_left(BOUNDS_S, seconds)]
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
        self._add({(version, ERRORS): 1})

    def write(self, connection: sqlite3.Connection, now_us: int) -> None:
        """Add the counts to those of the minute. Where that fails they are kept for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            add_measured(connection, now_us, counts)
        except BaseException:
            self._add(counts)
            raise

    def _add(self, counts: Mapping[tuple[str, str], int]) -> None:
        with self._lock:
            for key, n in counts.items():
                self._counts[key] = self._counts.get(key, 0) + n
