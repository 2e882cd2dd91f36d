"""Many rows are answered as if they had been sent one after the other, and committed once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from row_kit import Drawn, Row, drawn_rows, left, rows_of, told
from serving_kit import REVIEW_ALL, Bench, count_from_zero, deciding, paid

from serving.contract.records import Answer
from serving.contract.scorers.lightgbm import Matrix, Scorer
from serving.contract.verdicts import verdict_events
from serving.messages import BadInput, Conflict, NoModel, ReadyVector
from serving.releases import Champion
from serving.store.base import Position


@settings(max_examples=30, deadline=None)
@given(drawn=drawn_rows(8))
def test_rows_have_the_outcomes_and_leave_the_log_and_the_state_of_one_after_the_other(
    champion: Champion, tmp_path_factory: pytest.TempPathFactory, drawn: list[Drawn]
) -> None:
    champion = deciding(champion, REVIEW_ALL)
    rows = rows_of(champion, drawn)
    many, single = (Bench(tmp_path_factory.mktemp("plane"), champion) for _ in range(2))
    for one in (many, single):
        count_from_zero(one.settings.database)
    one_by_one = [single.plane.predict_many([row])[0] for row in rows]
    assert told(many.plane.predict_many(rows)) == told(one_by_one)
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
    bench.predict(paid(0))
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


class Picky(Scorer):
    """Cannot score, or cannot explain, a vector with this value."""

    def __init__(self, scorer: Scorer, unscored: float = -1.0, unexplained: float = -1.0) -> None:
        super().__init__(scorer.booster.model_to_string(), scorer.calibrator)
        self._unscored, self._unexplained = unscored, unexplained

    def score(self, matrix: Matrix) -> Matrix:
        if (matrix == self._unscored).any():
            raise ZeroDivisionError
        return super().score(matrix)

    def score_one(self, values: Sequence[float]) -> float:
        return float(self.score(np.array([values]))[0])

    def contributions(self, matrix: Matrix) -> Matrix:
        if (matrix == self._unexplained).any():
            raise ZeroDivisionError
        return super().contributions(matrix)


@pytest.mark.parametrize("picky", [{"unscored": 77.0}, {"unexplained": 77.0}])
@pytest.mark.parametrize("kind", ["vector", "event"])
def test_what_the_model_cannot_score_or_explain_is_of_its_row_alone(
    tmp_path: Path, champion: Champion, picky: dict[str, float], kind: str
) -> None:
    scorer = champion.scorer
    assert isinstance(scorer, Scorer)
    champion = replace(deciding(champion, REVIEW_ALL), scorer=Picky(scorer, **picky))
    bench = Bench(tmp_path, champion)
    rows = [
        vector(champion, number, amount) if kind == "vector" else paid(number, amount=amount)
        for number, amount in enumerate([5.0, 77.0, 6.0])
    ]
    outcomes = bench.plane.predict_many(rows)
    assert [type(one) for one in outcomes] == [Answer, ZeroDivisionError, Answer]
    ids = bench.connection.execute("SELECT seq, prediction_id FROM decisions ORDER BY seq").fetchall()
    assert ids == [(1, "t0"), (2, "t2")]
    counted: list[Any] = []
    bench.plane.counts.write(counted.append)
    assert counted == [{("2", "scored"): 2, ("2", "alarms"): 2, ("2", "errors"): 1}]
    bench.plane.close()


def test_conflicts_within_a_commit_do_not_begin_it_again(bench: Bench) -> None:
    statements: list[str] = []
    bench.predict(paid(20))
    bench.connection.set_trace_callback(statements.append)
    rows = [paid(number, amount=amount) for number in range(20) for amount in (5.0, 6.0, 5.0)]
    outcomes = bench.plane.predict_many(rows)
    bench.connection.set_trace_callback(None)
    assert [type(one) for one in outcomes] == [Answer, Conflict, Answer] * 20
    assert [one.repeated for one in outcomes if isinstance(one, Answer)] == [False, True] * 20
    assert outcomes[2] == replace(outcomes[0], repeated=True)  # type: ignore[type-var]
    assert statements.count("BEGIN IMMEDIATE") == 1


def test_a_version_that_fails_at_a_row_is_counted_once_whatever_else_the_commit_holds(
    tmp_path: Path, champion: Champion
) -> None:
    scorer = champion.scorer
    assert isinstance(scorer, Scorer)
    bench = Bench(tmp_path, replace(deciding(champion, REVIEW_ALL), scorer=Picky(scorer, unscored=77.0)))
    rows = [vector(champion, 0, 77.0), paid(1), paid(2, amount=77.0), vector(champion, 3, 77.0), paid(1)]
    outcomes = bench.plane.predict_many(rows)
    assert [type(one).__name__ for one in outcomes] == [
        "ZeroDivisionError", "Answer", "ZeroDivisionError", "ZeroDivisionError", "Answer",
    ]  # fmt: skip
    counted: list[Any] = []
    bench.plane.counts.write(counted.append)
    assert counted == [{("2", "scored"): 1, ("2", "alarms"): 1, ("2", "errors"): 3}]
    bench.plane.close()


def test_what_fails_for_all_rows_and_for_none_alone_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("serving.deciding.open_decisions.reasons_of", fails)
    with pytest.raises(MemoryError):
        bench.plane.predict_many([paid(0), paid(1), paid(1), paid(2)])
    monkeypatch.undo()
    assert bench.store.position() == Position(0, 0, 0)
    assert bench.connection.execute("SELECT count(*) FROM decisions").fetchone() == (0,)
    assert bench.connection.execute("SELECT count(*) FROM online_transactions").fetchone() == (0,)
    assert not bench.predict(paid(1)).repeated


def vector(champion: Champion, number: int, amount: float) -> ReadyVector:
    features = dict.fromkeys(champion.release.features, 1.0)
    return ReadyVector({**features, "txn_amount": amount}, f"t{number}")


def test_an_id_that_the_service_gives_follows_those_of_before(bench: Bench, champion: Champion) -> None:
    rows = [ReadyVector(dict.fromkeys(champion.release.features, 1.0)) for _ in range(3)]
    given = [bench.plane.predict_many([row])[0] for row in rows]
    ids = [one.prediction_id for one in given if isinstance(one, Answer)]
    moments = [uuid.UUID(one).int >> 80 for one in ids]
    assert len(set(ids)) == 3
    assert moments == sorted(moments)
    assert {uuid.UUID(one).version for one in ids} == {7}
