"""The words of a use case, for sentences, tables, pictures and stored columns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.contract.subject import Subject


@dataclass(frozen=True)
class Words:
    """Words for sentences and names for stored columns, from one subject.

    `worth` is "money" where a missed positive loses a value, and "cases" where positives are counted.
    """

    event: str
    events: str
    positive: str
    positives: str
    negative: str
    worth: str
    value: str  # the value column, such as "weight"; "cases" where there is none
    values: str
    inspected: str  # the key that a team inspects as a whole, such as "route"; empty for none

    @classmethod
    def of(cls, subject: Subject) -> Words:
        """The words of a subject."""
        event, labels, value = subject.event, subject.labels, subject.decisions.value
        noun = event.noun.replace("_", " ")
        return cls(
            event=noun,
            events=plural(noun),
            positive=labels.positive,
            positives=labels.positives or f"{labels.positive} {plural(noun)}",
            negative=labels.negative,
            worth="money" if value else "cases",
            value=value or "cases",
            values=plural(value.replace("_", " ")) if value else "cases",
            inspected=subject.inspected.word if subject.inspected else "",
        )

    @property
    def precision_at_k(self) -> str:
        """The stored name of the precision at k."""
        return f"{self.inspected}_precision_at_k"

    @property
    def saved(self) -> str:
        """The stored name of the value that reviews save: "money_saved" or "cases_saved"."""
        return f"{self.worth}_saved"

    def of_positives(self, what: str = "") -> str:
        """The stored name of a column about positives.

        Examples are "late_cases", and "caught_cases" for `what` = "caught".
        """
        return f"{what or as_column(self.positive)}_{self.worth}"


def plural(noun: str) -> str:
    """The plural of an English noun: "parcels", "deliveries", "boxes"."""
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return noun + ("es" if re.search("(s|x|z|ch|sh)$", noun) else "s")


def several_of_key(key: str) -> str:
    """The plural for a key: "vehicles" for `vehicle_id`, "routes" for `route`."""
    return plural(key.removesuffix("_id").replace("_", " "))


def as_column(words: str) -> str:
    """Words as the name of a column: "late_parcels" for "late parcels"."""
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
