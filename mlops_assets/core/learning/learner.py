"""The protocol of fits. Training and tuning use it, and know no library of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mlops_assets.core.judging.measuring.measures import Flags, Scores
from mlops_assets.core.learning.hyperparameters import Recipe

Matrix = npt.NDArray[np.float64]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Learnable:
    """Rows for a learner. `drawn` marks every positive row, and the recipe's share of the negative rows."""

    matrix: Matrix  # [rows, features]; null is NaN
    flags: Flags
    drawn: Flags


@dataclass(frozen=True)
class Range:
    """The range of a search. With `log`, the step from 1 to 2 counts as much as the step from 10 to 20."""

    low: float
    high: float
    log: bool = True
    whole: bool = False


class Fitted(Protocol):
    """One fit."""

    @property
    def text(self) -> str:
        """The model as text. Equal fits give equal texts."""
        ...

    def margins(self, matrix: Matrix, rounds: int | None = None) -> Scores:
        """The log-odds of each row before calibration, after that many rounds or after all rounds."""
        ...

    def gains(self) -> Scores:
        """The gain by each feature, in the order of the features, in the family's own unit."""
        ...


@dataclass(frozen=True)
class ChosenRounds:
    """A fit, the number of rounds that was chosen on later days, and the best log loss on these days."""

    fitted: Fitted
    rounds: int
    loss: float


class Learner(Protocol):
    """Fits of a recipe. Equal rows, recipe and rounds give equal bytes."""

    @property
    def space(self) -> Mapping[str, Range]:
        """The range of each value of the recipe that a search chooses, by name."""
        ...

    def choose_rounds(
        self,
        rows: Learnable,
        head: Flags,
        tail: Flags,
        features: tuple[str, ...],
        recipe: Recipe,
        progress: Progress | None = None,
    ) -> ChosenRounds:
        """Fit on the drawn rows of `head`, and watch the log loss on every row of `tail`.

        The rounds are the fewest within the recipe's tolerance of the best loss.
        """
        ...

    def fit(
        self, rows: Learnable, chosen: Flags, features: tuple[str, ...], recipe: Recipe, rounds: int
    ) -> Fitted:
        """Fit that many rounds on the drawn rows among the `chosen` rows."""
        ...
