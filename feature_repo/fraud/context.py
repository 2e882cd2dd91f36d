"""Features that need the scored transaction itself: one plain function on columns, used for training and for a single request alike."""

from collections.abc import Mapping, Sequence
from typing import Any

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LAST_NIGHT_HOUR = 6  # as in the handbook of fraud detection: night is 0:00 to 6:59
EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday

Column = list[float | int | None]


def transaction_context(inputs: Mapping[str, Sequence[Any]]) -> dict[str, Column]:
    """Columns in, columns of the same length out. An absent amount or history gives null, and so does a division by zero. Hours are UTC."""
    amounts, times = inputs["amount"], inputs["event_time_us"]
    hours = [None if t is None else t // HOUR_US % 24 for t in times]
    mean_30d = inputs["avg_txn_amount_30d"]
    return {
        "txn_amount": [_number(a) for a in amounts],
        "amount_to_customer_avg_7d": _ratios(amounts, inputs["avg_txn_amount_7d"]),
        "amount_to_customer_avg_30d": _ratios(amounts, mean_30d),
        "amount_zscore_30d": _ratios(map(_difference, amounts, mean_30d), inputs["std_txn_amount_30d"]),
        "amount_to_merchant_avg_30d": _ratios(amounts, inputs["merchant_avg_amount_30d"]),
        "hour_of_day": hours,
        "is_weekend": [None if t is None else int((t // DAY_US + EPOCH_WEEKDAY) % 7 >= 5) for t in times],
        "is_night": [None if h is None else int(h <= LAST_NIGHT_HOUR) for h in hours],
    }


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _difference(a: Any, b: Any) -> float | None:
    return None if a is None or b is None else a - b


def _ratios(numerators: Any, denominators: Sequence[Any]) -> Column:
    # NaN is the one value that differs from itself; `not b` is null or zero.
    return [None if a is None or not b or a != a or b != b else a / b for a, b in zip(numerators, denominators, strict=True)]
