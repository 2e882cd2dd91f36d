"""What a card transaction and a label look like: the columns of raw tables, and the pandera schemas that an
accepted row satisfies.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED
from mlops_assets.core.data.parsing import TYPES, Kind
from serving.contract.bounds import Bounds
from serving.contract.subject import Number

if TYPE_CHECKING:
    from pandera.pandas import Check, DataFrameSchema, Hypothesis

TRANSACTION_KINDS: dict[str, Kind] = {
    "transaction_id": "id",
    "event_timestamp": "time",
    "created_timestamp": "time",
    "customer_id": "id",
    "merchant_id": "id",
    "amount": "number",
    "is_declined": "flag",
}
LABEL_KINDS: dict[str, Kind] = {"transaction_id": "id", "is_fraud": "flag", "label_timestamp": "time"}

TRANSACTIONS = pa.schema([(name, TYPES[kind]) for name, kind in TRANSACTION_KINDS.items()])
LABELS = pa.schema([(name, TYPES[kind]) for name, kind in LABEL_KINDS.items()])
RAW_TRANSACTIONS = TRANSACTIONS.append(pa.field(MALFORMED, pa.string())).append(
    pa.field(ARRIVAL_DAY, pa.date32())
)
RAW_LABELS = LABELS.append(pa.field(MALFORMED, pa.string())).append(pa.field(ARRIVAL_DAY, pa.date32()))

TRANSACTION_KEY, TRANSACTION_ORDER, TRANSACTION_PREFER = (
    ("transaction_id",),
    ("event_timestamp", "transaction_id"),
    ("created_timestamp",),
)
LABEL_KEY, LABEL_ORDER = (
    ("transaction_id", "is_fraud", "label_timestamp"),
    ("label_timestamp", "transaction_id", "is_fraud"),
)

DEFAULTS = Bounds()
AMOUNT = Number("amount", 0.0, 1_000_000.0)
FIRST_DAY = date(2000, 1, 1)  # before it is a clock that was never set


def transactions_schema(arrival_day: date | None = None, bounds: Bounds = DEFAULTS) -> DataFrameSchema:
    """Accepted transactions; with `arrival_day`, none of them happened, or was learnt of, after that day."""
    import pandera.pandas as pa

    lowest, highest = bounds.range_of(AMOUNT)
    return pa.DataFrameSchema(
        {
            "transaction_id": pa.Column(object),
            "event_timestamp": pa.Column("datetime64[us, UTC]", _time_checks(arrival_day)),
            "created_timestamp": pa.Column("datetime64[us, UTC]", _time_checks(arrival_day)),
            "customer_id": pa.Column(object),
            "merchant_id": pa.Column(object),
            "amount": pa.Column(
                float,
                [
                    pa.Check.ge(lowest, error=f"below {lowest:.15g}"),
                    pa.Check.le(highest, error=bounds.too_much(AMOUNT)),
                ],
            ),
            "is_declined": pa.Column(bool),
        },
        checks=pa.Check(_known_after_it_happened, error="created_timestamp: before event_timestamp"),
        strict=True,
    )


def labels_schema(arrival_day: date | None = None) -> DataFrameSchema:
    """Accepted labels.

    Several of one transaction are history, not an error: contradictions are for the verdicts to weigh.
    """
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {
            "transaction_id": pa.Column(object),
            "is_fraud": pa.Column(bool),
            "label_timestamp": pa.Column("datetime64[us, UTC]", _time_checks(arrival_day)),
        },
        strict=True,
    )


def _time_checks(arrival_day: date | None) -> list[Check | Hypothesis]:
    import pandera.pandas as pa

    checks: list[Check | Hypothesis] = [
        pa.Check.ge(pd.Timestamp(FIRST_DAY, tz="UTC"), error=f"before {FIRST_DAY}")
    ]
    if arrival_day is not None:
        checks.append(
            pa.Check.lt(
                pd.Timestamp(arrival_day + timedelta(days=1), tz="UTC"), error="after its day of arrival"
            )
        )
    return checks


def _known_after_it_happened(frame: pd.DataFrame) -> pd.Series:
    return frame["event_timestamp"] <= frame["created_timestamp"]
