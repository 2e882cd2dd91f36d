"""The thresholds that a candidate has to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt


@dataclass(frozen=True)
class Gate:
    """The thresholds of the gate, each with its reason."""

    # With fewer positives the interval of average precision is wider than any real gain, and a resample can
    # have no positive at all.
    min_positives: Annotated[int, Ge(1)] = 50
    # One-sided. A better candidate without proof comes again tomorrow. A worse one costs money until somebody
    # notices.
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    # Of average precision, at that confidence. A swap costs nothing, so any proven gain is worth one.
    min_gain: float = 0.0
    # Of what the reference saves with the same reviews. A better ranking must not come from small values
    # alone.
    max_money_loss_share: Annotated[float, Ge(0)] = 0.02
    # With fewer positives a slice changes by more than `max_slice_loss` from week to week, which proves no
    # loss.
    min_slice_positives: Annotated[int, Ge(1)] = 30
    # Of average precision, proven. A gain on the whole justifies a small loss on some events, but no larger
    # one.
    max_slice_loss: Annotated[float, Ge(0)] = 0.05
    # Relative; scores are off by a factor of 1.5. The policy and its readers take scores as probabilities.
    max_calibration_error: Annotated[float, Gt(0)] = 0.5
    # Rare events are 0.1 to 1 % of all. A larger share means wrong labels: 30 % of flipped labels give 30 %.
    max_positive_share: Annotated[float, Gt(0), Le(1)] = 0.15
    # Values do not change by such a factor between trainings. Units do: cents for euros give 100.
    max_value_factor: Annotated[float, Gt(1)] = 5.0
    allow_dirty: bool = False  # True where nobody has to rebuild a version: in a demonstration or a test.
    # "person": a candidate that passes the gate waits until a person promotes it.
    approval: Literal["automatic", "person"] = "automatic"
