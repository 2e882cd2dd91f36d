"""What decisions cost, in the unit of the value column, or in cases where there is no such column."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mlops_assets.errors import PlatformError
from serving.contract.subject import Subject


class BadCosts(PlatformError, ValueError):
    """A cost that is no cost, or that nobody gives; the message names it."""


@dataclass(frozen=True)
class GivenCosts:
    """`[costs]` of a configuration, in the unit of the decisions. None: the use case's own figure.

    The risk analyst owns these figures.
    """

    missed_share: float | None = None  # of an event's value, lost where a positive passes
    review_cost: float | None = None
    insult_cost: float | None = None  # of stopping a negative
    # what the team gets through in a day; the handbook's precision@100 assumes the same
    reviews_per_day: int = 100

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Costs:
    """What decisions cost, in the unit of the value column, or in cases."""

    missed_share: float = 1.0
    review_cost: float = 3.0
    insult_cost: float = 30.0
    reviews_per_day: int = 100

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, subject: Subject, given: GivenCosts) -> Costs:
        """The costs that count: those of the configuration, the use case's where it gives none.

        Raises `BadCosts` where neither says what a decision costs.
        """
        own = subject.decisions.costs
        defaults = {
            "missed_share": own and own.missed_share,
            "review_cost": own and own.review,
            "insult_cost": own and own.insult,
        }
        chosen = {
            name: default if getattr(given, name) is None else getattr(given, name)
            for name, default in defaults.items()
        }
        if missing := [name for name, value in chosen.items() if value is None]:
            raise BadCosts(
                f"the use case {subject.name!r} declares no costs, and [costs] has no {missing[0]}; give it"
                " there, or declare `Costs` in the decisions of the use case"
            )
        return cls(reviews_per_day=given.reviews_per_day, **chosen)  # type: ignore[arg-type]

    @property
    def block_from(self) -> float:
        """The probability from which stopping costs less than a review: (1 - p) * insult < review.

        Above 1 means never.
        """
        return 0.0 if self.insult_cost <= self.review_cost else 1 - self.review_cost / self.insult_cost


def _check(costs: Costs | GivenCosts) -> None:
    for field in fields(costs):
        value = getattr(costs, field.name)
        if value is not None and (not math.isfinite(value) or value < 0):
            raise BadCosts(f"{field.name} of {value!r}: a number from 0 up is needed")
