"""The thresholds of the gate, each beside its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt


@dataclass(frozen=True)
class Gate:
    """The thresholds, each beside its reason."""

    # with fewer, the interval of average precision is wider than any honest gain, and a draw can come out
    # without any
    min_positives: Annotated[int, Ge(1)] = 50
    # one-sided: a better one that is not proven comes again tomorrow, a worse one costs money until someone
    # sees it
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    # of average precision, at that confidence: any proven gain is worth a swap, which costs nothing
    min_gain: float = 0.0
    # of what the reference saves at the same reviews: a better ranking must not come from small values alone
    max_money_loss_share: Annotated[float, Ge(0)] = 0.02
    # with fewer, a slice swings by more than `max_slice_loss` from one week to the next, and no loss of it is
    # proven
    min_slice_positives: Annotated[int, Ge(1)] = 30
    # of average precision, proven: for a gain on the whole some events may lose a little, not this much
    max_slice_loss: Annotated[float, Ge(0)] = 0.05
    # relative, scores off by a factor of 1.5: the policy is made of probabilities, and people read them as
    # such
    max_calibration_error: Annotated[float, Gt(0)] = 0.5
    # rare events are 0.1 to 1 % of all: beyond this the labels are wrong (30 % of them flipped gives 30 %)
    max_positive_share: Annotated[float, Gt(0), Le(1)] = 0.15
    # values do not move so between trainings; units do (cents for euros: 100)
    max_value_factor: Annotated[float, Gt(1)] = 5.0
    allow_dirty: bool = False  # true where nobody has to rebuild a version: a demonstration, a test
    # person: what the gate lets pass waits until somebody promotes it
    approval: Literal["automatic", "person"] = "automatic"
