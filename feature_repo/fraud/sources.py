"""The streams that features are made from: events in the lake, and the way to push newer events.

The engine reads these tags of a source:

- `scale.<column>`: the number of decimals that a column is exact to (0 for whole numbers and booleans).
- `event_id`: the columns that together identify an event.
- `keys`: the ids that views may have as their key.
- `nullable`: the keys that a pushed event may lack.
- `stale_after_hours`: how long a stream may be silent before answers that rest on it count as degraded.
"""

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat

transactions = FileSource(
    name="transactions",
    path="lake://transactions",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    tags={
        "event_id": "transaction_id",
        "keys": "customer_id,merchant_id",
        "scale.amount": "2",
        "scale.is_declined": "0",
        "stale_after_hours": "24",
    },
    description="Accepted card transactions, one row each.",
)

verdicts = FileSource(
    name="verdicts",
    path="lake://verdicts",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    # A contradiction is a second verdict on the same transaction, so only the two columns together name one.
    tags={
        "event_id": "transaction_id,event_timestamp",
        "keys": "customer_id,merchant_id",
        "scale.amount": "2",
        "scale.is_fraud": "0",
        "stale_after_hours": "48",
    },
    description="What became known about transactions, at the time it became known.",
)

transactions_push = PushSource(name="transactions_push", batch_source=transactions)
verdicts_push = PushSource(name="verdicts_push", batch_source=verdicts)
