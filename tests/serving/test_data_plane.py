"""The data plane without HTTP: what a decision is made of, and what it leaves behind."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from serving_kit import (
    BLOCK_ALL,
    DAY_US,
    MINUTE_US,
    REVIEW_ALL,
    START_US,
    Bench,
    deciding,
    logged_decisions,
    predicted,
)
from serving_kit import paid as payment

from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.before_subjects import BEFORE
from serving.data_plane import WARM_UPS, DataPlane
from serving.messages import BadInput, Conflict, Label, NoModel, ReadyVector, ScoredEvent
from serving.releases import Champion
from serving.store.base import BadStore, Position, StoreBusy
from serving.store.sqlite.pruning import BEFORE_FORGETTING, MOST_ROWS_A_COMMIT, ROWS_A_COMMIT, prune
from serving.store.sqlite.writing import SqliteServingStore


def test_a_replayed_stream_is_served_the_features_that_brute_force_finds(bench: Bench) -> None:
    rng = random.Random(1)
    seen: list[ScoredEvent] = []
    times = sorted(START_US + rng.randrange(20 * 24 * 60) * MINUTE_US for _ in range(150))
    for number, at_us in enumerate(times):
        t = payment(
            number, at_us, f"c{rng.randrange(3)}", f"m{rng.randrange(3)}", rng.randrange(100, 9_000) / 100
        )
        bench.predict(t)
        stored = bench.connection.execute(
            "SELECT features FROM decisions WHERE prediction_id = ?", (t.id,)
        ).fetchone()[0]
        served = json.loads(stored)
        mine = [s for s in seen if s.values["customer_id"] == t.values["customer_id"]]
        past = {
            days: [
                float(str(s.values["amount"])) for s in mine if at_us - days * DAY_US <= s.event_us < at_us
            ]
            for days in (1, 7, 30)
        }
        assert (served["num_txns_1d"], served["num_txns_7d"]) == (len(past[1]), len(past[7]))
        for days in (7, 30):
            mean = served[f"avg_txn_amount_{days}d"]
            assert (
                mean is None
                if not past[days]
                else mean == pytest.approx(statistics.fmean(past[days]), rel=1e-12)
            )
            assert served[f"max_txn_amount_{days}d"] == max(past[days], default=None)
        known = [
            s
            for s in seen
            if s.values["merchant_id"] == t.values["merchant_id"] and s.event_us + 7 * DAY_US < at_us
        ]
        floor = (at_us - 28 * DAY_US) // (60 * MINUTE_US) * 60 * MINUTE_US
        assert served["num_verdicts_28d"] == len([s for s in known if s.event_us + 7 * DAY_US >= floor])
        seen.append(t)


def test_a_decision_is_logged_with_the_vector_and_the_sequence_that_it_read(
    bench: Bench, champion: Champion
) -> None:
    answers = [bench.predict(payment(n)) for n in range(3)]
    rows = bench.decisions("2018-04-01").to_pylist()
    assert [r["seq"] for r in rows] == [1, 2, 3]
    assert [r["read_seq"] for r in rows] == [0, 1, 2]
    for row, answer in zip(rows, answers, strict=True):
        vector = json.loads(row["features"])
        assert tuple(vector) == champion.release.features
        assert (
            champion.scorer.score_one([math.nan if v is None else v for v in vector.values()])
            == row["fraud_score"]
            == answer.score
        )
        assert row["created_timestamp"] == row["event_timestamp"]
    assert bench.log.served_days(BEFORE, "transactions") == {"2018-04-01"}
    assert bench.decisions("2018-04-02").num_rows == 0


def test_a_decision_reads_the_versions_that_the_events_of_its_keys_made_before(
    bench: Bench, champion: Champion
) -> None:
    one, other, elsewhere = payment(0), payment(1, merchant="n"), payment(2, customer="d")
    for scored in (one, other, elsewhere):
        bench.predict(scored)
    bench.plane.add_labels([Label("t0", True, START_US + DAY_US)])
    bench.champion = deciding(champion, BLOCK_ALL)
    bench.predict(payment(3, START_US + 2 * DAY_US))
    bench.predict(ReadyVector(dict.fromkeys(champion.release.features, 1.0), "ready"))
    start = bench.connection.execute("SELECT began_us FROM online_epoch").fetchone()[0]

    def counted(texts: list[str | None]) -> list[dict[str, int] | None]:
        return [text and {k: v - start for k, v in json.loads(text).items()} for text in texts]  # type: ignore[misc]

    rows = bench.decisions("2018-04-01")
    customer, merchant = "transactions.customer_id", "transactions.merchant_id"
    verdicts = "verdicts.merchant_id"
    assert counted(rows["read_versions"].to_pylist()) == [
        {customer: 0, merchant: 0, verdicts: 0},
        {customer: 1, merchant: 0, verdicts: 0},
        {customer: 0, merchant: 1, verdicts: 1},
    ]
    assert counted(rows["made_versions"].to_pylist()) == [
        {customer: 1, merchant: 1, verdicts: 1},
        {customer: 2, merchant: 1, verdicts: 1},
        {customer: 1, merchant: 2, verdicts: 2},
    ]
    # The pending verdict goes, the fraud comes.
    assert counted(bench.labels("2018-04-02")["made_versions"].to_pylist()) == [{verdicts: 4}]
    blocked, ready = bench.decisions("2018-04-03").to_pylist()
    assert counted([blocked["read_versions"]]) == [{customer: 2, merchant: 2, verdicts: 4}]
    assert counted([blocked["made_versions"]]) == [{customer: 3, merchant: 3}], "a blocked payment is pending"
    assert (ready["read_versions"], ready["made_versions"]) == (None, None)


@pytest.mark.fault(13)
def test_the_same_id_gets_its_stored_answer_even_after_a_swap(bench: Bench, champion: Champion) -> None:
    first = bench.predict(payment(1))
    bench.champion = deciding(champion, BLOCK_ALL)
    again = bench.predict(payment(1))
    assert again == replace(first, repeated=True)
    assert bench.predict(payment(2)).decision == "BLOCK"


@pytest.mark.fault(13)
def test_the_same_id_with_another_payload_is_a_conflict_and_changes_nothing(bench: Bench) -> None:
    bench.predict(payment(1))
    with pytest.raises(Conflict, match="'t1'"):
        bench.predict(payment(1, amount=11))
    with pytest.raises(Conflict):
        bench.predict(ReadyVector({}, "t1"))
    assert bench.decisions("2018-04-01").num_rows == 1


@pytest.mark.fault(13)
def test_one_id_raced_by_threads_is_decided_once(bench: Bench) -> None:
    answers = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        for number in range(20):
            answers.append(bench.predict(payment(number)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.decisions("2018-04-01").num_rows == 20
    assert sum(not a.repeated for a in answers) == 20
    assert len({(a.prediction_id, a.score) for a in answers}) == 20


@pytest.mark.fault(13)
def test_two_connections_as_two_workers_decide_an_id_once(bench: Bench, champion: Champion) -> None:
    store = SqliteServingStore(bench.settings.database)
    other = DataPlane(bench.settings, store, lambda: champion, lambda: START_US)
    first = bench.predict(payment(1))
    assert predicted(other, payment(1)) == replace(first, repeated=True)
    predicted(other, payment(2))
    bench.predict(payment(3))
    assert bench.decisions("2018-04-01")["read_seq"].to_pylist() == [0, 1, 2]
    other.close()


@pytest.mark.fault(9, 24)
def test_a_locked_file_is_said_so_quickly_and_nothing_is_lost(bench: Bench) -> None:
    holder = sqlite3.connect(bench.settings.database, isolation_level=None)
    bench.predict(payment(1))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        bench.predict(payment(2))
    holder.execute("ROLLBACK")
    assert bench.predict(payment(2)).repeated is False
    holder.close()


def test_a_request_that_fails_half_way_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.predict(payment(1))
    monkeypatch.setattr("serving.contract.events.verdict_events", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.predict(payment(2))
    monkeypatch.undo()
    assert bench.predict(payment(3)).repeated is False
    assert bench.decisions("2018-04-01")["prediction_id"].to_pylist() == [
        "t1",
        "t3",
    ]
    assert json.loads(bench.decisions("2018-04-01")["features"][1].as_py())["num_txns_1d"] == 1


def test_a_first_request_that_fails_does_not_spoil_the_state(bench: Bench) -> None:
    with pytest.raises(BadInput):
        bench.predict(payment(1, amount=math.nan))
    assert bench.predict(payment(2)).repeated is False


def test_a_ready_vector_has_to_hold_exactly_the_features(bench: Bench, champion: Champion) -> None:
    vector = dict.fromkeys(champion.release.features, 1.0)
    shuffled = dict(reversed(vector.items()))
    assert bench.predict(ReadyVector(shuffled)).score == champion.scorer.score_one([1.0] * len(vector))
    with pytest.raises(BadInput, match="missing") as caught:
        bench.predict(ReadyVector({n: v for n, v in vector.items() if n != "is_night"}))
    assert caught.value.field == ("features", "is_night")
    with pytest.raises(BadInput, match="not a feature") as caught:
        bench.predict(ReadyVector({**vector, "other": 1.0}))
    assert caught.value.field == ("features", "other")


def test_reasons_come_with_every_decision_but_allow(bench: Bench, champion: Champion) -> None:
    assert bench.predict(payment(1)).reasons == ()
    bench.champion = deciding(champion, REVIEW_ALL)
    vector = dict(zip(champion.release.features, champion.release.golden[0][3], strict=True))
    answer = bench.predict(ReadyVector(vector, "v1"))
    assert answer.decision == "REVIEW"
    assert all(reason.feature in vector and reason.contribution > 0 for reason in answer.reasons)
    assert bench.predict(ReadyVector(vector, "v1")) == replace(answer, repeated=True)


@pytest.mark.fault(38)
def test_no_explanation_of_a_stopped_payment_calls_lightgbm(
    bench: Bench, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own explanation costs a millisecond. The reasons come from the tables of the release."""
    monkeypatch.setattr(champion.scorer.booster, "predict", lambda *a, **o: pytest.fail("called"))
    bench.champion = deciding(champion, BLOCK_ALL)
    answers = [bench.predict(payment(number)) for number in range(20)]
    assert {answer.decision for answer in answers} == {"BLOCK"}
    assert all(answer.reasons for answer in answers)


def test_without_a_model_nothing_is_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None)
    with pytest.raises(NoModel):
        bench.predict(payment(1))
    with pytest.raises(NoModel):
        bench.predict(ReadyVector({}))
    with pytest.raises(NoModel):
        bench.plane.add_labels([Label("t1", True, START_US)])
    bench.plane.close()


def test_an_event_older_than_the_lateness_limit_is_refused_and_a_late_one_is_not(bench: Bench) -> None:
    bench.predict(payment(1, START_US + 20 * DAY_US))
    assert bench.predict(payment(2, START_US + 14 * DAY_US)).repeated is False
    with pytest.raises(BadInput, match="more than 7 days before") as caught:
        bench.predict(payment(3, START_US + 12 * DAY_US))
    assert caught.value.kind == "late"


def test_a_payment_that_comes_late_is_known_only_after_every_decision_before_it(bench: Bench) -> None:
    bench.predict(payment(0))
    bench.predict(payment(5))
    bench.predict(payment(2))
    times = bench.connection.execute("SELECT created_us FROM decisions ORDER BY seq").fetchall()
    assert times[2][0] == times[1][0] + 1


def test_an_answer_says_how_old_each_view_is_and_whether_that_is_too_old(bench: Bench) -> None:
    first = bench.predict(payment(0))
    assert (set(first.freshness.values()), first.degraded) == ({None}, True)
    bench.predict(payment(1, START_US + 7 * DAY_US - 60_000_000))
    fresh = bench.predict(payment(2, START_US + 7 * DAY_US + 60_000_000))
    assert fresh.freshness == {"customer_stats": 120.0, "merchant_stats": 60.0, "merchant_activity": 120.0}
    assert not fresh.degraded
    stale = bench.predict(payment(3, START_US + 8 * DAY_US + 70_000_000))
    assert stale.degraded, "no payment for more than a day"
    assert bench.predict(payment(3, START_US + 8 * DAY_US + 70_000_000)) == replace(stale, repeated=True)
    rows = bench.decisions("2018-04-09").to_pylist()
    assert [(row["degraded"], json.loads(row["freshness"])) for row in rows] == [(True, stale.freshness)]


@pytest.mark.fault(39)
def test_events_that_no_window_reaches_are_forgotten_outside_of_payments(
    bench: Bench, champion: Champion
) -> None:
    def days() -> list[int]:
        return [
            (e - START_US) // DAY_US
            for (e,) in bench.connection.execute("SELECT event_us FROM online_transactions ORDER BY 1")
        ]

    paid_on = [0, 30, 51, 52, 80, 100, 125, 150, 151]
    state = SqliteOnlineState(bench.connection, champion.release.plan)
    forget = partial(prune, bench.connection, state, "transactions", champion.release.bounds.lateness_us)
    assert forget(agree=1) == 0  # there is no newest event yet
    for number, day in enumerate(paid_on):
        bench.turn(START_US + day * DAY_US)
        bench.predict(payment(number, START_US + day * DAY_US))
    assert days() == paid_on
    assert forget() == 0, "nine payments, where a hundred have to say what time it is"
    # 90 days and an hour of windows, seven of lateness and one more before day 151: the last hour of day 52,
    # which stays as a whole.
    assert forget(agree=1) > 0
    assert days() == [52, 80, 100, 125, 150, 151]
    assert forget(agree=1) == 0


def test_a_handful_of_payments_of_another_time_does_not_cost_the_history(
    bench: Bench, champion: Champion
) -> None:
    state, event = SqliteOnlineState(bench.connection, champion.release.plan), dict(payment(1).values)
    state.load("transactions", ((f"old{n}", event, START_US + n, START_US + n) for n in range(150)))
    state.load(
        "transactions",
        (
            (f"today{n}", event, START_US + 3_000 * DAY_US + n, START_US + 3_000 * DAY_US + n)
            for n in range(99)
        ),
    )
    bench.turn(START_US + 3_000 * DAY_US)
    forget = partial(prune, bench.connection, state, "transactions", champion.release.bounds.lateness_us)
    assert forget() == 0
    state.load(
        "transactions",
        [("today100", event, START_US + 3_000 * DAY_US + 100, START_US + 3_000 * DAY_US + 100)],
    )
    assert sum(iter(forget, 0)) == 150


@pytest.mark.fault(39)
def test_much_is_forgotten_a_few_rows_at_a_time(bench: Bench, champion: Champion) -> None:
    bench.predict(payment(0, START_US + 200 * DAY_US))
    state, event = SqliteOnlineState(bench.connection, champion.release.plan), dict(payment(1).values)
    many = 2 * MOST_ROWS_A_COMMIT + 1
    bench.connection.execute("BEGIN")
    state.load("transactions", ((f"old{n}", event, START_US + n, START_US + n) for n in range(many)))
    bench.connection.execute("COMMIT")
    lateness_us = champion.release.bounds.lateness_us
    forget = partial(prune, bench.connection, state, "transactions", lateness_us, agree=1)
    assert [forget() for _ in range(4)] == [MOST_ROWS_A_COMMIT, MOST_ROWS_A_COMMIT, 1, 0], "months behind"
    assert state.count("transactions") == 1
    noon = START_US + 201 * DAY_US // 2  # Of the last day that is forgotten.
    few = ROWS_A_COMMIT + 1
    state.load("transactions", ((f"less old{n}", event, noon + n, noon + n) for n in range(few)))
    assert [forget() for _ in range(3)] == [ROWS_A_COMMIT, 1, 0]


def test_the_housekeeping_forgets_and_ends_when_told(bench: Bench, champion: Champion) -> None:
    bench.predict(payment(0, START_US))
    bench.turn(START_US + 200 * DAY_US)
    for number in range(1, BEFORE_FORGETTING + 1):
        bench.predict(payment(number, START_US + 200 * DAY_US + number))
    upkeep = bench.upkeep()
    upkeep.start()
    try:
        deadline = time.monotonic() + 20
        while bench.connection.execute("SELECT 1 FROM online_transactions WHERE event_id = 't0'").fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        upkeep.stop()
    assert (upkeep.alive, upkeep.trouble) == (False, "")


def test_the_days_that_were_served_are_found_without_reading_every_row(
    bench: Bench, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (0, 0, 1, 3, 20):
        bench.turn(START_US + day * DAY_US)
        bench.predict(payment(bench.store.position().last, START_US + day * DAY_US))
    bench.plane.add_labels([Label("t0", True, START_US + 21 * DAY_US)])
    bench.predict(ReadyVector(dict.fromkeys(champion.release.features, 1.0), "on the 22nd, with no payment"))
    bench.connection.executemany(
        "INSERT INTO decisions SELECT seq + ?1, prediction_id || ?1, kind, event_us, created_us + ?1,"
        " customer_id, merchant_id, amount, is_declined, features, read_seq, read_versions,"
        " made_versions, fraud_score, decision, review_threshold, block_threshold, model_version, reasons,"
        " degraded, maturity_us, payload_digest, freshness FROM decisions WHERE seq = 1",
        ((1_000 + n,) for n in range(5_000)),
    )
    connect = sqlite3.connect
    steps: list[int] = []

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_progress_handler(lambda: steps.append(1), 100)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)
    events = partial(bench.log.served_days, BEFORE, "transactions")
    assert events() == {"2018-04-01", "2018-04-02", "2018-04-04", "2018-04-21"}
    assert events(["2018-04-02", "2018-04-03", "2018-04-22"]) == {"2018-04-02"}
    assert bench.log.served_days(BEFORE, "labels") == {"2018-04-22"}
    assert bench.log.served_days(BEFORE, "labels", []) == set()
    assert (
        len(steps) < 20
    )  # hundreds of the machine's instructions; a look at every row takes tens of thousands


def test_an_id_that_begins_like_another_and_goes_on_with_a_colon_is_another(bench: Bench) -> None:
    for transaction_id in ("t", "t:5"):
        bench.predict(replace(payment(0), id=transaction_id))
    bench.plane.add_labels([Label("t", True, START_US + DAY_US)])
    assert bench.verdicts("t") == [(START_US + DAY_US, True)]
    assert bench.verdicts("t:5") == [(START_US + 7 * DAY_US, False)]


def make_unreadable(database: Path) -> None:
    database.write_bytes(b"not a database at all" * 100)


def make_newer(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 9")


@pytest.mark.parametrize(
    ("spoil", "named"), [(make_unreadable, "cannot be read"), (make_newer, "schema version 9")]
)
def test_a_log_that_is_none_is_said_so(tmp_path: Path, spoil: Callable[[Path], None], named: str) -> None:
    spoil(tmp_path / "serving.db")
    with pytest.raises(BadStore, match=named):
        logged_decisions(tmp_path / "serving.db", "2018-04-01")


@pytest.mark.parametrize("clock", ["event", "wall"])
def test_a_warm_up_decides_as_a_request_does_and_keeps_nothing(
    tmp_path: Path, champion: Champion, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[object] = []
    score_one = champion.scorer.score_one
    monkeypatch.setattr(
        type(champion.scorer), "score_one", lambda self, row: scored.append(row) or score_one(row)
    )
    bench = Bench(tmp_path, champion, clock)
    bench.plane.warm_up(champion)
    assert len(scored) == WARM_UPS
    assert bench.store.position() == Position(0, 0, 0)
    assert bench.connection.execute("SELECT count(*) FROM decisions").fetchone() == (0,)
    assert bench.store.state.count("transactions") == bench.store.state.count("verdicts") == 0
    written: list[object] = []
    bench.plane.counts.write(written.append)
    assert written == []
    assert bench.predict(payment(1)).model_version == champion.version
    bench.plane.close()
