"""What each value of a row added to a LightGBM model's margin, at a fifth of the cost of LightGBM's own call.

The contributions are path-dependent SHAP values (Lundberg et al. 2020, "From local explanations to global
understanding with explainable AI for trees"). Let v be the value of a leaf, and let the leaf's path split on
d features. Feature i adds

    v (o_i - z_i) ∫₀¹ Π_{j≠i} (z_j (1 - t) + o_j t) dt

z_j is the share of the training rows that go the path's way at the splits on j. o_j is 1 where the row goes
the path's way at all splits on j, else 0. The integrand is a polynomial in t of degree d - 1. The rule of
Gauss and Legendre with d/2 points integrates it exactly. All factors are positive, so that nothing cancels.

A row enters the formula as d bits only. The answers for all bits are computed when the model is loaded. A row
then takes two lookups: from its values to its bits, and from its bits to its contributions. A leaf with a
very long path has too many answers. Such a leaf is computed for each row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from serving.contract.scorers.leaf_paths import Classes, Condition, Leaf, UnknownShape, classes_of, read_trees

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_BYTES = 48_000_000  # All tables of a model. A service holds a few versions at a time.
# Conditions of leaves that share a table. 8 bits are a byte, and 8 answers are a line of the processor's
# cache.
SHARED = 8
LONGEST = 12  # Conditions of the largest table: 4,096 codes
# The largest share of leaves that are computed for each row. LightGBM's own call is faster from a third on.
MOST_COMPUTED = 0.25


class Contributions:
    """The tables of one model. They never change, so that threads may share them.

    Raises `UnknownShape` for a model that `read_trees` refuses, and for one so large that LightGBM's own call
    is the better way: see `MOST_BYTES` and `MOST_COMPUTED`.
    """

    def __init__(self, model_text: str, features: int) -> None:
        trees = read_trees(model_text)
        classes = classes_of(trees)
        groups = [group for tree in trees for group in _groups(tree.leaves(classes))]
        longest = _longest_in_a_table(groups, classes)
        short = [group for group in groups if group.length <= min(SHARED, longest)]
        long = [group for group in groups if SHARED < group.length <= longest]
        rest = [_group([leaf]) for group in groups if group.length > longest for leaf in group.leaves]
        if len(rest) > MOST_COMPUTED * sum(len(group.leaves) for group in groups):
            raise UnknownShape(f"{len(rest)} leaves with long paths are too many to compute for each row")
        self._width = features
        self._parts: list[_Part] = []
        places: list[tuple[Condition, int]] = []
        begin = 0
        for chosen, make in ((short, _Table), (long, _Table), (rest, _Formula)):
            if chosen:
                size = _bytes(max(group.length for group in chosen))
                end = begin + size * len(chosen)
                self._parts.append(make(chosen, slice(begin, end)))
                for n, group in enumerate(chosen):
                    first = (begin + n * size) * 8
                    places += [(condition, first + bit) for condition, bit in group.positions.items()]
                begin = end
        self._codes, self._columns = _codes(classes, places, begin)

    def of(self, values: Sequence[float]) -> list[float]:
        """What each value added to the margin, in the order of the model's features; NaN is missing."""
        rows = [
            first + bisect_left(thresholds, value) if (value := values[feature]) == value else nan
            for feature, thresholds, first, nan in self._columns
        ]
        codes = np.bitwise_or.reduce(self._codes.take(rows, 0), 0)
        added = np.zeros(self._width)
        for part in self._parts:
            added += np.bincount(part.features, part.of(codes), self._width)
        return added.tolist()


@dataclass(frozen=True)
class _Group:
    """Leaves of one tree that are looked up together. A group's code has a bit for each of its conditions."""

    positions: dict[Condition, int]
    leaves: tuple[Leaf, ...]

    @property
    def length(self) -> int:
        return len(self.positions)

    def codes_of(self, leaf: Leaf) -> Integers:
        """For each code of the group, the leaf's own: bit n says whether the row goes the way of step n."""
        positions = np.array([self.positions[step.condition] for step in leaf.steps])
        negated = np.array([step.negated for step in leaf.steps])
        bits = np.arange(2**self.length)[:, None] >> positions & 1
        return (bits ^ negated) @ (1 << np.arange(len(positions)))


def _group(leaves: Sequence[Leaf]) -> _Group:
    conditions = dict.fromkeys(step.condition for leaf in leaves for step in leaf.steps)
    return _Group({condition: n for n, condition in enumerate(conditions)}, tuple(leaves))


def _groups(leaves: Iterable[Leaf]) -> list[_Group]:
    """Neighbours share a table of at most `SHARED` conditions, or of no more than one of them has alone."""
    found: list[_Group] = []
    for leaf in leaves:
        if found:
            together = _group([*found[-1].leaves, leaf])
            if together.length <= min(LONGEST, max(SHARED, found[-1].length, len(leaf.steps))):
                found[-1] = together
                continue
        found.append(_group([leaf]))
    return found


def _longest_in_a_table(groups: Sequence[_Group], classes: dict[int, Classes]) -> int:
    """The most conditions of a group for which all smaller tables fit into `MOST_BYTES` as well."""
    codes = sum(each.nan + 1 for each in classes.values()) * sum(_bytes(group.length) for group in groups)
    if codes > MOST_BYTES:
        raise UnknownShape(f"tables of {codes:,} bytes, more than {MOST_BYTES:,}")
    left = MOST_BYTES - codes
    for length in range(1, LONGEST + 1):
        row = 8 * (SHARED if length <= SHARED else LONGEST)
        left -= sum(row * 2**length for group in groups if group.length == length)
        if left < 0:
            return length - 1
    return LONGEST


def _bytes(bits: int) -> int:
    return -(-bits // 8)


class _Column(NamedTuple):
    """Where the codes of a feature's classes stand: class n in row `first` + n, NaN in row `nan`."""

    feature: int
    thresholds: list[float]
    first: int
    nan: int


def _codes(
    classes: dict[int, Classes], places: Sequence[tuple[Condition, int]], size: int
) -> tuple[Bytes, list[_Column]]:
    """[classes of all features, `size`]: the conditions that a value of the class meets, a bit each.

    The codes of a row are the codes of its values, or-ed.
    """
    of_feature: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for condition, place in places:
        of_feature[condition.feature].append((condition.classes, place))
    columns: list[_Column] = []
    parts: list[Bytes] = []
    first = 0
    for feature, its in classes.items():
        count = its.nan + 1
        packed = b"".join(asked.to_bytes(_bytes(count), "little") for asked, _ in of_feature[feature])
        met = np.unpackbits(
            np.frombuffer(packed, np.uint8).reshape(-1, _bytes(count)), axis=1, count=count, bitorder="little"
        )
        bits = np.zeros((count, size * 8), np.uint8)
        bits[:, [place for _, place in of_feature[feature]]] = met.T
        parts.append(np.packbits(bits, axis=1, bitorder="little"))
        columns.append(_Column(feature, its.thresholds, first, first + its.nan))
        first += count
    return np.concatenate(parts), columns


class _Part(Protocol):
    """Some groups of a model. `features` says whose contributions `of` returns."""

    features: Integers

    def of(self, codes: Bytes) -> Floats:
        """What the groups add to the margin of a row, in the order of `features`."""
        ...


class _Table:
    """Groups whose answers are kept, a row a code."""

    def __init__(self, groups: Sequence[_Group], where: slice) -> None:
        self._where = where
        self._code = np.dtype("<u2" if max(group.length for group in groups) > SHARED else "<u1")
        first = np.cumsum([0, *(2**group.length for group in groups)])
        self._first = first[:-1]
        features = [sorted({condition.feature for condition in group.positions}) for group in groups]
        self.features = _padded(features, 0).ravel()
        self._answers = np.zeros((first[-1], max(map(len, features))))
        members = [(n, leaf) for n, group in enumerate(groups) for leaf in group.leaves]
        members.sort(key=lambda member: len(member[1].steps))
        for (n, leaf), own in zip(members, _answers([leaf for _, leaf in members]), strict=True):
            columns = [features[n].index(step.condition.feature) for step in leaf.steps]
            self._answers[first[n] : first[n + 1], columns] += own[:, groups[n].codes_of(leaf)].T

    def of(self, codes: Bytes) -> Floats:
        return self._answers.take(self._first + codes[self._where].view(self._code), 0).ravel()


class _Formula:
    """Leaves, each a group of its own, whose answers are computed for each row.

    Shorter paths are filled up with steps that every row and every training row goes: they add nothing.
    """

    def __init__(self, groups: Sequence[_Group], where: slice) -> None:
        self._where = where
        leaves = [group.leaves[0] for group in groups]
        self._negated = _padded([[step.negated for step in leaf.steps] for leaf in leaves], True)
        self._shares = _padded([[step.share for step in leaf.steps] for leaf in leaves], 1.0).T.copy()
        self._values = np.array([leaf.value for leaf in leaves])
        features = [[step.condition.feature for step in leaf.steps] for leaf in leaves]
        self.features = _padded(features, 0).T.ravel()

    def of(self, codes: Bytes) -> Floats:
        steps, leaves = self._shares.shape
        bits = np.unpackbits(codes[self._where].reshape(leaves, -1), axis=1, count=steps, bitorder="little")
        goes = np.ascontiguousarray((bits ^ self._negated).T, dtype=np.float64)
        return _contributions(goes, self._shares, self._values).ravel()


def _padded(rows: Sequence[Sequence[float]], filling: float) -> npt.NDArray[Any]:
    """The rows as one array, the shorter ones filled up on the right."""
    width = max(map(len, rows))
    return np.array([[*row, *[filling] * (width - len(row))] for row in rows])


def _answers(leaves: Iterable[Leaf]) -> Iterator[Floats]:
    """[steps, codes] for each leaf: what each step adds for each code. The leaves come in order of length."""
    for steps, alike in groupby(leaves, key=lambda leaf: len(leaf.steps)):
        goes = (np.arange(2**steps) >> np.arange(steps)[:, None] & 1).astype(np.float64)
        waiting = list(alike)
        at_once = max(1, 4_096 >> steps)  # Some megabytes
        for start in range(0, len(waiting), at_once):
            some = waiting[start : start + at_once]
            shares = np.array([[step.share for step in leaf.steps] for leaf in some]).T
            values = np.array([leaf.value for leaf in some])
            found = _contributions(goes[:, None, :], shares[:, :, None], values[:, None])
            yield from found.transpose(1, 0, 2)


def _contributions(goes: Floats, shares: Floats, values: Floats) -> Floats:
    """[steps, ...], the formula at the top: o is `goes`, z is `shares`, v is `values`."""
    places, weights = _gauss_legendre((len(shares) + 1) // 2)
    points = places.reshape(-1, *[1] * values.ndim)
    factors = shares[:, None] * (1 - points) + goes[:, None] * points
    weighted = factors.prod(0) * weights.reshape(points.shape)
    return values * (goes - shares) * (weighted / factors).sum(1)


@cache
def _gauss_legendre(points: int) -> tuple[Floats, Floats]:
    """The places and weights of the rule on the interval from 0 to 1."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return (1 + places) / 2, weights / 2
