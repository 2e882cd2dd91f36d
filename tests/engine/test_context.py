"""On-demand features as plain functions of a row: those of a transaction, and any event's own numbers."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from feature_repo.engine.plan import over_columns
from feature_repo.event.context import as_given
from feature_repo.fraud.context import DAY_US, HOUR_US, SECOND_US, transaction_context

SATURDAY_US = 2 * DAY_US  # 3 January 1970
HISTORY = {
    "avg_txn_amount_7d": 10.0,
    "avg_txn_amount_30d": 20.0,
    "avg_txn_amount_90d": 25.0,
    "std_txn_amount_90d": 5.0,
    **{f"max_txn_amount_{d}d": float(d) for d in (3, 7, 14, 30, 90)},
    "merchant_seconds_since_last_fraud": 6 * 3_600.0,
    "merchant_seconds_since_first_fraud": 2 * 86_400.0,
    "merchant_seconds_since_last_verdict": 3_600.0,
}
CONTEXT_INPUTS = ("amount", "event_time_us", *HISTORY)


def context(**changes: Any) -> dict[str, Any]:
    return transaction_context(
        {"amount": 30.0, "event_time_us": SATURDAY_US + 5 * HOUR_US, **HISTORY, **changes}
    )


def test_a_transaction_is_put_against_its_history() -> None:
    assert context() == {
        "txn_amount": 30.0,
        "amount_to_customer_avg_7d": 3.0,
        "amount_to_customer_avg_30d": 1.5,
        "amount_to_customer_avg_90d": 1.2,
        "amount_to_customer_max_30d": 1.0,
        "amount_to_customer_max_90d": 30 / 90,
        "amount_zscore_90d": 1.0,
        "customer_max_3d_to_avg_90d": 3 / 25,
        "customer_max_7d_to_avg_90d": 7 / 25,
        "customer_max_14d_to_avg_90d": 14 / 25,
        "customer_avg_7d_to_avg_90d": 0.4,
        "customer_std_to_avg_90d": 0.2,
        "days_since_last_fraud": 1,
        "days_since_first_fraud": 2,
        "seconds_from_last_fraud_to_verdict": 5 * 3_600.0,
        "is_night": 1,
    }


def test_a_new_customer_at_a_new_merchant_has_nulls_and_no_error() -> None:
    for nothing in (None, math.nan):
        new = context(**dict.fromkeys(HISTORY, nothing))
        assert {name for name, value in new.items() if value is not None} == {"txn_amount", "is_night"}


def test_a_spread_or_an_average_of_zero_gives_null() -> None:
    flat = context(std_txn_amount_90d=0.0, avg_txn_amount_30d=0)
    assert (flat["amount_zscore_90d"], flat["amount_to_customer_avg_30d"]) == (None, None)


def test_an_absent_amount_gives_null() -> None:
    assert context(amount=None)["txn_amount"] is None
    assert context(amount=None)["amount_zscore_90d"] is None


def test_a_noon_is_no_night() -> None:
    assert [
        context(event_time_us=SATURDAY_US + hour * HOUR_US)["is_night"] for hour in (0, 6, 7, 12, 23)
    ] == [1, 1, 0, 0, 0]


@given(st.integers(0, 10**16), st.integers(0, 100 * DAY_US))
def test_days_are_midnights_passed(at_us: int, before_us: int) -> None:
    passed = context(event_time_us=at_us, merchant_seconds_since_last_fraud=before_us / SECOND_US)[
        "days_since_last_fraud"
    ]
    assert passed == at_us // DAY_US - (at_us - before_us) // DAY_US


def test_columns_keep_their_length() -> None:
    for rows in (0, 3):
        columns = over_columns(transaction_context, {name: list(range(rows)) for name in CONTEXT_INPUTS})
        assert (columns.keys(), {len(column) for column in columns.values()}) == (context().keys(), {rows})


def test_an_event_as_given_has_its_numbers_its_flags_and_its_time() -> None:
    row = {"price": 12.5, "gift": True, "event_time_us": SATURDAY_US + 5 * HOUR_US}
    assert as_given(row) == {"event_price": 12.5, "event_gift": 1, "event_hour": 5, "event_weekday": 5}
    monday = as_given({"event_time_us": SATURDAY_US + 2 * DAY_US})
    assert monday == {"event_hour": 0, "event_weekday": 0}


def test_what_an_event_as_given_lacks_is_null() -> None:
    columns: dict[str, list[Any]] = {"price": [math.nan, None, 1.0], "event_time_us": [None, None, HOUR_US]}
    assert over_columns(as_given, columns) == {
        "event_price": [None, None, 1.0],
        "event_hour": [None, None, 1],
        "event_weekday": [None, None, 3],
    }
