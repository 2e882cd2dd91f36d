"""Features of the fraud case: aggregations of two streams, and features of the scored transaction."""

from datetime import timedelta
from typing import Any

from feast import Field, RequestSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from .entities import customer, merchant
from .sources import transactions_push, verdicts_push

WHOLE = {"count", "count_distinct"}
FLAGS = {"is_declined", "is_fraud"}


def over(days: tuple[int, ...], function: str, column: str, name: str) -> list[Aggregation]:
    """The same aggregation over several windows. `{}` in the name becomes the number of days."""
    return [
        Aggregation(column=column, function=function, time_window=timedelta(days=d), name=name.format(d))
        for d in days
    ]


def schema(key: str, aggregations: list[Aggregation]) -> list[Field]:
    """The key, then the features in the order of their declaration."""

    def whole(a: Aggregation) -> bool:
        return a.function in WHOLE or (a.function == "sum" and a.column in FLAGS)

    return [
        Field(name=key, dtype=String),
        *(Field(name=a.name, dtype=Int64 if whole(a) else Float64) for a in aggregations),
    ]


customer_aggregations = [
    *over((7, 30, 90), "avg", "amount", "avg_txn_amount_{}d"),
    *over((90,), "std", "amount", "std_txn_amount_{}d"),
    *over((3, 7, 14, 30, 90), "max", "amount", "max_txn_amount_{}d"),
    *over((1, 7), "count", "transaction_id", "num_txns_{}d"),
    *over((7,), "sum", "is_declined", "num_declines_{}d"),
    *over((90,), "seconds_since_last", "event_timestamp", "customer_seconds_since_last_txn"),
]

customer_stats = StreamFeatureView(
    name="customer_stats",
    entities=[customer],
    source=transactions_push,
    timestamp_field="event_timestamp",
    aggregations=customer_aggregations,
    schema=schema("customer_id", customer_aggregations),
    description=(
        "How much and how often a customer pays, to tell an unusual payment and a card that has begun to be"
        " used by somebody else."
    ),
)

verdict_aggregations = [
    *over((3, 7, 28, 90), "avg", "is_fraud", "fraud_rate_{}d"),
    *over((7, 28), "count", "transaction_id", "num_verdicts_{}d"),
    *over((7, 21, 35), "sum", "is_fraud", "num_frauds_{}d"),
    *over((90,), "seconds_since_last", "is_fraud", "merchant_seconds_since_last_fraud"),
    *over((35,), "seconds_since_first", "is_fraud", "merchant_seconds_since_first_fraud"),
    *over((90,), "seconds_since_last", "event_timestamp", "merchant_seconds_since_last_verdict"),
    *over((14,), "avg", "amount", "merchant_avg_verdict_amount_{}d"),
    *over((14, 30), "max", "amount", "merchant_max_verdict_amount_{}d"),
]

merchant_stats = StreamFeatureView(
    name="merchant_stats",
    entities=[merchant],
    source=verdicts_push,
    timestamp_field="event_timestamp",
    aggregations=verdict_aggregations,
    schema=schema("merchant_id", verdict_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description=(
        "What is known of fraud at a merchant: verdicts count when they become known, not when the payment"
        " was made."
    ),
)

activity_aggregations = over((1, 30), "count", "transaction_id", "merchant_num_txns_{}d")

merchant_activity = StreamFeatureView(
    name="merchant_activity",
    entities=[merchant],
    source=transactions_push,
    timestamp_field="event_timestamp",
    aggregations=activity_aggregations,
    schema=schema("merchant_id", activity_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description="How busy a merchant is.",
)

transaction_request = RequestSource(
    name="transaction_request",
    schema=[Field(name="amount", dtype=Float64), Field(name="event_time_us", dtype=Int64)],
    description=(
        "What the scored transaction itself says: its amount, and its time in microseconds since the epoch."
    ),
)


@on_demand_feature_view(
    name="transaction_context",
    sources=[
        transaction_request,
        customer_stats[
            [
                *(f"avg_txn_amount_{d}d" for d in (7, 30, 90)),
                "std_txn_amount_90d",
                *(f"max_txn_amount_{d}d" for d in (3, 7, 14, 30, 90)),
            ]
        ],
        merchant_stats[
            [f"merchant_seconds_since_{what}" for what in ("last_fraud", "first_fraud", "last_verdict")]
        ],
    ],
    schema=[
        Field(name="txn_amount", dtype=Float64),
        *(Field(name=f"amount_to_customer_avg_{d}d", dtype=Float64) for d in (7, 30, 90)),
        *(Field(name=f"amount_to_customer_max_{d}d", dtype=Float64) for d in (30, 90)),
        Field(name="amount_zscore_90d", dtype=Float64),
        *(Field(name=f"customer_max_{d}d_to_avg_90d", dtype=Float64) for d in (3, 7, 14)),
        Field(name="customer_avg_7d_to_avg_90d", dtype=Float64),
        Field(name="customer_std_to_avg_90d", dtype=Float64),
        Field(name="days_since_last_fraud", dtype=Int64),
        Field(name="days_since_first_fraud", dtype=Int64),
        Field(name="seconds_from_last_fraud_to_verdict", dtype=Float64),
        Field(name="is_night", dtype=Int64),
    ],
    mode="python",
    tags={"function": "feature_repo.fraud.context:transaction_context"},
    description=(
        "The transaction against the history of its customer, and a merchant's frauds in calendar days."
    ),
)
def transaction_context(inputs: dict[str, Any]) -> dict[str, Any]:
    # Feast keeps this source text and runs it without this module around it: the import has to be absolute,
    # and in here.
    from feature_repo.engine.plan import over_columns
    from feature_repo.fraud.context import transaction_context as of_row

    return over_columns(of_row, inputs)
