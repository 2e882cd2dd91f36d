"""An answer: the decision as it is logged and as a client gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A feature that moved the score most; `contribution` in log-odds, above 0 towards a positive."""

    feature: str
    value: float | None
    contribution: float


@dataclass(frozen=True)
class Answer:
    """A decision and what it rests on.

    Scores from `threshold` up do not pass, and scores from `block_threshold` up are stopped. `freshness`
    holds, for each feature view, how many seconds before the event the view's newest event was, and None
    where there was none. `degraded`: a view is staler than its declaration allows. `repeated`: the answer is
    the stored one.
    """

    prediction_id: str
    score: float
    decision: str
    threshold: float
    block_threshold: float
    model_version: str
    reasons: tuple[Reason, ...]
    degraded: bool
    freshness: Mapping[str, float | None]
    repeated: bool = False
