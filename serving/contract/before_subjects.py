"""The use case of releases and homes that were made before a use case was a value.

Bundles up to format 3 and serving.db up to schema 4 name no columns. All of them are of card fraud, and the
service reads them with `BEFORE`. The vocabulary guard makes an exception for this file.
"""

from __future__ import annotations

from datetime import timedelta

from serving.contract.subject import (
    Bands,
    Costs,
    Decisions,
    Event,
    Flag,
    Inspected,
    Key,
    Known,
    Labels,
    Number,
    Subject,
)

BEFORE = Subject(
    name="fraud",
    score="fraud_score",
    event=Event(
        noun="transaction",
        dataset="transactions",
        id="transaction_id",
        keys=(Key("customer_id"), Key("merchant_id")),
        columns=(
            Number("amount", 0.0, 1_000_000.0),
            Flag(
                "is_declined",
                default=False,
                description=(
                    "The issuer's own refusal, a fact of the input; the service's BLOCK never sets it."
                ),
            ),
        ),
        believable=("amount",),
    ),
    labels=Labels(
        name="is_fraud",
        positive="fraud",
        positives="frauds",
        negative="legitimate",
        silence="negative",
        maturity=timedelta(days=7),
        withheld_by=("BLOCK",),
    ),
    decisions=Decisions(
        passes="ALLOW",
        looks="REVIEW",
        stops="BLOCK",
        value="amount",
        costs=Costs(review=3.0, missed_share=1.0, insult=30.0),
    ),
    slices=(
        Bands("amount", (10.0, 50.0, 100.0, 250.0)),
        Known("customer_id"),
        Known("merchant_id", positives=True),
    ),
    clusters=("customer_id", "merchant_id"),
    inspected=Inspected("customer_id", word="card"),
)
