"""The recipe of a model. Only the recipe and the rows change the bytes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from mlops_assets.errors import PlatformError


class BadRecipe(PlatformError, ValueError):
    """A recipe with an impossible value. The message names it."""


@dataclass(frozen=True)
class Recipe:
    """Parameters of LightGBM, and the choice of rows and rounds."""

    learning_rate: Annotated[float, Gt(0)] = 0.05
    num_leaves: Annotated[int, Ge(2)] = 31
    # There are hundreds of positives, not ten thousands. Smaller leaves would memorize single keys.
    min_data_in_leaf: Annotated[int, Ge(0)] = 50
    # A leaf of some thousand typical negatives carries no information.
    min_sum_hessian_in_leaf: Annotated[float, Ge(0)] = 20.0
    # The windows of one aggregate are nearly equal. Some of them are enough for a tree.
    feature_fraction: Annotated[float, Gt(0), Le(1)] = 0.3
    lambda_l2: Annotated[float, Ge(0)] = 20.0
    # Large values are few, and the exact value from which events are positive matters.
    max_bin: Annotated[int, Ge(2)] = 1023
    # The share of negative rows, drawn by id and weighted. It ranks as well in a fifth of the time.
    legitimate_share: float = 0.2
    max_rounds: int = 300
    patience: Annotated[int, Ge(1)] = 50  # rounds without a better log loss on the inner tail
    # Relative to the best log loss. The fewest rounds within it rank as well. More rounds only fit the tail.
    tolerance: float = 0.02
    # The last training days, at most half of all. Rounds are chosen on later days, as the model also serves
    # on later days.
    tail_days: int = 7
    # Another number of threads can sum in another order, which changes the bytes.
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
                f"tail_days of {self.tail_days} and max_rounds of {self.max_rounds}: each must be at least 1"
            )
