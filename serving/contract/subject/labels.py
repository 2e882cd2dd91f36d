"""What becomes known of an event, and what silence means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from serving.contract.subject.problems import BadSubject, check_column, check_name

Silence = Literal["negative", "unknown"]
WORD = re.compile(r"[^\W\d_]([\w '-]{0,39}\w)?")  # For sentences, tables and names of columns.


@dataclass(frozen=True)
class Labels:
    """The column of the label (`name`), and the words for both answers in reports.

    `silence` says what an event without a label is once `maturity` has passed. It is "negative" where only
    positives are reported, as banks report fraud. It is "unknown" where both answers arrive: an event without
    an answer then stays out of training and evaluation.

    `withheld_by` names the decisions after which no label comes unless a person looks, such as BLOCK.
    `positives` is the word for several positive events, such as frauds. Without it the reports join the word
    and the noun, as in "late parcels".
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
        check_column("Labels: name", self.name)
        check_name("Labels: dataset", self.dataset)
        for what in ("positive", "negative", "positives"):
            word = getattr(self, what)
            if not WORD.fullmatch(word) and (word or what != "positives"):
                raise BadSubject(f"Labels: {what}: {word!r} is no word; use letters, such as late")
        if self.silence not in ("negative", "unknown"):
            raise BadSubject(f"Labels: silence = {self.silence!r}; there are 'negative' and 'unknown'")
        if self.maturity <= timedelta(0):
            raise BadSubject(
                f"Labels: maturity = {self.maturity}: a label needs some time, such as timedelta(days=7)"
            )
