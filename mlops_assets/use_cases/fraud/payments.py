"""What a payment is, and what becomes known of it."""

from datetime import timedelta

from mlops_assets.core.data.streams import event_stream, label_stream
from serving.contract.subject import Event, Flag, Key, Labels, Number

PAYMENT = Event(
    noun="transaction",
    dataset="transactions",
    id="transaction_id",
    keys=(Key("customer_id"), Key("merchant_id")),
    columns=(Number("amount", 0.0, 1_000_000.0), Flag("is_declined", default=False)),
    believable=("amount",),
)
REPORT = Labels(
    name="is_fraud",
    positive="fraud",
    positives="frauds",
    negative="legitimate",
    silence="negative",
    maturity=timedelta(days=7),
    withheld_by=("BLOCK",),
)

PAYMENTS, REPORTS = event_stream(PAYMENT), label_stream(PAYMENT, REPORT)
