"""The budget of the search for a better recipe."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_assets.errors import PlatformError


class TuningError(PlatformError, ValueError):
    """An impossible search, or rows that do not allow one. The message names the problem."""


@dataclass(frozen=True)
class Tuning:
    """The budget and the folds of a search. A limit in seconds would give each machine another recipe.

    Raises `TuningError` for impossible numbers.
    """

    trials: int = 0  # The configured recipe is the first trial. With 0 there is no search.
    folds: int = 3  # A single week can be good by chance.
    fold_days: int = 7  # each weekday once

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise TuningError(f"trials of {self.trials}: a number from 0 up is needed")
        if self.folds < 1 or self.fold_days < 1:
            raise TuningError(
                f"folds of {self.folds} and fold_days of {self.fold_days}: each must be at least 1"
            )
