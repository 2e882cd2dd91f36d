"""What decisions cost, in the unit of the value column, or in cases where there is no such column."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mlops_assets.errors import PlatformError
from serving.contract.subject import Subject


class BadCosts(PlatformError, ValueError):
    """A negative, infinite or missing cost. The message names it."""


@dataclass(frozen=True)
class GivenCosts:
    """The table `[costs]`, in the unit of the decisions. None stands for the figure of the use case.

    The risk analyst owns these figures.
    """

    missed_share: float | None = None  # the share of an event's value that a missed positive loses
    review_cost: float | None = None
    insult_cost: float | None = None  # of stopping a negative
    # The capacity of the team. The handbook's precision@100 assumes the same.
    reviews_per_day: int = 100

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class AppliedCosts:
    """The costs that count for decisions, in the unit of the value column, or in cases.

    Raises `BadCosts` for a cost that is negative or infinite.
    """

    missed_share: float = 1.0
    review_cost: float = 3.0
    insult_cost: float = 30.0
    reviews_per_day: int = 100

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, subject: Subject, given: GivenCosts) -> AppliedCosts:
        """The configured costs, with those of the use case where none are configured.

        Raises `BadCosts` where a cost is in neither.
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
                f"the use case {subject.name!r} declares no costs, and [costs] has no {missing[0]}; set it"
                " there, or declare `Costs` in the decisions of the use case"
            )
        return cls(reviews_per_day=given.reviews_per_day, **chosen)  # type: ignore[arg-type]

    @property
    def block_from(self) -> float:
        """The probability from which stopping costs less than a review: (1 - p) * insult < review.

        It is 0 where a stop never costs more than a review.
        """
        return 0.0 if self.insult_cost <= self.review_cost else 1 - self.review_cost / self.insult_cost


def _check(costs: AppliedCosts | GivenCosts) -> None:
    for field in fields(costs):
        value = getattr(costs, field.name)
        if value is not None and (not math.isfinite(value) or value < 0):
            raise BadCosts(f"{field.name} of {value!r}: a number from 0 up is needed")
