"""Many rows are answered as if they had been sent one after the other, and committed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_kit import DAY_US, MINUTE_US, REVIEW_ALL, START_US, Bench, count_from_zero, deciding, paid

from serving.contract.records import Answer
from serving.contract.verdicts import verdict_events
from serving.messages import BadInput, Conflict, NoModel, PlaneError, ReadyVector, ScoredEvent
from serving.releases import Champion

Row = ScoredEvent | ReadyVector
LOG = "SELECT * FROM decisions ORDER BY seq"
STATE = "SELECT event_id, event_us, created_us FROM online_{} ORDER BY event_id"


def one_by_one(bench: Bench, rows: list[Row]) -> list[Answer | PlaneError]:
    outcomes: list[Answer | PlaneError] = []
    for row in rows:
        try:
            if isinstance(row, ReadyVector):
                outcomes.append(bench.plane.predict_features(row.features, row.prediction_id))
            else:
                outcomes.append(bench.plane.predict_event(row))
        except PlaneError as error:
            outcomes.append(error)
    return outcomes


def told(outcomes: Sequence[Answer | Exception]) -> list[object]:
    return [(type(one), str(one)) if isinstance(one, Exception) else one for one in outcomes]


def left(bench: Bench) -> list[object]:
    queries = [LOG, *(STATE.format(stream) for stream in ("transactions", "verdicts"))]
    return [bench.connection.execute(query).fetchall() for query in (*queries, "SELECT * FROM sequence")]


events = st.builds(
    paid,
    number=st.integers(0, 4),
    at_us=st.sampled_from([START_US, START_US + MINUTE_US, START_US + 20 * DAY_US, START_US - 20 * DAY_US]),
    customer=st.sampled_from(["c", "d"]),
    amount=st.sampled_from([10.0, 20.0, -1.0, math.nan]),
)
ready = st.tuples(st.sampled_from(["whole", "another", "empty"]), st.sampled_from(["v1", "v2", "t1"]))


@settings(max_examples=30, deadline=None)
@given(drawn=st.lists(events | ready, min_size=1, max_size=8))
def test_rows_have_the_outcomes_and_leave_the_log_and_the_state_of_one_after_the_other(
    champion: Champion, tmp_path_factory: pytest.TempPathFactory, drawn: list[ScoredEvent | tuple[str, str]]
) -> None:
    champion = deciding(champion, REVIEW_ALL)
    full = dict.fromkeys(champion.release.features, 1.0)
    vectors: dict[str, dict[str, float]] = {"whole": full, "another": {**full, "is_night": 0.0}, "empty": {}}
    rows = [row if isinstance(row, ScoredEvent) else ReadyVector(vectors[row[0]], row[1]) for row in drawn]
    many, single = (Bench(tmp_path_factory.mktemp("plane"), champion) for _ in range(2))
    for one in (many, single):
        count_from_zero(one.settings.database)
    assert told(many.plane.predict_many(rows)) == told(one_by_one(single, rows))
    assert left(many) == left(single)
    many.plane.close()
    single.plane.close()


def test_each_row_has_its_own_outcome_and_a_refused_row_leaves_nothing(bench: Bench) -> None:
    rows: list[Row] = [paid(0), paid(0), paid(0, amount=11.0), paid(1, amount=-1.0), ReadyVector({}), paid(2)]
    outcomes = bench.plane.predict_many(rows)
    assert [type(one) for one in outcomes] == [Answer, Answer, Conflict, BadInput, BadInput, Answer]
    ids = bench.connection.execute("SELECT seq, prediction_id FROM decisions ORDER BY seq").fetchall()
    assert ids == [(1, "t0"), (2, "t2")]


def test_many_rows_are_one_commit(bench: Bench) -> None:
    commits: list[str] = []
    bench.plane.predict_event(paid(0))
    bench.connection.set_trace_callback(lambda statement: commits.append(statement))
    bench.plane.predict_many([paid(number) for number in range(1, 21)])
    bench.connection.set_trace_callback(None)
    assert [statement for statement in commits if statement.startswith(("BEGIN", "COMMIT"))] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


def failing_verdicts(number: int) -> Callable[..., list[tuple[int, bool]]]:
    """Verdicts as they are made, until a fault of the service at the event of this number."""
    calls = count()

    def verdicts(*arguments: Any) -> list[tuple[int, bool]]:
        if next(calls) == number:
            raise ZeroDivisionError
        return verdict_events(*arguments)

    return verdicts


def test_a_fault_of_the_service_is_of_its_row_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.contract.events.verdict_events", failing_verdicts(1))
    outcomes = bench.plane.predict_many([paid(0), paid(1), paid(2)])
    monkeypatch.undo()
    assert [type(one) for one in outcomes] == [Answer, ZeroDivisionError, Answer]
    ids = bench.connection.execute("SELECT seq, prediction_id FROM decisions ORDER BY seq").fetchall()
    assert ids == [(1, "t0"), (2, "t2")]
    assert bench.connection.execute("SELECT event_id FROM online_transactions").fetchall() == [
        ("t0",),
        ("t2",),
    ]
    assert isinstance(bench.plane.predict_many([paid(1)])[0], Answer)


def test_without_a_model_nothing_is_answered_and_no_row_is_nothing(tmp_path: Path, bench: Bench) -> None:
    assert bench.plane.predict_many([]) == []
    empty = Bench(tmp_path / "empty", None)
    with pytest.raises(NoModel):
        empty.plane.predict_many([paid(0)])
    empty.plane.close()
