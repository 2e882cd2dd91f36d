"""What training and tuning ask of a model family, so that they know no library."""

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
    """Rows as a learner takes them.

    `drawn`: every positive row, and the negative rows that the recipe's share takes.
    """

    matrix: Matrix  # [rows, features]; null is NaN
    flags: Flags
    drawn: Flags


@dataclass(frozen=True)
class Range:
    """Where a value is searched. `log`: the step from 1 to 2 is worth that from 10 to 20."""

    low: float
    high: float
    log: bool = True
    whole: bool = False


class Fitted(Protocol):
    """One fit."""

    @property
    def text(self) -> str:
        """The model as text; equal fits give equal texts."""
        ...

    def margins(self, matrix: Matrix, rounds: int | None = None) -> Scores:
        """The log-odds of each row before calibration; after so many rounds, or after all."""
        ...

    def gains(self) -> Scores:
        """How much each feature brought, in the order of the features, in a unit of the family's own."""
        ...


@dataclass(frozen=True)
class ChosenRounds:
    """A fit that watched later days, the number of rounds found on them, and the best log loss there."""

    fitted: Fitted
    rounds: int
    loss: float


class Learner(Protocol):
    """Fits of a recipe. Equal rows, recipe and rounds give equal bytes."""

    @property
    def space(self) -> Mapping[str, Range]:
        """The recipe's values that a search chooses, by name."""
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
        """Fit so many rounds on the `chosen` rows that were drawn."""
        ...
