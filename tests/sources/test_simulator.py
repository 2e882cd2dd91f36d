"""The simulated bank: the same for the same seed, day by day as in a range, and its misfortunes on their
days.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from payment_feeds import (
    LABEL_KEY,
    LABEL_ORDER,
    RAW_LABELS,
    RAW_TRANSACTIONS,
    TRANSACTION_KEY,
    TRANSACTION_ORDER,
    labels_schema,
    transactions_schema,
)
from pydantic import ValidationError

from mlops_assets.core.data.base import SourceError, by_day
from mlops_assets.core.data.validation import validate
from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig

START = date(2026, 1, 1)


def day(n: int) -> date:
    return START + timedelta(days=n)


def bank(*scenarios: dict[str, object], **settings: object) -> BankSource:
    return BankSource(
        SimulatorConfig.model_validate(
            {"customers": 300, "merchants": 200, "scenarios": scenarios, **settings}
        )
    )


def scenario(kind: str, first: int, last: int, **more: object) -> dict[str, object]:
    return {"kind": kind, "from": day(first), "to": day(last), **more}


def test_a_day_alone_equals_the_same_day_within_a_range() -> None:
    made = bank(late_share=0.05)
    days = by_day(made.transactions(day(0), day(30)), day(0), day(30))
    labels = by_day(made.labels(day(0), day(30)), day(0), day(30))
    for n in (0, 3, 17, 30):
        alone = bank(late_share=0.05)
        assert by_day(alone.transactions(day(n), day(n)), day(n), day(n))[str(day(n))].equals(
            days[str(day(n))]
        )
        assert by_day(alone.labels(day(n), day(n)), day(n), day(n))[str(day(n))].equals(labels[str(day(n))])


def test_the_seed_decides_everything() -> None:
    assert bank(seed=3).transactions(day(2), day(4)).equals(bank(seed=3).transactions(day(2), day(4)))
    assert not bank(seed=3).transactions(day(2), day(4)).equals(bank(seed=4).transactions(day(2), day(4)))


def test_a_scenario_changes_no_other_day() -> None:
    plain, troubled = (
        bank(),
        bank(scenario("new_fraud_pattern", 10, 12), scenario("amount_inflation", 10, 12, factor=2.0)),
    )
    assert plain.transactions(day(0), day(9)).equals(troubled.transactions(day(0), day(9)))
    assert plain.truth(day(13), day(15)).equals(troubled.truth(day(13), day(15)))


def test_what_the_bank_delivers_is_accepted_whole() -> None:
    made = bank(late_share=0.05)
    seen: set[str] = set()
    for n in range(12):
        raw = by_day(made.transactions(day(n), day(n)), day(n), day(n))[str(day(n))].to_pandas()
        outcome = validate(
            raw, transactions_schema(day(n)), key=TRANSACTION_KEY, order=TRANSACTION_ORDER, known=seen
        )
        assert len(outcome.accepted) == outcome.received > 0
        seen |= set(outcome.accepted["transaction_id"])
        labels = by_day(made.labels(day(n), day(n)), day(n), day(n))[str(day(n))].to_pandas()
        told = validate(labels, labels_schema(day(n)), key=LABEL_KEY, order=LABEL_ORDER)
        assert set(told.accepted["transaction_id"]) <= seen
        assert len(told.accepted) == told.received


def test_raw_tables_have_their_declared_columns_even_without_rows() -> None:
    before = START - timedelta(days=9)
    assert bank().transactions(before, before).schema.equals(RAW_TRANSACTIONS)
    assert bank().labels(before, before).schema.equals(RAW_LABELS)
    assert bank().transactions(day(0), day(1)).schema.equals(RAW_TRANSACTIONS)


def test_by_default_one_to_three_payments_in_a_hundred_are_fraud_in_all_three_patterns() -> None:
    truth = BankSource(SimulatorConfig()).truth(day(0), day(59)).to_pandas()
    assert 0.012 < truth["is_fraud"].mean() < 0.025
    assert set(truth["pattern"]) == {"", "compromised_merchant", "stolen_card", "large_amount"}
    assert 1_100 < len(truth) / 60 < 1_500


def test_amount_inflation_multiplies_every_amount_of_its_days() -> None:
    plain, inflated = bank(late_share=0), bank(scenario("amount_inflation", 5, 6, factor=1.5), late_share=0)
    before, after = (source.transactions(day(4), day(7)).to_pandas() for source in (plain, inflated))
    ratio = (after["amount"] / before["amount"]).groupby(before["arrival_day"]).median()
    assert ratio.round(2).tolist() == [1.0, 1.5, 1.5, 1.0]


def test_cents_for_euros_multiplies_amounts_by_a_hundred_exactly() -> None:
    plain, cents = bank(late_share=0), bank(scenario("cents_for_euros", 5, 5), late_share=0)
    before, after = (source.transactions(day(5), day(5))["amount"].to_numpy() for source in (plain, cents))
    assert np.array_equal(after, np.round(before * 100))


def test_a_missing_feed_delivers_nothing_on_its_days_and_chargebacks_still_come() -> None:
    silent = bank(scenario("missing_feed", 5, 6))
    days = by_day(silent.transactions(day(4), day(7)), day(4), day(7))
    assert [rows.num_rows > 0 for rows in days.values()] == [True, False, False, True]
    assert silent.labels(day(0), day(40)).equals(bank().labels(day(0), day(40)))


def test_the_new_pattern_happens_only_on_its_days_and_by_its_factor() -> None:
    def cards(factor: float) -> pd.Series:
        truth = bank(scenario("new_fraud_pattern", 5, 14, factor=factor)).truth(day(0), day(19)).to_pandas()
        return truth.loc[truth["pattern"] == "card_testing", "event_timestamp"].dt.date.value_counts()

    assert set(cards(3.0).index) <= {day(n) for n in range(5, 15)}
    assert 1.5 * cards(1.0).sum() < cards(3.0).sum() < 6 * cards(1.0).sum()


def test_chargebacks_are_of_frauds_only_later_than_they_and_some_beyond_maturity() -> None:
    made = BankSource(SimulatorConfig())
    labels = made.labels(day(0), day(120)).to_pandas()
    told = labels.merge(made.truth(day(0), day(59)).to_pandas(), on="transaction_id", suffixes=("", "_true"))
    assert told["is_fraud"].all()
    assert told["is_fraud_true"].all()
    delay = (told["label_timestamp"] - told["event_timestamp"]).dt.total_seconds() / 86_400
    assert delay.min() > 0
    assert 0.01 < (delay > 7).mean() < 0.10


def test_late_rows_are_as_many_as_the_knob_says_and_come_within_three_days() -> None:
    rows = BankSource(SimulatorConfig(late_share=0.02)).transactions(day(0), day(29)).to_pandas()
    late = (rows["created_timestamp"] - rows["event_timestamp"]).dt.total_seconds() / 3_600
    assert 0.01 < (late > 0).mean() < 0.03
    assert late[late > 0].min() >= 2
    assert late.max() < 72
    assert rows["transaction_id"].is_unique


def test_an_investigation_tells_the_truth_of_what_was_not_allowed_within_hours() -> None:
    made = bank()
    rows = made.transactions(day(0), day(5))
    truth = made.truth(day(0), day(5)).to_pandas().set_index("transaction_id")
    ids = rows["transaction_id"].to_pylist()
    decisions = {one: ("ALLOW", "REVIEW", "BLOCK")[i % 3] for i, one in enumerate(ids[:-10])}
    found = made.investigations(rows, decisions).to_pandas()
    assert set(found["transaction_id"]) == {one for one, decision in decisions.items() if decision != "ALLOW"}
    assert found["is_fraud"].to_numpy().tolist() == truth.loc[found["transaction_id"], "is_fraud"].tolist()
    arrived = (
        rows.to_pandas()
        .set_index("transaction_id")
        .loc[found["transaction_id"], "created_timestamp"]
        .reset_index(drop=True)
    )
    assert (found["label_timestamp"] - arrived).dt.total_seconds().between(3_600, 12 * 3_600).all()


@pytest.mark.parametrize("foreign", ["X1", "T20260101", "T20251231" + "0000001", "T20260101" + "9999999"])
def test_an_investigation_of_a_foreign_transaction_names_it(foreign: str) -> None:
    with pytest.raises(SourceError, match=foreign):
        bank().investigations(pd.DataFrame({"transaction_id": [foreign]}), {foreign: "BLOCK"})


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_bank_works(n: int) -> None:
    made = bank(customers=n, merchants=n)
    assert made.transactions(day(0), day(20)).num_rows > 0


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"custommers": 3}, "custommers"),
        ({"customers": 0}, "customers"),
        ({"scenarios": [{"kind": "earthquake", "from": START, "to": START}]}, "kind"),
        ({"scenarios": [{"kind": "missing_feed", "from": day(2), "to": day(1)}]}, "ends"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(settings: dict[str, object], about: str) -> None:
    with pytest.raises(ValidationError, match=about):
        SimulatorConfig.model_validate(settings)
