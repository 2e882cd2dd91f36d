"""The state of a set of events as integers, and how the states of two disjoint sets are merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAST, MOST = -(2**63 - 1), 2**63 - 1  # Each loses against every value in `max` and `min`.
# The term of an empty set, by kind. A pack keeps its terms in this order of kinds. Terms of `latest` come
# in threes: the time, the creation and the value of the newest event that has a value.
NOTHING = {"sum": 0, "max": LEAST, "min": MOST, "latest": LEAST}
LATEST = 3

# What each event adds to a term. Its arguments are the times of the events, and their values.
Each = Callable[[Sequence[int], Sequence[Any]], Sequence[int]]


@dataclass(frozen=True)
class Term:
    """One integer of a state. `kind` says how it is merged, `what` which part of an event it reads.

    `sql` selects the integer. In `sql`, `{bound}` is the condition that begins the window, and `{source}` is
    the table with the conditions of the key and of the moment. Terms of `latest` share `states_of_latest` and
    have no `each`.
    """

    kind: str
    what: str
    column: str | None = None
    sql: str = field(default="", repr=False, compare=False)
    each: Each | None = field(default=None, repr=False, compare=False)


def events() -> Term:
    """The number of events."""
    sql = "count(*) FILTER (WHERE {bound})"
    return Term("sum", "events", None, sql, lambda moments, _: [1] * len(moments))


def total(column: str) -> Term:
    """The sum of the values."""
    return Term("sum", "value", column, _over("sum", column), lambda _, held: _filled(held, 0))


def present(column: str) -> Term:
    """The number of values that are not null."""

    def each(_: Sequence[int], held: Sequence[Any]) -> Sequence[int]:
        """1 for a value, 0 for null."""
        return [1] * len(held) if None not in held else [int(v is not None) for v in held]

    return Term("sum", "present", column, _over("count", column), each)


def squares(column: str) -> Term:
    """The sum of the squares of the values."""
    sql = _over("sum", f"{column} * {column}")
    return Term("sum", "square", column, sql, lambda _, held: [v * v for v in _filled(held, 0)])


def greatest(column: str) -> Term:
    """The greatest value."""
    sql = _over("max", column)
    return Term("max", "value", column, sql, lambda _, held: _filled(held, LEAST))


def least(column: str) -> Term:
    """The least value."""
    sql = _over("min", column)
    return Term("min", "value", column, sql, lambda _, held: _filled(held, MOST))


# The time of the newest event. A pack knows this time for every suffix and keeps no term for it.
NEWEST = Term("max", "moment", None, "max(event_us) FILTER (WHERE {bound})", lambda moments, _: moments)
# The time of the oldest event. In a tile this is the time of the event and not that of the tile.
OLDEST = Term("min", "moment", None, "min(event_us) FILTER (WHERE {bound})", lambda moments, _: moments)


def newest_set(column: str) -> Term:
    """The time of the newest event whose flag is set."""
    sql = f"max(event_us) FILTER (WHERE {column} AND {{bound}})"
    return Term("max", "set", column, sql, _set(LEAST))


def oldest_set(column: str) -> Term:
    """The time of the oldest event whose flag is set."""
    sql = f"min(event_us) FILTER (WHERE {column} AND {{bound}})"
    return Term("min", "set", column, sql, _set(MOST))


def latest(column: str) -> tuple[Term, Term, Term]:
    """The time, the creation and the value of the newest event with a value.

    Of several events of one instant, the event that was created last counts. Of several events that were
    created together, the greatest value counts.
    """
    newest = f"ORDER BY event_us DESC, created_us DESC, {column} DESC LIMIT 1"
    there = f"{column} IS NOT NULL AND {{bound}}"
    return (
        Term("latest", "moment", column, f"max(event_us) FILTER (WHERE {there})"),
        Term("latest", "created", column, f"(SELECT created_us {{source}} AND {there} {newest})"),
        Term("latest", "value", column, f"(SELECT {column} {{source}} AND {there} {newest})"),
    )


def states_of_latest(
    moments: Sequence[int], created: Sequence[int], held: Sequence[Any]
) -> Sequence[tuple[int, ...]]:
    """The three terms of `latest` for each event. The greatest counts of several."""
    nothing = (LEAST,) * LATEST
    return [
        nothing if value is None else (at, known, int(value))
        for at, known, value in zip(moments, created, held, strict=True)
    ]


def merged(terms: Sequence[Term], one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The terms of two disjoint sets of events together."""
    result: list[int] = []
    for place, term in enumerate(terms):
        if place < len(result):
            continue  # The second or third term of `latest`.
        if term.kind == "latest":
            result += max(tuple(one[place : place + LATEST]), tuple(other[place : place + LATEST]))
        elif term.kind == "sum":
            result.append(one[place] + other[place])
        else:
            result.append((max if term.kind == "max" else min)(one[place], other[place]))
    return result


def _over(function: str, expression: str) -> str:
    return f"{function}({expression}) FILTER (WHERE {{bound}})"


def _filled(held: Sequence[Any], nothing: int) -> Sequence[int]:
    return held if None not in held else [nothing if v is None else v for v in held]


def _set(never: int) -> Each:
    return lambda moments, held: [at if v else never for at, v in zip(moments, held, strict=True)]
