"""The data plane without HTTP: what labels do to the verdicts that windows read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_kit import ALLOW_ALL, BLOCK_ALL, DAY_US, MINUTE_US, START_US, Bench, deciding
from serving_kit import paid as payment

from feature_repo.online.sqlite.state import SqliteOnlineState
from serving.contract.before_subjects import BEFORE
from serving.contract.verdicts import verdict_events
from serving.messages import Label
from serving.releases import Champion
from serving.store.sqlite.event_log import SqliteEventLog
from serving.store.sqlite.log_tables import create_tables


def test_the_pending_verdict_is_there_from_the_start_and_a_fraud_label_takes_its_place(bench: Bench) -> None:
    bench.predict(payment(0))
    assert bench.verdicts("t0") == [(START_US + 7 * DAY_US, False)]
    (receipt,) = bench.plane.add_labels([Label("t0", True, START_US + DAY_US)])
    assert (receipt.known, receipt.duplicate) == (True, False)
    assert bench.verdicts("t0") == [(START_US + DAY_US, True)]


def test_a_fraud_label_after_maturity_is_a_further_verdict(bench: Bench) -> None:
    bench.predict(payment(0))
    bench.plane.add_labels([Label("t0", True, START_US + 9 * DAY_US)])
    assert bench.verdicts("t0") == [(START_US + 7 * DAY_US, False), (START_US + 9 * DAY_US, True)]


def test_a_blocked_transaction_has_no_verdict_until_it_is_investigated(
    bench: Bench, champion: Champion
) -> None:
    bench.champion = deciding(champion, BLOCK_ALL)
    bench.predict(payment(0))
    assert bench.verdicts("t0") == []
    bench.plane.add_labels([Label("t0", False, START_US + 3 * DAY_US)])
    assert bench.verdicts("t0") == [(START_US + 3 * DAY_US, False)]


def test_the_same_label_again_changes_nothing(bench: Bench) -> None:
    bench.predict(payment(0))
    label = Label("t0", True, START_US + DAY_US)
    bench.plane.add_labels([label])
    (again,) = bench.plane.add_labels([label])
    assert again.duplicate
    assert bench.labels("2018-04-02").num_rows == 1
    assert bench.log.served_days(BEFORE, "labels") == {"2018-04-02"}


def test_a_label_that_comes_before_its_transaction_counts_from_the_transaction_on(bench: Bench) -> None:
    (receipt,) = bench.plane.add_labels([Label("t0", True, START_US - DAY_US)])
    assert not receipt.known
    assert bench.labels("2018-03-31")["known"].to_pylist() == [False]
    bench.predict(payment(0))
    assert bench.verdicts("t0") == [(START_US, True)]


def test_a_label_that_waits_in_the_lake_is_known_when_its_transaction_is_and_is_no_part_of_the_log(
    bench: Bench,
) -> None:
    create_tables(bench.connection, BEFORE)
    bench.connection.execute("DROP TABLE waiting_labels")
    bench.connection.execute("PRAGMA user_version = 3")
    create_tables(bench.connection, BEFORE)  # a file of the version before
    waiting = SqliteEventLog(bench.connection, BEFORE)
    waiting.keep_waiting(
        [("t0", START_US - 9 * DAY_US, True), ("t0", START_US - 8 * DAY_US, True), ("t1", START_US, True)],
    )
    bench.predict(payment(0))
    assert bench.verdicts("t0") == [(START_US, True)]
    assert bench.log.served_days(BEFORE, "labels") == set()
    waiting.keep_waiting([])
    bench.predict(payment(1))
    assert bench.verdicts("t1") == [(START_US + MINUTE_US + 7 * DAY_US, False)]


def test_two_labels_that_wait_contradict_each_other_and_the_later_one_counts(bench: Bench) -> None:
    bench.plane.add_labels([Label("t0", True, START_US - 2 * DAY_US), Label("t0", False, START_US - DAY_US)])
    bench.predict(payment(0))
    assert bench.verdicts("t0") == [(START_US, False)]
    bench.plane.add_labels([Label("t0", True, START_US)])
    assert bench.verdicts("t0") == [(START_US, True)], "at the very moment that the payment was learnt of"


def test_a_label_of_a_transaction_from_before_the_service_finds_it_in_the_state(
    bench: Bench, champion: Champion
) -> None:
    state = SqliteOnlineState(bench.connection, champion.release.plan)
    event = {
        "transaction_id": "old",
        "customer_id": "c",
        "merchant_id": "m",
        "amount": 12.5,
        "is_declined": False,
    }
    state.push("transactions", "old", event, START_US, START_US)
    state.push(
        "verdicts",
        f"old:{START_US + DAY_US}",
        {**event, "is_fraud": True},
        START_US + DAY_US,
        START_US + DAY_US,
    )
    (receipt,) = bench.plane.add_labels([Label("old", False, START_US + 4 * DAY_US)])
    assert receipt.known
    assert bench.verdicts("old") == [(START_US + DAY_US, True), (START_US + 4 * DAY_US, False)]
    (found,) = [e for e in state.find_of("verdicts", "old") if not e["is_fraud"]]
    assert (found["merchant_id"], found["amount"]) == ("m", 12.5)


@settings(max_examples=40)
@given(
    labels=st.lists(
        st.tuples(st.integers(0, 20), st.booleans()), max_size=5, unique_by=lambda label: label[0]
    ),
    blocked=st.booleans(),
)
def test_labels_in_any_order_leave_the_verdicts_of_the_one_rule(
    champion: Champion,
    tmp_path_factory: pytest.TempPathFactory,
    labels: list[tuple[int, bool]],
    blocked: bool,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("plane"), deciding(champion, BLOCK_ALL if blocked else ALLOW_ALL))
    bench.predict(payment(0))
    known: list[tuple[int, bool]] = []
    for day, is_fraud in labels:
        bench.plane.add_labels([Label("t0", is_fraud, START_US + day * DAY_US)])
        # One that comes late is known when it comes, each at a moment of its own.
        known.append((max(START_US + day * DAY_US, START_US, *(us + 1 for us, _ in known)), is_fraud))
    assert bench.verdicts("t0") == verdict_events(START_US, known, blocked, 7 * DAY_US)
    bench.plane.close()


def test_a_label_that_comes_late_does_not_change_what_was_known_before(bench: Bench) -> None:
    bench.predict(payment(0))
    bench.predict(payment(1, START_US + 5 * DAY_US))
    late = Label("t0", True, START_US + DAY_US)
    bench.plane.add_labels([late])
    assert bench.verdicts("t0") == [(START_US + 5 * DAY_US, True)]
    assert bench.labels("2018-04-06").num_rows == 1
    (again,) = bench.plane.add_labels([late])
    assert again.duplicate


def test_a_batch_of_contradicting_labels_that_is_sent_again_changes_nothing(bench: Bench) -> None:
    bench.predict(payment(0))
    batch = [Label("t0", True, START_US + DAY_US), Label("t0", False, START_US + 2 * DAY_US)]
    bench.plane.add_labels(batch)
    before = bench.verdicts("t0")
    assert [r.duplicate for r in bench.plane.add_labels(batch)] == [True, True]
    assert bench.verdicts("t0") == before
