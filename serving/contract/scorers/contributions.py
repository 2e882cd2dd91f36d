"""What each value of a row added to a LightGBM model's margin, at a tenth of the cost of LightGBM's own call.

The contributions are path-dependent SHAP values (Lundberg et al. 2020, "From local explanations to global
understanding with explainable AI for trees"). Let v be the value of a leaf, and let the leaf's path split on
d features. Feature i adds

    v (o_i - z_i) ∫₀¹ Π_{j≠i} (z_j (1 - t) + o_j t) dt

z_j is the share of the training rows that go the path's way at the splits on j. o_j is 1 where the row goes
the path's way at all splits on j, else 0. The integrand is a polynomial in t of degree d - 1. The rule of
Gauss and Legendre with d/2 points integrates it exactly. All factors are positive, so that nothing cancels.

A row enters the formula as d bits only. The answers for all bits are computed when the model is loaded. A row
then takes two lookups: from its values to the number of an answer, and from this number to the answer. Leaves
of one tree share a table, so that a lookup answers several leaves. A leaf with a very long path has too many
answers. Such a leaf is computed for each row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from serving.contract.scorers.leaf_paths import Classes, Leaf, UnknownShape, classes_of, read_trees

Codes = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_BYTES = 48_000_000  # All tables of a model. A service holds a few versions at a time.
# Answers of the largest table that leaves share. Larger tables mean fewer lookups. The smaller sizes are for
# models of many trees, whose larger tables would not fit into `MOST_BYTES`.
SHARED = (2_048, 512, 128)
COLUMNS = 8  # Features of a shared table. 8 numbers are a line of the processor's cache.
LONGEST = 12  # Steps of the longest path that a table answers, with 4,096 answers
# The largest share of leaves that are computed for each row. LightGBM's own call is faster from a third on.
MOST_COMPUTED = 0.25
AT_ONCE = 16  # Rows whose lookups fit into the processor's second cache


class Contributions:
    """The tables of one model. They never change, so that threads may share them.

    Raises `UnknownShape` for a model that `read_trees` refuses, and for one so large that LightGBM's own call
    is the better way: see `MOST_BYTES` and `MOST_COMPUTED`.
    """

    def __init__(self, model_text: str, features: int) -> None:
        trees = read_trees(model_text)
        classes = classes_of(trees)
        leaves = [list(tree.leaves(classes)) for tree in trees]
        tables, computed = _divided(leaves, classes)
        self._width = features
        self._parts: list[_Part] = []
        places: list[_Place] = []
        begin = 0
        narrow = [table for table in tables if len(table.cells) <= COLUMNS]
        wide = [table for table in tables if len(table.cells) > COLUMNS]
        for chosen in (narrow, wide):
            if chosen:
                self._parts.append(_Tables(chosen, slice(begin, begin + len(chosen))))
                for column, table in enumerate(chosen, begin):
                    places += table.places(column)
                begin += len(chosen)
        if computed:
            formula = _Formula(computed, begin)
            self._parts.append(formula)
            places += formula.places
            begin = formula.end
        self._codes = _codes(classes, places, begin)
        self._features = np.array(list(classes))
        # NumPy orders complex numbers by their real parts, here the features, then by their imaginary parts,
        # here the thresholds. One search finds the classes of all values.
        self._thresholds = np.concatenate(
            [_pairs(np.array([n]), np.array(each.thresholds)) for n, each in enumerate(classes.values())]
        )
        self._numbers = np.arange(len(classes))[:, None]
        self._nan = np.cumsum([each.nan + 1 for each in classes.values()])[:, None] - 1

    def of(self, matrix: Floats) -> Floats:
        """[rows, features]: what each value added to the margin; NaN is missing.

        A row's result does not depend on the rows beside it.
        """
        added = np.zeros((len(matrix), self._width))
        for start in range(0, len(matrix), AT_ONCE):
            codes = self._codes_of(matrix[start : start + AT_ONCE])
            for part in self._parts:
                for row, found in enumerate(part.of(codes), start):
                    added[row] += np.bincount(part.features, found, self._width)
        return added

    def _codes_of(self, rows: Floats) -> Codes:
        """[rows, columns]: the sums of the codes of each row's values."""
        values = rows.T.take(self._features, 0)
        # A feature has two classes more than thresholds.
        classes = self._thresholds.searchsorted(_pairs(self._numbers, values)) + 2 * self._numbers
        at = np.where(np.isnan(values), self._nan, classes)
        return np.add.reduce(self._codes.take(at, 0), 0, dtype=np.uint16)


def _pairs(features: Integers, values: Floats) -> npt.NDArray[np.complex128]:
    found = np.empty(values.shape, np.complex128)
    found.real, found.imag = features, values
    return found


class _Place(NamedTuple):
    """A value of the feature in one of the classes adds `code` to the row's code in `column`."""

    feature: int
    classes: int
    column: int
    code: int


class _Table(NamedTuple):
    """Leaves of one tree that are looked up together.

    `cells` divides each feature's classes into sets that the leaves do not tell apart. A row is in one cell
    of each feature. The table has an answer for each choice of cells, the last feature's cell moving first.
    """

    cells: dict[int, tuple[int, ...]]
    leaves: list[Leaf]

    @property
    def size(self) -> int:
        return math.prod(map(len, self.cells.values()))

    @property
    def bytes(self) -> int:
        return 8 * self.size * (COLUMNS if len(self.cells) <= COLUMNS else LONGEST)

    def places(self, column: int) -> Iterator[_Place]:
        stride = self.size
        for feature, cells in self.cells.items():
            stride //= len(cells)
            yield from (_Place(feature, cell, column, n * stride) for n, cell in enumerate(cells) if n)

    def codes_of(self, leaf: Leaf) -> Integers:
        """For each answer, the leaf's own code: bit n says whether the row goes the way of step n."""
        code = np.zeros(tuple(map(len, self.cells.values())), np.int64)
        axes = list(self.cells)
        for n, (condition, negated, _) in enumerate(leaf.steps):
            goes = [bool(cell & condition.classes) != negated for cell in self.cells[condition.feature]]
            shape = np.ones(code.ndim, np.int64)
            shape[axes.index(condition.feature)] = -1
            code += (np.array(goes, np.int64) << n).reshape(shape)
        return code.ravel()


def _joined(table: _Table, leaf: Leaf, classes: dict[int, Classes]) -> _Table:
    cells = dict(table.cells)
    for (feature, asked), _, _ in leaf.steps:
        cells[feature] = tuple(
            part
            for cell in cells.get(feature, (classes[feature].all,))
            for part in (cell & ~asked, cell & asked)
            if part
        )
    return _Table(cells, [*table.leaves, leaf])


def _tables(leaves: Iterable[Leaf], classes: dict[int, Classes], shared: int) -> list[_Table]:
    """Tables of at most `shared` answers and `COLUMNS` features, or of no more than one leaf has alone.

    Neighbours share a table, for they share most of their path.
    """
    found: list[_Table] = []
    for leaf in leaves:
        alone = _joined(_Table({}, []), leaf, classes)
        if found:
            together = _joined(found[-1], leaf, classes)
            if together.size <= max(shared, found[-1].size, alone.size) and len(together.cells) <= max(
                COLUMNS, len(found[-1].cells), len(alone.cells)
            ):
                found[-1] = together
                continue
        found.append(alone)
    return found


def _divided(trees: Sequence[Sequence[Leaf]], classes: dict[int, Classes]) -> tuple[list[_Table], list[Leaf]]:
    """The tables that fit into `MOST_BYTES`, and the leaves that are to be computed for each row."""
    column = 2 * sum(each.nan + 1 for each in classes.values())
    short = [[leaf for leaf in tree if len(leaf.steps) <= LONGEST] for tree in trees]
    computed = [leaf for tree in trees for leaf in tree if len(leaf.steps) > LONGEST]
    for shared in SHARED:
        tables: list[_Table] = []
        left = MOST_BYTES - column * len(computed)
        for tree in short:
            tables += (some := _tables(tree, classes, shared))
            left -= sum(column + table.bytes for table in some)
            if left < 0 and shared != SHARED[-1]:
                break
        if left >= 0:
            break
    if (size := column * (len(tables) + len(computed))) > MOST_BYTES:
        raise UnknownShape(f"tables of {size:,} bytes, more than {MOST_BYTES:,}")
    tables.sort(key=lambda table: table.size)
    while left < 0 and tables:
        table = tables.pop()
        computed += table.leaves
        left += table.bytes + column - column * len(table.leaves)
    if len(computed) > MOST_COMPUTED * sum(map(len, trees)):
        raise UnknownShape(f"{len(computed)} leaves with long paths are too many to compute for each row")
    return tables, computed


def _codes(classes: dict[int, Classes], places: Iterable[_Place], columns: int) -> Codes:
    """[classes of all features, columns]: what a value of the class adds to each of a row's codes."""
    of_feature: dict[int, list[_Place]] = defaultdict(list)
    for place in places:
        of_feature[place.feature].append(place)
    parts = []
    for feature, its in classes.items():
        count = its.nan + 1
        size = (count + 7) // 8
        packed = b"".join(place.classes.to_bytes(size, "little") for place in of_feature[feature])
        chosen = np.frombuffer(packed, np.uint8).reshape(-1, size)
        bits = np.unpackbits(chosen, axis=1, count=count, bitorder="little")
        added = np.array([place.code for place in of_feature[feature]], np.uint16)
        part = np.zeros((columns, count), np.uint16)
        np.add.at(part, [place.column for place in of_feature[feature]], bits * added[:, None])
        parts.append(part)
    return np.ascontiguousarray(np.concatenate(parts, axis=1).T)


class _Part(Protocol):
    """Some leaves of a model. `features` says whose contributions a row of `of` has."""

    features: Integers

    def of(self, codes: Codes) -> Iterable[Floats]:
        """What the leaves add to the margin, for each row, in the order of `features`."""
        ...


class _Tables:
    """Tables of nearly one width. They stand in one array, a row an answer."""

    def __init__(self, tables: Sequence[_Table], columns: slice) -> None:
        self._columns = columns
        first = np.cumsum([0, *(table.size for table in tables)])
        self._first = first[:-1]
        self.features = _padded([list(table.cells) for table in tables], 0).ravel()
        self._answers = np.zeros((first[-1], max(len(table.cells) for table in tables)))
        members = [(n, leaf) for n, table in enumerate(tables) for leaf in table.leaves]
        members.sort(key=lambda member: len(member[1].steps))
        for (n, leaf), own in zip(members, _answers([leaf for _, leaf in members]), strict=True):
            axes = list(tables[n].cells)
            columns_of = [axes.index(step.condition.feature) for step in leaf.steps]
            self._answers[first[n] : first[n + 1], columns_of] += own[:, tables[n].codes_of(leaf)].T

    def of(self, codes: Codes) -> Floats:
        return self._answers.take(self._first + codes[:, self._columns], 0).reshape(len(codes), -1)


class _Formula:
    """Leaves whose answers are computed for each row. A leaf has a bit of its codes for each step.

    Shorter paths are filled up with steps that every row and every training row goes: they add nothing.
    """

    def __init__(self, leaves: Sequence[Leaf], begin: int) -> None:
        words = -(-max(len(leaf.steps) for leaf in leaves) // 16)
        self.end = begin + words * len(leaves)
        self.places = [
            _Place(step.condition.feature, step.condition.classes, column + n // 16, 1 << n % 16)
            for column, leaf in zip(range(begin, self.end, words), leaves, strict=True)
            for n, step in enumerate(leaf.steps)
        ]
        self._columns = slice(begin, self.end)
        self._negated = _padded([[step.negated for step in leaf.steps] for leaf in leaves], True)
        self._shares = _padded([[step.share for step in leaf.steps] for leaf in leaves], 1.0).T.copy()
        self._values = np.array([leaf.value for leaf in leaves])
        features = [[step.condition.feature for step in leaf.steps] for leaf in leaves]
        self.features = _padded(features, 0).T.ravel()

    def of(self, codes: Codes) -> Iterator[Floats]:
        steps, leaves = self._shares.shape
        for row in codes[:, self._columns].astype("<u2").view(np.uint8).reshape(len(codes), leaves, -1):
            bits = np.unpackbits(row, axis=1, count=steps, bitorder="little")
            goes = np.ascontiguousarray((bits ^ self._negated).T, dtype=np.float64)
            yield _contributions(goes, self._shares, self._values).ravel()


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
