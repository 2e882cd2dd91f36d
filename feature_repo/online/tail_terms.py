"""The terms of the events after a pack: of the newest one, of the newest two, and so on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from feature_repo.engine.functions.terms import Term, states_of_latest

BETTER = {"sum": None, "max": max, "min": min}


class TailTerms:
    """The terms of a view, for events as rows of `columns` and, after them, the time of creation.

    The time of creation may be absent where the view has no `latest`.
    """

    def __init__(self, terms: Sequence[Term], columns: Sequence[str]) -> None:
        self._each = [
            (t.each, columns.index(t.column or "event_us"), BETTER[t.kind])
            for t in terms
            if t.each is not None
        ]
        self._latest = [
            columns.index(t.column or "") for t in terms if (t.kind, t.what) == ("latest", "moment")
        ]
        self._created = len(columns)

    def suffixes(self, rows: Sequence[Sequence[Any]]) -> tuple[Sequence[int], Sequence[tuple[int, ...]]]:
        """The times of events, newest first, and the terms of the first event, the first two events, and so
        on. There is at least one event.
        """
        columns = list(zip(*rows, strict=True))
        moments = columns[0]
        sums: list[Iterable[int]] = [
            accumulate(each(moments, columns[place]), better) for each, place, better in self._each
        ]
        for place in self._latest:
            states = states_of_latest(moments, columns[self._created], columns[place])
            sums += zip(*accumulate(states, max), strict=True)
        return moments, list(zip(*sums, strict=True)) if sums else [()] * len(moments)
