"""What is on record of a decision, and what a client is told of it."""

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

    Scores from `threshold` up do not pass, from `block_threshold` up they are stopped. `freshness` is, for
    each feature view, how many seconds before the event its newest event was (None: it has none). `degraded`
    says that one of them is staler than its declaration allows.
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
