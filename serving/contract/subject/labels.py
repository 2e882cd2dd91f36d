"""What becomes known of an event, and what silence means."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from serving.contract.subject.problems import BadSubject, check_name

Silence = Literal["negative", "unknown"]


@dataclass(frozen=True)
class Labels:
    """The column that says it (`name`), and the words for both answers in reports.

    `silence`: what an event without a label is once `maturity` has passed. "negative" where only positives
    are reported, as banks report fraud; "unknown" where both answers arrive, and an event that is never
    answered stays out of training and evaluation. `withheld_by` names the decisions after which no label
    comes by itself, such as BLOCK. `positives` is the word for several positive events, such as frauds; empty: the
    reports say "late parcels", of the word and the noun.
    """

    name: str
    positive: str
    negative: str
    silence: Silence
    maturity: timedelta
    dataset: str = "labels"
    positives: str = ""
    withheld_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("Labels: name", self.name)
        check_name("Labels: dataset", self.dataset)
        if self.silence not in ("negative", "unknown"):
            raise BadSubject(f"Labels: silence = {self.silence!r}; there are 'negative' and 'unknown'")
        if self.maturity <= timedelta(0):
            raise BadSubject(
                f"Labels: maturity = {self.maturity}: a label needs some time, such as timedelta(days=7)"
            )
