"""Features that need the scored transaction itself: one plain function on columns, used for training and for a single request alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
LAST_NIGHT_HOUR = 6  # as in the handbook of fraud detection: night is 0:00 to 6:59

Column = list[float | int | None]


def transaction_context(inputs: Mapping[str, Sequence[Any]]) -> dict[str, Column]:
    """Columns in, columns of the same length out. An absent amount or history gives null, and so does a division by zero. Days and hours are UTC.

    Where a fraud is known a fixed number of days after the payment, merchants that were robbed on one day look alike in calendar days, all day long.
    """
    amounts, times, usual = inputs["amount"], inputs["event_time_us"], inputs["avg_txn_amount_90d"]
    last, first, verdict = (inputs[f"merchant_seconds_since_{what}"] for what in ("last_fraud", "first_fraud", "last_verdict"))
    return {
        "txn_amount": [_number(a) for a in amounts],
        **{f"amount_to_customer_avg_{d}d": _ratios(amounts, inputs[f"avg_txn_amount_{d}d"]) for d in (7, 30, 90)},
        **{f"amount_to_customer_max_{d}d": _ratios(amounts, inputs[f"max_txn_amount_{d}d"]) for d in (30, 90)},
        "amount_zscore_90d": _ratios(map(_difference, amounts, usual), inputs["std_txn_amount_90d"]),
        **{f"customer_max_{d}d_to_avg_90d": _ratios(inputs[f"max_txn_amount_{d}d"], usual) for d in (3, 7, 14)},
        "customer_avg_7d_to_avg_90d": _ratios(inputs["avg_txn_amount_7d"], usual),
        "customer_std_to_avg_90d": _ratios(inputs["std_txn_amount_90d"], usual),
        "days_since_last_fraud": list(map(_days, times, last)),
        "days_since_first_fraud": list(map(_days, times, first)),
        "seconds_from_last_fraud_to_verdict": list(map(_difference, last, verdict)),
        "is_night": [None if t is None else int(t // HOUR_US % 24 <= LAST_NIGHT_HOUR) for t in times],
    }


# NaN is the one value that differs from itself.


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _difference(a: Any, b: Any) -> float | None:
    return None if a is None or b is None or a != a or b != b else a - b


def _days(at_us: Any, seconds: Any) -> int | None:
    """Midnights between a moment and one `seconds` before it."""
    if at_us is None or seconds is None or seconds != seconds:
        return None
    return int(at_us // DAY_US - (at_us - round(seconds * SECOND_US)) // DAY_US)


def _ratios(numerators: Iterable[Any], denominators: Sequence[Any]) -> Column:
    # `not b` is null or zero.
    return [None if a is None or not b or a != a or b != b else a / b for a, b in zip(numerators, denominators, strict=True)]
