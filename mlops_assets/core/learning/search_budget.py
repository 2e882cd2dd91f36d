"""How long the search for a better recipe may take."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_assets.errors import PlatformError


class TuningError(PlatformError, ValueError):
    """A search that cannot be meant, or rows that it cannot be made on; the message names what is wrong."""


@dataclass(frozen=True)
class Tuning:
    """How long to search, and on what.

    The budget is a number of trials: a limit in seconds would give every machine a recipe of its own.
    """

    trials: int = 0  # the configured recipe is the first trial; 0: the recipe is taken as it is
    folds: int = 3  # one week may be a lucky one
    fold_days: int = 7  # every weekday once

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise TuningError(f"trials of {self.trials}: a number from 0 up is needed")
        if self.folds < 1 or self.fold_days < 1:
            raise TuningError(
                f"folds of {self.folds} and fold_days of {self.fold_days}: one of each is the least"
            )
