"""What the path to each leaf of a LightGBM model asks of a row, one condition a feature.

The splits of all trees on one feature divide the feature's values into classes. A condition is a set of
classes, written as the bits of an integer. LightGBM's rules for zero and for missing values are applied here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from serving.errors import ServingError

# LightGBM's `kZeroThreshold`, a float of 32 bits. LightGBM reads a value of at most this size as 0.
ZERO = float(np.float32(1e-35))
BELOW_ZERO = float(np.nextafter(-ZERO, -np.inf))
# Of a node's `decision_type`: the bit for "missing goes left", and the two bits that say what is missing.
DEFAULT_LEFT, MISSING_IS_ZERO, MISSING_IS_NAN = 0b10, 0b0100, 0b1000


class UnknownShape(ServingError):
    """A model that this code cannot explain; the message says why. LightGBM's own call can."""


class Condition(NamedTuple):
    """True where a row's value of `feature` is in one of `classes`. Class 0 is never one of them."""

    feature: int
    classes: int


class Step(NamedTuple):
    """What a path asks of one feature.

    A row goes the path's way where the condition is true; with `negated`, where the condition is false.
    `share` is the share of the training rows that go the path's way.
    """

    condition: Condition
    negated: bool
    share: float


class Leaf(NamedTuple):
    value: float
    steps: tuple[Step, ...]


class Classes:
    """The classes of one feature's values.

    Class n holds the values above `thresholds[n - 1]`, up to `thresholds[n]`. The last but one holds the
    values above all thresholds. The last, `nan`, holds NaN.
    """

    def __init__(self, thresholds: set[float]) -> None:
        apart = {t for t in thresholds if not BELOW_ZERO < t < ZERO}
        self.thresholds = sorted(apart | {BELOW_ZERO, ZERO})
        self.nan = len(self.thresholds) + 1
        self.all = (2 << self.nan) - 1

    def left(self, threshold: float, decision_type: int) -> int:
        """The classes that go left at a split."""
        reached = BELOW_ZERO if BELOW_ZERO < threshold < 0 else threshold
        left = (2 << bisect_left(self.thresholds, reached)) - 1
        zero, missing = 1 << bisect_left(self.thresholds, 0.0), 1 << self.nan
        if decision_type & MISSING_IS_ZERO:
            missing |= zero
            goes_left = decision_type & DEFAULT_LEFT
        elif decision_type & MISSING_IS_NAN:
            goes_left = decision_type & DEFAULT_LEFT
        else:
            goes_left = left & zero  # NaN is read as 0
        return left | missing if goes_left else left & ~missing


class Tree(NamedTuple):
    """The arrays of a tree in LightGBM's text, an element a split or a leaf. Child ~n is leaf n."""

    features: list[int]
    thresholds: list[float]
    decision_types: list[int]
    left: list[int]
    right: list[int]
    split_rows: list[int]
    leaf_rows: list[int]
    values: list[float]

    def rows(self, node: int) -> int:
        """The training rows that reached a split or a leaf."""
        return self.split_rows[node] if node >= 0 else self.leaf_rows[~node]

    def leaves(self, classes: dict[int, Classes]) -> Iterator[Leaf]:
        """The leaves from right to left, so that neighbours share most of their path."""
        waiting: list[tuple[int, dict[int, tuple[int, float]]]] = [(0, {})]
        while waiting:
            node, path = waiting.pop()
            if node < 0:
                steps = (_step(f, asked, share, classes[f]) for f, (asked, share) in path.items())
                yield Leaf(self.values[~node], tuple(steps))
                continue
            feature = self.features[node]
            before, share = path.get(feature, (classes[feature].all, 1.0))
            left = classes[feature].left(self.thresholds[node], self.decision_types[node])
            for child, way in ((self.left[node], left), (self.right[node], ~left)):
                part = share * self.rows(child) / self.rows(node)
                waiting.append((child, path | {feature: (before & way, part)}))


def _step(feature: int, asked: int, share: float, classes: Classes) -> Step:
    negated = bool(asked & 1)
    return Step(Condition(feature, classes.all & ~asked if negated else asked), negated, share)


def read_trees(model_text: str) -> list[Tree]:
    """The trees that have splits.

    Raises `UnknownShape` for categorical splits, linear leaves, several classes, a random forest, a leaf
    without training rows, and a model without a split.
    """
    header, *blocks = model_text.partition("\nend of trees")[0].split("\nTree=")
    if "\nnum_tree_per_iteration=1\n" not in header or "\naverage_output\n" in header:
        raise UnknownShape("the trees are not simply added up")
    found = []
    for block in blocks:
        told = dict(line.split("=", 1) for line in block.splitlines()[1:] if line)
        if told["num_cat"] != "0" or told.get("is_linear", "0") != "0":
            raise UnknownShape("a tree has categorical splits or linear leaves")
        if told["num_leaves"] != "1":
            found.append(_tree(told))
    if not found:
        raise UnknownShape("no tree has a split")
    return found


def _tree(told: dict[str, str]) -> Tree:
    def whole(name: str) -> list[int]:
        return [int(number) for number in told[name].split()]

    def real(name: str) -> list[float]:
        return [float(number) for number in told[name].split()]

    tree = Tree(
        whole("split_feature"),
        real("threshold"),
        whole("decision_type"),
        whole("left_child"),
        whole("right_child"),
        whole("internal_count"),
        whole("leaf_count"),
        real("leaf_value"),
    )
    if min(tree.split_rows) < 1 or min(tree.leaf_rows) < 1:
        raise UnknownShape("no training row reached one of the leaves")
    return tree


def classes_of(trees: Sequence[Tree]) -> dict[int, Classes]:
    """The classes of each feature that a tree splits on."""
    thresholds: dict[int, set[float]] = {}
    for tree in trees:
        for feature, threshold in zip(tree.features, tree.thresholds, strict=True):
            thresholds.setdefault(feature, set()).add(threshold)
    return {feature: Classes(found) for feature, found in sorted(thresholds.items())}
