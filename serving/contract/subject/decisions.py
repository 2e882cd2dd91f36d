"""What is decided on an event, and what each decision costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.contract.subject.problems import BadSubject, check_once


@dataclass(frozen=True)
class Costs:
    """Costs of an event's outcomes, in `Decisions.unit`, or in cases where there is no unit.

    `review` is the cost of one event that a person looks at. `missed_share` is the share of an event's value
    that is lost where a positive passes. `insult` is the cost of a negative that is stopped. `BadSubject` for
    a cost that is negative or no number.
    """

    review: float
    missed_share: float = 1.0
    insult: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (
            ("review", self.review),
            ("missed_share", self.missed_share),
            ("insult", self.insult),
        ):
            if not 0 <= value < float("inf"):
                raise BadSubject(f"Costs: {name} = {value!r}: a number from 0 up")


@dataclass(frozen=True)
class Decisions:
    """One decision that lets pass, one that has a person look, optionally one that stops.

    `value` names the Number of the event that a missed positive loses, and `unit` its unit, such as a
    currency. Without them quality is counted in cases. `BadSubject` for a name that cannot be used.
    """

    passes: str
    looks: str
    stops: str | None = None
    value: str | None = None
    unit: str = ""
    costs: Costs | None = None

    def __post_init__(self) -> None:
        for name in self:
            if not (name.isascii() and name.replace("_", "").isalnum() and name.isupper()):
                raise BadSubject(
                    f"Decisions: {name!r} is no name of a decision; use capitals and _, such as REVIEW"
                )
        check_once("Decisions", self)

    def __iter__(self) -> Iterator[str]:
        """The names, from the mildest to the strictest."""
        yield self.passes
        yield self.looks
        if self.stops is not None:
            yield self.stops
