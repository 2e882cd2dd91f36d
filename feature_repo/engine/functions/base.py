"""What an aggregate function is: one class that says how every path to its value computes it.

The value of a function at a moment is made from the events of a window. The paths to it are:

- The definition: `define`, over the events one by one. It is the reference of the tests, and it computes what
  has no faster way.
- The state: a few integers of each event (`terms`), merged by their kinds, and finished once (`finish`). The
  SQLite queries select the state, and the packs keep it for every suffix of a key's history.
- The kernel: `over`, for the windows of many moments at once, in NumPy.

To add a function, write one module here with one class, and add its line to `functions/__init__.py`. A
class needs a name, the kinds of columns that it takes, and `define`. It then works on every path, exact and
slow. `terms` and `finish` make it fast online, `over` makes it fast offline. The suites of tests/engine and
tests/online run over the registry: they compare every path of the new function with `define` at once. Say
in a test what `define` has to give, since nothing else checks the definition. `last` is an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.columns import ExactColumn
from feature_repo.engine.functions.terms import LEAST, NOTHING, Term, merged
from feature_repo.engine.functions.window_bounds import WindowBounds

Array = NDArray[Any]
Ints = NDArray[np.int64]
Value = float | int | None
# "event" stands for the event itself: its time, whatever its columns hold.
Kind = Literal["event", "number", "flag", "time", "text"]
# From the state of a pack's suffix, the state of the events after the pack, the time of the newest event of
# both, and the moment of the question, to the feature.
Finisher = Callable[[Sequence[int], Sequence[int], int | None, int], Value]

EVENT = "event_timestamp"  # The column that stands for the event itself.
KNOWN = -1  # The place of a term that a pack does not hold, because it knows the term of every suffix.


class SeenEvent(NamedTuple):
    """One event of a window. `value` is what the column holds, None where it is null.

    `created_us` is `event_us` for a function that does not ask for it with `by_creation`.
    """

    event_us: int
    created_us: int
    value: Any


class KeyRows(Protocol):
    """The moments and events of some keys, each sorted by key and time, as a kernel reads them.

    Events known on time and late ones are apart: `WindowBounds` says which of them a moment sees.
    """

    @property
    def at_us(self) -> Ints:
        """The moments."""

    @property
    def event_codes(self) -> Ints:
        """The key of each on-time event, as a small integer."""

    @property
    def event_us(self) -> Ints:
        """When each on-time event happened."""

    @property
    def late_us(self) -> Ints:
        """When each late event happened."""

    @property
    def late_created_us(self) -> Ints:
        """When each late event was created."""

    def numbers(self, column: str) -> tuple[ExactColumn, ExactColumn]:
        """The column of on-time events and of late ones, on one scale."""

    def codes(self, column: str) -> tuple[ExactColumn, ExactColumn]:
        """The same, as integers that are equal where the values are."""

    def created_us(self) -> Ints:
        """When each on-time event was created; for functions with `by_creation`."""


class Function(ABC):
    """An aggregate function. Instances hold nothing: the registry has one of each."""

    name: str
    # Other names under which declarations know the function.
    synonyms: tuple[str, ...] = ()
    takes: frozenset[Kind]
    # Whether the state is made of integers whatever the column holds, because it counts events or moments.
    # Else only a column of a declared scale has an integer state. Other columns are computed from their
    # values.
    counts: ClassVar[bool] = False
    # Whether values matter only as equal or different.
    compares: ClassVar[bool] = False
    # Whether events of one instant are told apart by when they were created.
    by_creation: ClassVar[bool] = False

    def reads(self, column: str) -> bool:
        """Whether the function needs the column's values, beyond the times of events."""
        return True

    @abstractmethod
    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The feature, from the events of the window in any order.

        The values are integers, `unit` times what they stand for. Without a unit they are what they are.
        """

    # The state

    def terms(self, column: str) -> tuple[Term, ...]:
        """The integers that have to be known of a window; none where the function needs the values."""
        return ()

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The feature, from the terms of a whole window, in their order."""
        raise NotImplementedError(self.name)

    def in_sql(self, column: str, scale: int | None) -> bool:
        """Whether SQL can select the state, as integers."""
        return bool(self.terms(column)) and (self.counts or scale is not None)

    def in_packs(self, column: str, scale: int | None) -> bool:
        """Whether packs can keep the state, because the states of two sets of events make the state of
        both.
        """
        return self.in_sql(column, scale) and all(term.kind in NOTHING for term in self.terms(column))

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """`finish` for the two parts of a window whose terms are at `places`; `KNOWN` is the place of
        `NEWEST`.

        This is the hot path of a request. Functions of few terms override it.
        """
        terms = self.terms(column)

        def finish(
            of_pack: Sequence[int], of_tail: Sequence[int], newest_us: int | None, at_us: int
        ) -> Value:
            """Merges the terms of both parts, then finishes."""
            newest = LEAST if newest_us is None else newest_us
            parts = ([newest if p == KNOWN else part[p] for p in places] for part in (of_pack, of_tail))
            return self.finish(merged(terms, *parts), at_us, unit)

        return finish

    # The kernel

    def over(self, column: str, rows: KeyRows, window: WindowBounds) -> Array:
        """The feature at every moment: int64 for counts and whole sums, else float64 with NaN for null.

        Without a kernel of its own, a function is computed by its definition, moment by moment.
        """
        values, unit = self._values(column, rows)
        on_time, late = self._seen(rows, values)
        late_seen: dict[int, list[SeenEvent]] = {}
        for moments, events in window.pairs():
            for moment, event in zip(moments.tolist(), events.tolist(), strict=True):
                late_seen.setdefault(moment, []).append(late[event])
        result = np.full(len(window.first), np.nan)
        for moment, (first, end, at_us) in enumerate(
            zip(window.first.tolist(), window.end.tolist(), rows.at_us.tolist(), strict=True)
        ):
            value = self.define(column, [*on_time[first:end], *late_seen.get(moment, ())], at_us, unit)
            result[moment] = np.nan if value is None else value
        return result

    def _values(self, column: str, rows: KeyRows) -> tuple[list[list[Any]], int]:
        if not self.reads(column):
            return [[None] * len(rows.event_us), [None] * len(rows.late_us)], 1
        parts = (rows.codes if self.compares else rows.numbers)(column)
        values = [
            [v if there else None for v, there in zip(p.values.tolist(), p.present.tolist(), strict=True)]
            for p in parts
        ]
        return values, parts[0].unit

    def _seen(self, rows: KeyRows, values: list[list[Any]]) -> list[list[SeenEvent]]:
        created = (
            (rows.created_us(), rows.late_created_us) if self.by_creation else (rows.event_us, rows.late_us)
        )
        return [
            [SeenEvent(*event) for event in zip(us.tolist(), known.tolist(), held, strict=True)]
            for us, known, held in zip((rows.event_us, rows.late_us), created, values, strict=True)
        ]


def present(seen: Sequence[SeenEvent]) -> list[Any]:
    """The values that are not null."""
    return [event.value for event in seen if event.value is not None]
