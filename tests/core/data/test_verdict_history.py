"""One rule for verdicts, told once for a single transaction and once for all of them: both say the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.data.verdict_history import latest_verdicts, verdicts_known
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.verdicts import verdict_events

HOUR = 3_600_000_000
DAY = 24 * HOUR
WEEK = 7 * DAY
EPOCH = pd.Timestamp("2026-03-01", tz="UTC")


@pytest.mark.parametrize(
    ("labels", "blocked", "verdicts"),
    [
        ([], False, [(WEEK, False)]),
        ([], True, []),
        ([(DAY, True)], False, [(DAY, True)]),
        ([(DAY, True)], True, [(DAY, True)]),
        ([(DAY, False)], True, [(DAY, False)]),
        ([(WEEK, True)], False, [(WEEK, True)]),
        ([(WEEK + 1, True)], False, [(WEEK, False), (WEEK + 1, True)]),
        ([(WEEK + 1, False)], False, [(WEEK, False)]),
        ([(DAY, True), (2 * DAY, True)], False, [(DAY, True)]),
        ([(2 * DAY, False), (DAY, True)], False, [(DAY, True), (2 * DAY, False)]),
        ([(DAY, False), (DAY, True)], False, [(DAY, False)]),
        ([(DAY, True), (DAY, False)], False, [(DAY, False)]),
        ([(-2 * DAY, False), (-DAY, True)], False, [(0, True)]),
        ([(-2 * DAY, True), (-DAY, False)], True, [(0, False)]),
        ([(-DAY, True), (0, False)], False, [(0, False)]),
        ([(-DAY, True)], False, [(0, True)]),
        (
            [(DAY, True), (8 * DAY, False), (9 * DAY, True)],
            False,
            [(DAY, True), (8 * DAY, False), (9 * DAY, True)],
        ),
    ],
)
def test_the_rule_for_one_transaction(
    labels: list[tuple[int, bool]], blocked: bool, verdicts: list[tuple[int, bool]]
) -> None:
    assert verdict_events(0, labels, blocked, WEEK) == verdicts


def test_nothing_is_known_of_a_transaction_before_the_platform_learnt_of_it() -> None:
    assert verdict_events(0, [(DAY, True)], False, WEEK, learnt_us=3 * DAY) == [(3 * DAY, True)]
    assert verdict_events(0, [], False, WEEK, learnt_us=9 * DAY) == [(9 * DAY, False)]
    assert verdict_events(0, [], False, WEEK, learnt_us=DAY) == [(WEEK, False)]


def times(offsets: list[int]) -> pd.Series:
    return pd.Series([EPOCH + pd.Timedelta(us, unit="us") for us in offsets], dtype="datetime64[us, UTC]")


def history(
    events: list[tuple[int, int]], said: list[tuple[int, int, bool]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    transactions = pd.DataFrame(
        {
            "transaction_id": [f"t{i}" for i in range(len(events))],
            "customer_id": "c",
            "merchant_id": [f"m{i % 2}" for i in range(len(events))],
            "event_timestamp": times([event for event, _ in events]),
            "created_timestamp": times([event + late for event, late in events]),
            "amount": [float(i) for i in range(len(events))],
        }
    )
    labels = pd.DataFrame(
        {
            "transaction_id": [f"t{i}" for i, _, _ in said],
            "is_fraud": pd.Series([fraud for _, _, fraud in said], dtype=bool),
            "label_timestamp": times([us for _, us, _ in said]),
        }
    )
    return transactions, labels


hours = st.integers(0, 12 * 24).map(lambda h: h * HOUR)
events_st = st.lists(st.tuples(hours, st.sampled_from([0, 0, HOUR, 8 * DAY])), min_size=1, max_size=8)
labels_st = st.lists(
    st.tuples(st.integers(0, 9), st.integers(-24, 20 * 24).map(lambda h: h * HOUR), st.booleans()),
    max_size=14,
)


@settings(max_examples=150)
@given(events_st, labels_st, st.sets(st.integers(0, 9)), st.sampled_from([0, 3 * DAY, WEEK]))
def test_all_at_once_equals_the_rule_applied_to_each(
    events: list[tuple[int, int]], said: list[tuple[int, int, bool]], blocked: set[int], maturity_us: int
) -> None:
    transactions, labels = history(events, said)
    expected = []
    for i, (event, late) in enumerate(events):
        own = [(us, fraud) for j, us, fraud in said if j == i]
        expected += [
            (known, f"t{i}", fraud)
            for known, fraud in verdict_events(event, own, i in blocked, maturity_us, event + late)
        ]
    found = verdicts_known(
        FRAUD,
        transactions,
        labels,
        {f"t{i}" for i in blocked},
        timedelta(microseconds=maturity_us),
        EPOCH - pd.Timedelta(days=9),
        EPOCH + pd.Timedelta(days=90),
    )
    got = [
        (int((known - EPOCH) // pd.Timedelta(1, unit="us")), one, bool(fraud))
        for known, one, fraud in zip(
            found["event_timestamp"], found["transaction_id"], found["is_fraud"], strict=True
        )
    ]
    assert got == sorted(expected, key=lambda verdict: (verdict[0], verdict[1], not verdict[2]))


@settings(max_examples=60)
@given(events_st, labels_st, st.sets(st.integers(0, 9)))
def test_day_by_day_gives_the_same_rows_as_the_whole(
    events: list[tuple[int, int]], said: list[tuple[int, int, bool]], blocked: set[int]
) -> None:
    """A day sees only what had arrived by its end, and that is enough."""
    transactions, labels = history(events, said)
    ids = {f"t{i}" for i in blocked}
    days = [EPOCH + pd.Timedelta(days=n) for n in range(30)]
    whole = verdicts_known(FRAUD, transactions, labels, ids, timedelta(days=7), days[0], days[-1])
    parts = []
    for start, end in pairwise(days):
        arrived = transactions[transactions["created_timestamp"] < end]
        parts.append(
            verdicts_known(
                FRAUD, arrived, labels[labels["label_timestamp"] < end], ids, timedelta(days=7), start, end
            )
        )
    assert pd.concat(parts, ignore_index=True).equals(whole)


@settings(max_examples=60)
@given(events_st, labels_st, st.integers(0, 25 * 24))
def test_the_latest_verdict_as_of_a_moment_is_the_last_one_before_it(
    events: list[tuple[int, int]], said: list[tuple[int, int, bool]], as_of_hours: int
) -> None:
    transactions, labels = history(events, said)
    verdicts = verdicts_known(
        FRAUD,
        transactions,
        labels,
        (),
        timedelta(days=7),
        EPOCH - pd.Timedelta(days=9),
        EPOCH + pd.Timedelta(days=90),
    )
    as_of = EPOCH + pd.Timedelta(hours=as_of_hours)
    latest = latest_verdicts(FRAUD, verdicts, as_of).set_index("transaction_id")
    for i, (event, late) in enumerate(events):
        known = [
            v
            for v in verdict_events(
                event, [(us, f) for j, us, f in said if j == i], False, WEEK, event + late
            )
            if v[0] < as_of_hours * HOUR
        ]
        assert (f"t{i}" in latest.index) == bool(known)
        if known:
            assert (latest.loc[f"t{i}", "known"], latest.loc[f"t{i}", "is_fraud"]) == (
                EPOCH + pd.Timedelta(known[-1][0], unit="us"),
                known[-1][1],
            )


def test_rows_are_those_of_the_verdicts_dataset() -> None:
    transactions, labels = history([(0, 0)], [(0, DAY, True), (5, DAY, True)])
    found = verdicts_known(
        FRAUD, transactions, labels, (), timedelta(days=7), EPOCH, EPOCH + pd.Timedelta(days=30)
    )
    assert found.columns.tolist() == [
        "transaction_id",
        "customer_id",
        "merchant_id",
        "transaction_timestamp",
        "event_timestamp",
        "created_timestamp",
        "is_fraud",
        "amount",
    ]
    assert found["created_timestamp"].equals(found["event_timestamp"])
    assert found["transaction_timestamp"].tolist() == [EPOCH]
    assert [str(found[c].dtype) for c in ("event_timestamp", "is_fraud", "amount")] == [
        "datetime64[us, UTC]",
        "bool",
        "float64",
    ]


def test_without_transactions_or_labels_there_are_no_verdicts_and_the_columns_stay() -> None:
    transactions, labels = history([(0, 0)], [(0, DAY, True)])
    none = verdicts_known(
        FRAUD,
        transactions.head(0),
        labels.head(0),
        (),
        timedelta(days=7),
        EPOCH,
        EPOCH + pd.Timedelta(days=30),
    )
    assert len(none) == 0
    assert str(none["event_timestamp"].dtype) == "datetime64[us, UTC]"
    assert latest_verdicts(FRAUD, none, EPOCH).columns.tolist() == ["transaction_id", "is_fraud", "known"]


def test_a_transaction_that_occurs_twice_is_named() -> None:
    transactions, labels = history([(0, 0)], [])
    with pytest.raises(ValueError, match="'t0' occurs more than once"):
        verdicts_known(FRAUD, pd.concat([transactions] * 2), labels, (), timedelta(days=7), EPOCH, EPOCH)


def test_where_silence_is_unknown_only_labels_are_verdicts() -> None:
    """An event that nobody answers never gets a verdict, however old it is."""
    asked = replace(FRAUD, labels=replace(FRAUD.labels, silence="unknown", withheld_by=()))
    events = pd.DataFrame(
        {
            "transaction_id": ["said", "silent"],
            "event_timestamp": [EPOCH, EPOCH],
            "created_timestamp": [EPOCH, EPOCH],
            "customer_id": "c",
            "merchant_id": "m",
            "amount": 1.0,
        }
    )
    said = pd.DataFrame(
        {
            "transaction_id": ["said"],
            "is_fraud": [False],
            "label_timestamp": [EPOCH + pd.Timedelta(days=20)],
        }
    )
    end = EPOCH + pd.Timedelta(days=60)
    found = verdicts_known(asked, events, said, (), timedelta(days=7), EPOCH, end)
    assert found[["transaction_id", "is_fraud"]].to_numpy().tolist() == [["said", False]]
    assert found["event_timestamp"].tolist() == [EPOCH + pd.Timedelta(days=20)]
    by_silence = verdicts_known(FRAUD, events, said, (), timedelta(days=7), EPOCH, end)
    assert set(by_silence["transaction_id"]) == {"said", "silent"}
