"""The on-demand features of a transaction, as a plain function of columns."""

import math
from typing import Any

from feature_repo.fraud.context import DAY_US, HOUR_US, transaction_context

INPUTS = ("amount", "event_time_us", "avg_txn_amount_7d", "avg_txn_amount_30d", "std_txn_amount_30d", "merchant_avg_amount_30d")
SATURDAY_US = 2 * DAY_US  # 3 January 1970


def context(**changes: Any) -> dict[str, Any]:
    row = {
        "amount": 30.0,
        "event_time_us": SATURDAY_US + 5 * HOUR_US,
        "avg_txn_amount_7d": 10.0,
        "avg_txn_amount_30d": 20.0,
        "std_txn_amount_30d": 5.0,
        "merchant_avg_amount_30d": 60.0,
        **changes,
    }
    return {name: values[0] for name, values in transaction_context({name: [value] for name, value in row.items()}).items()}


def test_a_transaction_is_put_against_its_history() -> None:
    assert context() == {
        "txn_amount": 30.0,
        "amount_to_customer_avg_7d": 3.0,
        "amount_to_customer_avg_30d": 1.5,
        "amount_zscore_30d": 2.0,
        "amount_to_merchant_avg_30d": 0.5,
        "hour_of_day": 5,
        "is_weekend": 1,
        "is_night": 1,
    }


def test_a_new_customer_has_nulls_and_no_error() -> None:
    for nothing in (None, math.nan):
        new = context(avg_txn_amount_7d=nothing, avg_txn_amount_30d=nothing, std_txn_amount_30d=nothing, merchant_avg_amount_30d=nothing)
        ratios = ("amount_to_customer_avg_7d", "amount_to_customer_avg_30d", "amount_zscore_30d", "amount_to_merchant_avg_30d")
        assert [new[name] for name in ratios] == [None] * 4
        assert new["txn_amount"] == 30.0


def test_a_spread_or_an_average_of_zero_gives_null() -> None:
    flat = context(std_txn_amount_30d=0.0, merchant_avg_amount_30d=0)
    assert (flat["amount_zscore_30d"], flat["amount_to_merchant_avg_30d"]) == (None, None)


def test_an_absent_amount_gives_null() -> None:
    assert context(amount=None)["txn_amount"] is None
    assert context(amount=None)["amount_zscore_30d"] is None


def test_a_monday_noon_is_neither_weekend_nor_night() -> None:
    monday = context(event_time_us=SATURDAY_US + 2 * DAY_US + 12 * HOUR_US)
    assert (monday["hour_of_day"], monday["is_weekend"], monday["is_night"]) == (12, 0, 0)


def test_columns_keep_their_length() -> None:
    assert {len(column) for column in transaction_context({name: [] for name in INPUTS}).values()} == {0}
    assert {len(column) for column in transaction_context({name: [1, 2, 3] for name in INPUTS}).values()} == {3}
