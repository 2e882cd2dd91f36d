"""What the entries of a pack hold, and how a window's features are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from feature_repo.engine import rounding
from feature_repo.engine.plan import Aggregate
from feature_repo.online.base import Value
from feature_repo.times import SECOND_US

LEAST, MOST = -(2**63 - 1), 2**63 - 1  # of nothing: what loses against every value in `max` and `min`
NEVER = (LEAST, MOST)
NOTHING = {"sum": 0, "max": LEAST, "min": MOST}  # terms of a view are kept in this order


class Term(NamedTuple):
    """One integer of an entry: `kind` says how two parts of a window become one, `what` of an event it is
    about.
    """

    kind: str
    what: str
    column: str | None = None


@dataclass
class Window:
    """The features of one window, each with the places of its terms; `listed` are those that need the values
    themselves.
    """

    window_us: int
    same: list[tuple[str, int]] = field(default_factory=list)
    sums: list[tuple[str, int, int]] = field(default_factory=list)
    averages: list[tuple[str, int, int, int]] = field(default_factory=list)
    spreads: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    extremes: list[tuple[str, int, int, Callable[[int, int], int]]] = field(default_factory=list)
    last: list[tuple[str, int | None]] = field(default_factory=list)
    first: list[tuple[str, int]] = field(default_factory=list)
    listed: list[tuple[Aggregate, int, int | None]] = field(default_factory=list)

    def add(self, aggregate: Aggregate, scale: int | None, places: Sequence[int]) -> None:
        name, function, unit = aggregate.name, aggregate.function, 10 ** (scale or 0)
        if function == "seconds_since_last":
            self.last.append((name, places[0] if places else None))
        elif function == "seconds_since_first":
            self.first.append((name, places[0]))
        elif function == "count" or (function == "sum" and unit == 1):
            self.same.append((name, places[0]))
        elif function == "sum":
            self.sums.append((name, places[0], unit))
        elif function == "avg":
            self.averages.append((name, places[0], places[1], unit))
        elif function == "std":
            self.spreads.append((name, places[0], places[2], places[1], unit))
        else:
            self.extremes.append((name, places[0], unit, max if function == "max" else min))

    def finish(
        self,
        of_pack: Sequence[int],
        of_tail: Sequence[int],
        newest_us: int | None,
        at_us: int,
        result: dict[str, Value],
    ) -> None:
        """Put the features into `result`.

        Terms are added up only where a feature needs them: a window has few of them.
        """
        for name, i in self.same:
            result[name] = of_pack[i] + of_tail[i]
        for name, i, unit in self.sums:
            result[name] = rounding.quotient(of_pack[i] + of_tail[i], unit)
        for name, i, count, unit in self.averages:
            result[name] = rounding.mean(of_pack[i] + of_tail[i], of_pack[count] + of_tail[count], unit)
        for name, i, squares, count, unit in self.spreads:
            result[name] = rounding.spread(
                of_pack[i] + of_tail[i],
                of_pack[squares] + of_tail[squares],
                of_pack[count] + of_tail[count],
                unit,
            )
        for name, i, unit, choose in self.extremes:
            result[name] = (
                None if (value := choose(of_pack[i], of_tail[i])) in NEVER else rounding.quotient(value, unit)
            )
        for name, flag in self.last:
            moment = newest_us if flag is None else max(of_pack[flag], of_tail[flag])
            result[name] = None if moment is None or moment == LEAST else (at_us - moment) / SECOND_US
        for name, i in self.first:
            result[name] = (
                None if (oldest := min(of_pack[i], of_tail[i])) == MOST else (at_us - oldest) / SECOND_US
            )


def terms_of(aggregate: Aggregate) -> list[Term]:
    """What has to be known of an aggregate's window. That an event is the newest is known without."""
    c = aggregate.column
    total, present = Term("sum", "value", c), Term("sum", "present", c)
    if aggregate.function == "seconds_since_last":
        return [] if aggregate.flag is None else [Term("max", "set", c)]
    if aggregate.function == "seconds_since_first":  # of a tile the time of the event itself, not the tile's
        return [Term("min", "moment") if aggregate.flag is None else Term("min", "set", c)]
    return {
        "count": [Term("sum", "events")],
        "sum": [total],
        "avg": [total, present],
        "std": [total, present, Term("sum", "square", c)],
        "min": [Term("min", "value", c)],
        "max": [Term("max", "value", c)],
    }[aggregate.function]


# A term of the first event, the first two, and so on: from their moments, newest first, and the term's
# column.
RUNNING: dict[tuple[str, str], Callable[[Sequence[int], Sequence[Any]], Iterable[int]]] = {
    ("sum", "events"): lambda moments, _: range(1, len(moments) + 1),
    ("sum", "present"): lambda _, column: (
        range(1, len(column) + 1) if None not in column else accumulate(v is not None for v in column)
    ),
    ("sum", "value"): lambda _, column: accumulate(_filled(column, 0)),
    ("sum", "square"): lambda _, column: accumulate([v * v for v in _filled(column, 0)]),
    ("max", "value"): lambda _, column: accumulate(_filled(column, LEAST), max),
    ("max", "set"): lambda moments, column: accumulate(
        [t if v else LEAST for t, v in zip(moments, column, strict=True)], max
    ),
    ("min", "value"): lambda _, column: accumulate(_filled(column, MOST), min),
    ("min", "set"): lambda moments, column: accumulate(
        [t if v else MOST for t, v in zip(moments, column, strict=True)], min
    ),
    ("min", "moment"): lambda moments, _: moments,
}


def _filled(column: Sequence[Any], nothing: int) -> Sequence[int]:
    return column if None not in column else [nothing if v is None else v for v in column]
