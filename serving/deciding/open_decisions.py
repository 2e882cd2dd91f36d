"""The decisions of an open commit. They are explained together, and go on record together, at its end.

An event is scored at once, because what it does to the state follows from its decision. Ready-made vectors
are scored together as a matrix.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from feature_repo.online.base import Versions
from serving.contract.bundle import as_row
from serving.contract.outcome import Vector, outcome_of, reasons_of
from serving.contract.policy import decide
from serving.contract.records import Answer
from serving.deciding.scoring import is_degraded
from serving.releases import Champion
from serving.store.base import DecisionRow, ServingStore
from serving.store.version_counts import VersionCounts


class RowFailed(Exception):
    """The row of this number failed after it was taken into the commit.

    The commit has to be undone, and may begin again without the row. `by_version`: the version could not
    score or explain the row.
    """

    def __init__(self, number: int, error: Exception, by_version: bool = False) -> None:
        super().__init__(number, error)
        self.number, self.error, self.by_version = number, error, by_version


@dataclass(slots=True)
class OpenDecision:
    """A decision that is not on record yet. See `DecisionRow` for what it holds.

    `number` is the number of its row in the commit. `seconds` of the processor were spent on the vector and
    the score; a vector that is to be scored has no `score` yet.
    """

    number: int
    seq: int
    prediction_id: str
    kind: str
    event_us: int
    created_us: int
    values: Sequence[object] | None
    vector: Vector
    digest: bytes
    freshness: Mapping[str, float | None]
    score: float | None = None
    decision: str = ""
    seconds: float = 0.0
    read: Versions | None = None
    made: Versions | None = None
    answer: Answer | None = None


@dataclass(frozen=True)
class Repeat:
    """The same request again in the commit that decides on it."""

    of: OpenDecision


class OpenDecisions:
    """What one commit decides, under one champion."""

    def __init__(self, store: ServingStore, counts: VersionCounts) -> None:
        self._store, self._counts = store, counts
        self._taken: dict[str, OpenDecision] = {}  # All of the commit, by id.
        self._unscored: set[int] = set()  # The numbers of the rows at which the version failed.

    def begin(self) -> None:
        """At the beginning of a commit. Whatever became of the one before, it is over."""
        self._taken.clear()
        self._unscored.clear()

    def find(self, prediction_id: str) -> OpenDecision | None:
        """The decision on an id; None where the commit has none."""
        return self._taken.get(prediction_id)

    def add(self, decision: OpenDecision) -> OpenDecision:
        """Take a decision in. It gets its answer when it goes on record."""
        self._taken[decision.prediction_id] = decision
        return decision

    def failed(self, number: int) -> None:
        """The version cannot score the row of this number."""
        self._unscored.add(number)

    def record(self, champion: Champion) -> None:
        """Put on record what was taken in. `RowFailed` where the version cannot score or explain a row."""
        if not self._taken:
            return
        these = list(self._taken.values())
        try:
            _score(champion, [one for one in these if one.score is None])
            _answer(champion, these)
        except Exception as error:
            raise self._failed_row(champion, these) or error from None
        self._store.add_decisions(map(_row, these, repeat(champion.maturity_us)))

    def count(self, champion: Champion) -> None:
        """After a commit: count its decisions and its failures for their version."""
        for _ in self._unscored:
            self._counts.failed(champion.version)
        passes = champion.release.subject.decisions.passes
        for one in self._taken.values():
            self._counts.scored(champion.version, one.decision != passes, one.seconds)

    def _failed_row(self, champion: Champion, these: Sequence[OpenDecision]) -> RowFailed | None:
        """The row that fails alone, too."""
        for one in these:
            try:
                outcome_of(champion.release, champion.scorer, one.vector)
            except Exception as error:
                return RowFailed(one.number, error, by_version=True)
        return None


def _score(champion: Champion, these: Sequence[OpenDecision]) -> None:
    if not these:
        return
    release = champion.release
    began = time.thread_time()  # The processor's time: a version is not slow because the machine is busy.
    rows = [as_row(one.vector.values()) for one in these]
    # To the bit the same. A matrix of one row costs four times as much.
    scorer = champion.scorer
    scores = scorer.score(np.array(rows)).tolist() if len(rows) > 1 else [scorer.score_one(rows[0])]
    for one, score in zip(these, scores, strict=True):
        one.score, one.decision = score, decide(score, release.policy, release.subject.decisions)
    each = (time.thread_time() - began) / len(these)
    for one in these:
        one.seconds += each


def _answer(champion: Champion, these: Sequence[OpenDecision]) -> None:
    release, version = champion.release, champion.version
    review, block, passes = release.policy.review, release.policy.block, release.subject.decisions.passes
    explained = [one for one in these if one.decision != passes]
    told = iter(reasons_of(champion.scorer, [one.vector for one in explained]))
    for one in these:
        assert one.score is not None
        one.answer = Answer(
            one.prediction_id,
            one.score,
            one.decision,
            review,
            block,
            version,
            () if one.decision == passes else next(told),
            is_degraded(release.plan, one.freshness),
            one.freshness,
        )


def _row(one: OpenDecision, maturity_us: int) -> DecisionRow:
    assert one.answer is not None
    return DecisionRow(
        one.seq,
        one.kind,
        one.event_us,
        one.created_us,
        one.values,
        one.vector,
        one.answer,
        maturity_us,
        one.digest,
        one.read,
        one.made,
    )
