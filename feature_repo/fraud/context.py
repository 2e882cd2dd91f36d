"""Features that need the scored transaction: one function of a row, for training and for a single request."""

from collections.abc import Mapping
from typing import Any

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
LAST_NIGHT_HOUR = 6  # Night is 0:00 to 6:59, as in the handbook of fraud detection


def transaction_context(row: Mapping[str, Any]) -> dict[str, float | int | None]:
    """An absent amount or history gives null, and so does a division by zero. Days and hours are UTC.

    Where a fraud is known a fixed number of days after the payment, merchants that were robbed on one day
    look alike in calendar days, all day long.
    """
    amount, at_us = row["amount"], row["event_time_us"]
    usual, spread, lately = row["avg_txn_amount_90d"], row["std_txn_amount_90d"], row["avg_txn_amount_7d"]
    last, first = row["merchant_seconds_since_last_fraud"], row["merchant_seconds_since_first_fraud"]
    return {
        "txn_amount": None if amount is None or amount != amount else float(amount),
        "amount_to_customer_avg_7d": _ratio(amount, lately),
        "amount_to_customer_avg_30d": _ratio(amount, row["avg_txn_amount_30d"]),
        "amount_to_customer_avg_90d": _ratio(amount, usual),
        "amount_to_customer_max_30d": _ratio(amount, row["max_txn_amount_30d"]),
        "amount_to_customer_max_90d": _ratio(amount, row["max_txn_amount_90d"]),
        "amount_zscore_90d": _ratio(_difference(amount, usual), spread),
        "customer_max_3d_to_avg_90d": _ratio(row["max_txn_amount_3d"], usual),
        "customer_max_7d_to_avg_90d": _ratio(row["max_txn_amount_7d"], usual),
        "customer_max_14d_to_avg_90d": _ratio(row["max_txn_amount_14d"], usual),
        "customer_avg_7d_to_avg_90d": _ratio(lately, usual),
        "customer_std_to_avg_90d": _ratio(spread, usual),
        "days_since_last_fraud": _days(at_us, last),
        "days_since_first_fraud": _days(at_us, first),
        "seconds_from_last_fraud_to_verdict": _difference(last, row["merchant_seconds_since_last_verdict"]),
        "is_night": None if at_us is None else int(at_us // HOUR_US % 24 <= LAST_NIGHT_HOUR),
    }


# Only NaN differs from itself.


def _ratio(a: Any, b: Any) -> float | None:
    return None if a is None or not b or a != a or b != b else a / b  # `not b`: null or zero


def _difference(a: Any, b: Any) -> float | None:
    return None if a is None or b is None or a != a or b != b else a - b


def _days(at_us: Any, seconds: Any) -> int | None:
    """Midnights between a moment and one `seconds` before it."""
    if at_us is None or seconds is None or seconds != seconds:
        return None
    return int(at_us // DAY_US - (at_us - round(seconds * SECOND_US)) // DAY_US)
