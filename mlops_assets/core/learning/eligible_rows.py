"""Which rows a model may learn from as of a day: mature transactions with their latest verdict, and nothing
that was known later.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.learning.splits import Split


def assemble(
    vectors: pd.DataFrame, verdicts: pd.DataFrame, split: Split, features: Sequence[str]
) -> pd.DataFrame:
    """Join feature vectors with the latest verdict as of the split's day.

    Rows of an unknown verdict (blocked and never investigated) are left out, and so is what is not mature:
    frauds that became known early do not come in early. Columns: transaction_id, event_timestamp,
    customer_id, merchant_id, amount, the features in order, is_fraud, fold (`train` or `holdout`); sorted by
    transaction_id, which makes the model reproducible.
    """
    as_of = pd.Timestamp(split.as_of, tz="UTC")
    known = latest_verdicts(verdicts, as_of)
    rows = vectors[vectors["created_timestamp"] < as_of].merge(
        known[["transaction_id", "is_fraud"]], on="transaction_id", how="inner"
    )
    rows["fold"] = split.label(rows["event_timestamp"])
    rows = rows[rows["fold"].notna()].sort_values("transaction_id", kind="stable", ignore_index=True)
    columns = [
        "transaction_id",
        "event_timestamp",
        "customer_id",
        "merchant_id",
        "amount",
        *features,
        "is_fraud",
        "fold",
    ]
    return rows[list(dict.fromkeys(columns))]
