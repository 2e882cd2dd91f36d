"""What a release makes of a vector: score, decision and reasons. The service and a replay both ask here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from serving.contract.bundle import Release, as_row
from serving.contract.policy import Decision, decide
from serving.contract.records import Reason
from serving.contract.scorers.base import Scorer

REASONS = 3  # An analyst reads no more.
DIGITS = 6  # of a reason's contribution

Vector = Mapping[str, float | None]


class Outcome(NamedTuple):
    """The calibrated score of a vector, the decision, and the reasons; none for a decision that passes."""

    score: float
    decision: Decision
    reasons: tuple[Reason, ...]


def outcome_of(release: Release, scorer: Scorer, vector: Vector) -> Outcome:
    """The outcome of a vector that is in the model's order.

    `ValueError` for a vector of another width, and for a score that is not a number.
    """
    score = scorer.score_one(as_row(vector.values()))
    decision = decide(score, release.policy, release.subject.decisions)
    passes = decision == release.subject.decisions.passes
    return Outcome(score, decision, () if passes else reasons_of(scorer, [vector])[0])


def reasons_of(scorer: Scorer, vectors: Sequence[Vector]) -> list[tuple[Reason, ...]]:
    """For each vector, the features that pushed the score up most, the strongest first; at most `REASONS`."""
    if not vectors:
        return []
    rows = scorer.contributions(np.array([as_row(vector.values()) for vector in vectors])).tolist()
    return [_strongest(row, vector) for row, vector in zip(rows, vectors, strict=True)]


def _strongest(contributions: Sequence[float], vector: Vector) -> tuple[Reason, ...]:
    ranked = sorted(zip(contributions, vector.items(), strict=True), key=lambda pair: -pair[0])
    return tuple(
        Reason(name, value, round(contribution, DIGITS))
        for contribution, (name, value) in ranked[:REASONS]
        if contribution > 0
    )
