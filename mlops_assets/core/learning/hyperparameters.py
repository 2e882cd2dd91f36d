"""How a model is made: everything that changes its bytes is here or in the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from mlops_assets.errors import PlatformError


class BadRecipe(PlatformError, ValueError):
    """A recipe that cannot be meant; the message names the value."""


@dataclass(frozen=True)
class Recipe:
    """The values of LightGBM's own parameters, and how rows and rounds are chosen."""

    learning_rate: Annotated[float, Gt(0)] = 0.05
    num_leaves: Annotated[int, Ge(2)] = 31
    # positives come by the hundred, not by the ten thousand: smaller leaves remember single keys
    min_data_in_leaf: Annotated[int, Ge(0)] = 50
    # and a leaf of some thousand plain negatives says nothing either
    min_sum_hessian_in_leaf: Annotated[float, Ge(0)] = 20.0
    # the windows of one aggregate say nearly the same: each tree makes do with some of them
    feature_fraction: Annotated[float, Gt(0), Le(1)] = 0.3
    lambda_l2: Annotated[float, Ge(0)] = 20.0
    # the largest values are few, and where exactly they begin to be positive matters
    max_bin: Annotated[int, Ge(2)] = 1023
    # of the negative rows, chosen by their ids and weighted: as good a ranking in a fifth of the time
    legitimate_share: float = 0.2
    max_rounds: int = 300
    patience: Annotated[int, Ge(1)] = 50  # rounds without a better log loss on the inner tail
    # above the best log loss; the fewest rounds within it rank as well, and the last ones fit the tail
    tolerance: float = 0.02
    # the last training days, at most half of them: rounds are chosen on days that come later, as the model
    # will be used
    tail_days: int = 7
    # part of the recipe: another number may sum in another order, and the bytes differ
    num_threads: Annotated[int, Ge(0)] = 2
    seed: int = 20180401

    def __post_init__(self) -> None:
        if not 0 < self.legitimate_share <= 1:
            raise BadRecipe(
                f"legitimate_share of {self.legitimate_share!r}: a share above 0, up to 1, is needed"
            )
        if not self.tolerance >= 0:
            raise BadRecipe(f"tolerance of {self.tolerance!r}: a number from 0 up is needed")
        if self.tail_days < 1 or self.max_rounds < 1:
            raise BadRecipe(
                f"tail_days of {self.tail_days} and max_rounds of {self.max_rounds}: one of each is the least"
            )
