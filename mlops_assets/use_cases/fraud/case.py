"""Card fraud as the machinery sees it. Importing this is cheap; what is heavy is imported when
it is called.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from mlops_assets.core.config_tables import nearest, read_table
from mlops_assets.core.data.base import Source, SourceError
from mlops_assets.core.use_case import FeatureView, Table, UseCase
from mlops_assets.use_cases.fraud import schema
from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig
from mlops_assets.use_cases.fraud.source import FilesConfig, FileSource
from serving.contract.bounds import Bounds
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
)


def open_source(values: Mapping[str, Any], base: Path) -> Source:
    """The source that `[source]` of the configuration describes; a relative path starts at `base`, the
    configuration file's folder.

    `SourceError` has all that is wrong with the table. Nothing is opened yet.
    """
    kinds: dict[str, type[SimulatorConfig] | type[FilesConfig]] = {
        "simulator": SimulatorConfig,
        "files": FilesConfig,
    }
    if "kind" not in values:
        raise SourceError(f"[source] kind: is missing; there are {', '.join(kinds)}")
    kind = str(values["kind"])
    if kind not in kinds:
        raise SourceError(
            f"[source] kind {kind!r} is not known{nearest(kind, list(kinds))}; there are {', '.join(kinds)}. "
            "What else a bank has, such as a database or a queue, comes in as files that are exported from it"
        )
    config, problems = read_table(kinds[kind], values, "[source]")
    if config is None:
        raise SourceError(*problems)
    if isinstance(config, SimulatorConfig):
        return BankSource(config)
    labels = config.labels
    if labels is not None and labels.path is not None:
        labels = labels.model_copy(update={"path": _located(labels.path, base)})
    return FileSource(config.model_copy(update={"path": _located(config.path, base), "labels": labels}))


def _located(path: str, base: Path) -> str:
    return path if "://" in path else str((base / path).resolve())


def within(case: UseCase, bounds: Bounds) -> UseCase:
    """What validation lets through, and what the check `ranges` expects, is the same."""
    transactions = replace(case.event_table, schema=partial(schema.transactions_schema, bounds=bounds))
    return replace(
        case, event_table=transactions, ranges={**case.ranges, "txn_amount": bounds.range_of(schema.AMOUNT)}
    )


FRAUD = UseCase(
    name="fraud",
    description="Card transactions, scored for fraud while the customer waits.",
    owner="team:fraud-ml",
    declarations="feature_repo.fraud",
    feature_service="fraud_v1",
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
        "txn_amount": schema.DEFAULTS.range_of(schema.AMOUNT),
        "is_night": (0.0, 1.0),
        "num_txns_7d": (0.0, 1e6),
        "customer_seconds_since_last_txn": (0.0, 90 * 86_400.0),
        "merchant_seconds_since_first_fraud": (
            0.0,
            35 * 86_400.0 + 3_600.0,
        ),  # the window begins at a full hour
    },
    event_table=Table(
        schema.TRANSACTIONS,
        schema.RAW_TRANSACTIONS,
        schema.transactions_schema,
        schema.TRANSACTION_KEY,
        schema.TRANSACTION_ORDER,
        schema.TRANSACTION_PREFER,
    ),
    label_table=Table(
        schema.LABELS, schema.RAW_LABELS, schema.labels_schema, schema.LABEL_KEY, schema.LABEL_ORDER
    ),
    open_source=open_source,
    within=within,
)
