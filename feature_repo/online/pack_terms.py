"""The features of a window from its two parts: the suffix of a pack, and the events after the pack.

The functions define the terms of both parts and how they merge: see `feature_repo.engine.functions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.functions.base import KNOWN, Finisher, SeenEvent
from feature_repo.engine.functions.terms import LATEST, NEWEST, NOTHING, Term
from feature_repo.engine.plan import Aggregate, ViewPlan
from feature_repo.online.base import Value


def is_packed(view: ViewPlan, aggregate: Aggregate) -> bool:
    """Whether packs can hold an aggregate: a few integers are enough for it."""
    return aggregate.computed_by.in_packs(aggregate.column, view.scales.get(aggregate.column))


def terms_of(view: ViewPlan) -> list[Term]:
    """The terms that the packs of a view hold, each once, by kind."""
    packed = [a for a in view.aggregates if is_packed(view, a)]
    terms = dict.fromkeys(t for a in packed for t in a.computed_by.terms(a.column) if t != NEWEST)
    return sorted(terms, key=lambda term: list(NOTHING).index(term.kind))


class PackedWindow:
    """The features of one window.

    `finishers` make features from terms. `listed` are the features that need the values of the events.
    Terms are merged only where a feature needs them, because a window has few features.
    """

    def __init__(self, window_us: int, view: ViewPlan, terms: Sequence[Term], columns: Sequence[str]) -> None:
        self.window_us = window_us
        self.listed: list[Listed] = []
        self.finishers: list[tuple[str, Finisher]] = []
        for aggregate in view.aggregates:
            if aggregate.window_us != window_us:
                continue
            scale = view.scales.get(aggregate.column)
            if not is_packed(view, aggregate):
                self.listed.append(Listed(aggregate, columns, scale))
                continue
            function = aggregate.computed_by
            own = function.terms(aggregate.column)
            places = [KNOWN if term == NEWEST else terms.index(term) for term in own]
            finish = function.finisher(aggregate.column, places, 10 ** (scale or 0))
            self.finishers.append((aggregate.name, finish))


class Listed:
    """One feature that is computed from the events of its window."""

    def __init__(self, aggregate: Aggregate, columns: Sequence[str], scale: int | None) -> None:
        self.aggregate = aggregate
        self._unit = None if scale is None else 10**scale
        self._value = columns.index(aggregate.column) if aggregate.reads_values else None
        self._created = len(columns) if aggregate.computed_by.by_creation else 0

    def of_rows(self, rows: Sequence[Any], at_us: int) -> Value:
        """The feature, from rows of `columns`.

        A function with `by_creation` finds the time of creation after these columns.
        """
        place = self._value
        seen = [SeenEvent(row[0], row[self._created], None if place is None else row[place]) for row in rows]
        return self.aggregate.computed_by.define(self.aggregate.column, seen, at_us, self._unit)


def merged_suffixes(
    terms: Sequence[Term], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`functions.terms.merged` for whole packs, with a row for each term and a column for each entry."""
    ends = np.cumsum([sum(term.kind == kind for term in terms) for kind in NOTHING]).tolist()
    sums, maxima, minima, _ = ends
    return np.concatenate(
        [
            one[:sums] + other[:sums],
            np.maximum(one[sums:maxima], other[sums:maxima]),
            np.minimum(one[maxima:minima], other[maxima:minima]),
            *(_later(one[n : n + LATEST], other[n : n + LATEST]) for n in range(minima, len(terms), LATEST)),
        ]
    )


def _later(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The greater of two states in every column, term by term."""
    greater, equal = np.zeros(one.shape[1], bool), np.ones(one.shape[1], bool)
    for ours, theirs in zip(one, other, strict=True):
        greater |= equal & (ours > theirs)
        equal &= ours == theirs
    return np.where(greater, one, other)
