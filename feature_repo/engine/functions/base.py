"""The interface of an aggregate function: one class that says how every path computes the value.

The value of a function at a moment is made from the events of a window. There are three paths to a value:

- The definition: `define`, over the events one by one. It is the reference of the tests. It also computes the
  functions that have no faster path.
- The state: a few integers of each event (`terms`). Their kinds say how they are merged, and `finish` makes
  the value of them. The SQLite queries select the state, and the packs keep it for every suffix of a key's
  history.
- The kernel: `over`, for the windows of many moments at once, in NumPy.

A new function is one module here with one class, and a line in `functions/__init__.py`. The class needs a
name, the kinds of columns that it takes, and `define`. The function then works on every path, exact and slow.
`terms` and `finish` make it fast online, `over` makes it fast offline.

The suites of tests/engine and tests/online run over the registry and compare every path of the new function
with `define`. Only a test of the function's own can check `define`. `last` is an example.
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
# "event" is the event without its columns: its time alone.
Kind = Literal["event", "number", "flag", "time", "text"]
# Its arguments are the state of a pack's suffix, the state of the events after the pack, the time of the
# newest event of both, and the moment of the question.
Finisher = Callable[[Sequence[int], Sequence[int], int | None, int], Value]

EVENT = "event_timestamp"  # The column of a function that reads only the times of events.
KNOWN = -1  # The place of a term that a pack does not hold. A pack knows the term of every suffix anyway.


class SeenEvent(NamedTuple):
    """One event of a window. `value` is the value of the column, None for null.

    `created_us` is `event_us` for a function without `by_creation`.
    """

    event_us: int
    created_us: int
    value: Any


class KeyRows(Protocol):
    """The moments and events of some keys, each sorted by key and time, as a kernel reads them.

    Events that were known on time and late events are apart. `WindowBounds` says which events a moment sees.
    """

    @property
    def at_us(self) -> Ints:
        """The moments, in microseconds since the epoch."""

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
        """The column of on-time events and of late events, on one scale."""

    def codes(self, column: str) -> tuple[ExactColumn, ExactColumn]:
        """The column of on-time events and of late events, as integers. Equal values have equal integers."""

    def created_us(self) -> Ints:
        """When each on-time event was created. Only for functions with `by_creation`."""


class Function(ABC):
    """An aggregate function. It has no state of its own: the registry has one instance of each."""

    name: str
    # Other names under which declarations know the function.
    synonyms: tuple[str, ...] = ()
    takes: frozenset[Kind]
    # True where the state is integers for every column, because it counts events or moments. Otherwise
    # only a column of a declared scale has an integer state. Other columns are computed from their values.
    counts: ClassVar[bool] = False
    # True where the function only asks which values are equal.
    compares: ClassVar[bool] = False
    # True where the time of creation orders the events of one instant.
    by_creation: ClassVar[bool] = False

    def reads(self, column: str) -> bool:
        """Whether the function needs the values of the column, and not only the times of events."""
        return True

    @abstractmethod
    def define(self, column: str, seen: Sequence[SeenEvent], at_us: int, unit: int | None) -> Value:
        """The feature, computed from the events of the window in any order.

        The values are integers, the column's values times `unit`. With `unit` None they are the column's own
        values.
        """

    # The state

    def terms(self, column: str) -> tuple[Term, ...]:
        """The integers that make up the state of a window.

        Empty for a function whose state would need every value.
        """
        return ()

    def finish(self, state: Sequence[int], at_us: int, unit: int) -> Value:
        """The feature, computed from the terms of a whole window, in their order.

        A function without terms has nothing to finish: nobody calls this for it, and it raises
        `NotImplementedError`.
        """
        raise NotImplementedError(self.name)

    def in_sql(self, column: str, scale: int | None) -> bool:
        """Whether SQL can select the state as integers."""
        return bool(self.terms(column)) and (self.counts or scale is not None)

    def in_packs(self, column: str, scale: int | None) -> bool:
        """Whether packs can keep the state.

        They can where the states of two sets of events give the state of both sets together.
        """
        return self.in_sql(column, scale) and all(term.kind in NOTHING for term in self.terms(column))

    def finisher(self, column: str, places: Sequence[int], unit: int) -> Finisher:
        """`finish` for a window in two parts, whose terms are at `places`.

        `KNOWN` is the place of `NEWEST`. Each request calls the result for every feature, so functions of few
        terms have a finisher of their own.
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
        """The feature at every moment: int64 for counts and sums of whole numbers, else float64 with NaN for
        null.

        This default calls `define` moment by moment.
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
