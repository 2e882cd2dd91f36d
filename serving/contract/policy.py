"""From a score to a decision.

Evaluation, service and replay compare a score with thresholds here, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.contract.subject import Decisions
from serving.errors import ServingError

Decision = str  # A name of the use case's `Decisions`.


class BadPolicy(ServingError, ValueError):
    """Thresholds that cannot be meant: not numbers, outside 0 to 1, or in the wrong order."""

    def __init__(self, review: float, block: float) -> None:
        self.review, self.block = review, block
        super().__init__(
            f"a policy needs 0 <= review <= block, both numbers: review={review!r}, block={block!r}"
        )


@dataclass(frozen=True)
class Policy:
    """Scores from `block` up are stopped. Lower scores from `review` up are looked at by a person.

    A threshold above 1 means never. `BadPolicy` where `review` is above `block`, below 0, or no number.
    """

    review: float
    block: float

    def __post_init__(self) -> None:
        if not 0 <= self.review <= self.block < float("inf"):
            raise BadPolicy(self.review, self.block)


def decide(score: float, policy: Policy, decisions: Decisions) -> Decision:
    """The decision for a calibrated score, by its name in `decisions`.

    A score that is not a number is never let through in silence: it raises `ValueError`.
    """
    if score >= policy.block:
        return decisions.stops or decisions.looks
    if score >= policy.review:
        return decisions.looks
    if score != score:
        raise ValueError("the score is not a number")
    return decisions.passes
