"""Card fraud as the machinery sees it: the declarations of the reference use case."""

from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.use_cases.fraud.payments import PAYMENT, REPORT
from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig
from serving.contract.subject import Bands, Costs, Decisions, Inspected, Known

FRAUD = UseCase(
    name="fraud",
    package=__package__,
    description="Card transactions, scored for fraud while the customer waits.",
    owner="team:fraud-ml",
    declarations="feature_repo.fraud",
    feature_service="fraud_v1",
    score="fraud_score",
    event=PAYMENT,
    labels=REPORT,
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
    views=(
        FeatureView(
            "customer_stats",
            "transactions",
            "How much and how often a customer pays, over 1 to 90 days before each transaction.",
        ),
        FeatureView(
            "merchant_stats",
            "verdicts",
            "What was known of fraud at the merchant: verdicts count from when they became known.",
        ),
        FeatureView(
            "merchant_activity",
            "transactions",
            "How busy the merchant was, over 1 to 30 days before each transaction.",
        ),
    ),
    # Windows of up to a week: longer ones move by themselves while a young history fills, and calendar
    # features do every weekend.
    drift_columns=(
        "txn_amount",
        "amount_to_customer_avg_7d",
        "avg_txn_amount_7d",
        "max_txn_amount_3d",
        "num_txns_1d",
        "num_txns_7d",
        "num_declines_7d",
        "merchant_num_txns_1d",
    ),
    ranges={
        **{f"fraud_rate_{d}d": (0.0, 1.0) for d in (3, 7, 28, 90)},
        "txn_amount": "amount",
        "is_night": (0.0, 1.0),
        "num_txns_7d": (0.0, 1e6),
        "customer_seconds_since_last_txn": (0.0, 90 * 86_400.0),
        # The window begins at a full hour.
        "merchant_seconds_since_first_fraud": (0.0, 35 * 86_400.0 + 3_600.0),
    },
    sources={"simulator": (SimulatorConfig, BankSource)},
)
