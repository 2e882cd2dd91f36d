"""Rows for the data plane as a property draws them, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import strategies as st
from serving_kit import DAY_US, MINUTE_US, START_US, Bench, paid

from serving.contract.records import Answer
from serving.messages import ReadyVector, ScoredEvent
from serving.releases import Champion

Row = ScoredEvent | ReadyVector
Outcome = Answer | BaseException
Drawn = ScoredEvent | tuple[str, str]
TABLES = ("decisions", "sequence", "online_transactions", "online_verdicts")

_events = st.builds(
    paid,
    number=st.integers(0, 5),
    at_us=st.sampled_from([START_US, START_US + MINUTE_US, START_US + 20 * DAY_US, START_US - 20 * DAY_US]),
    customer=st.sampled_from(["c", "d"]),
    amount=st.sampled_from([10.0, 20.0, -1.0, math.nan]),
)
_ready = st.tuples(st.sampled_from(["whole", "another", "empty"]), st.sampled_from(["v1", "v2", "t1"]))


def drawn_rows(most: int) -> st.SearchStrategy[list[Drawn]]:
    """Up to so many rows for `rows_of`: some are refused, some repeat or contradict another."""
    return st.lists(_events | _ready, min_size=1, max_size=most)


def rows_of(champion: Champion, drawn: Sequence[Drawn]) -> list[Row]:
    full = dict.fromkeys(champion.release.features, 1.0)
    vectors: dict[str, dict[str, float]] = {"whole": full, "another": {**full, "is_night": 0.0}, "empty": {}}
    return [row if isinstance(row, ScoredEvent) else ReadyVector(vectors[row[0]], row[1]) for row in drawn]


def told(outcomes: Sequence[Outcome]) -> list[object]:
    """The answers, and of each error its type and text."""
    return [(type(one), str(one)) if isinstance(one, BaseException) else one for one in outcomes]


def left(bench: Bench) -> list[object]:
    """The rows of the log and of the state."""
    return [bench.connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]
