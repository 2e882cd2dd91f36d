"""The verdicts of a whole history at once: `serving.contract.verdicts.verdict_events` for millions of
transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import numpy as np
import pandas as pd

TIME: Final = "datetime64[us, UTC]"
DAY_US: Final = 86_400_000_000


def verdicts_known(
    transactions: pd.DataFrame,
    labels: pd.DataFrame,
    blocked_ids: Iterable[str],
    maturity: timedelta,
    start: pd.Timestamp,
    end: pd.Timestamp,
    horizon_days: int | None = None,
) -> pd.DataFrame:
    """The verdicts that became known in [start, end), as rows of the `verdicts` dataset, by the time that
    they became known.

    `transactions` must hold whatever can get a verdict then (labelled ones however old), and `labels` all
    labels of those up to `end`; labels of other transactions are left out: they wait. With `horizon_days` a
    label and a transaction whose days of arrival (UTC) lie further apart have nothing to do with each other,
    so that a day's verdicts do not depend on how much is looked at. An id that occurs twice among the
    transactions is a ValueError.
    """
    ids = pd.Index(transactions["transaction_id"])
    if not ids.is_unique:
        raise ValueError(f"transaction {ids[ids.duplicated()][0]!r} occurs more than once")
    event_us = _us(transactions["event_timestamp"])
    learnt_us = (
        np.maximum(_us(transactions["created_timestamp"]), event_us)
        if "created_timestamp" in transactions
        else event_us
    )
    matured_us = np.maximum(event_us + maturity // timedelta(microseconds=1), learnt_us)
    pending = ~ids.isin(pd.Index(list(blocked_ids), dtype=object))

    position = ids.get_indexer(labels["transaction_id"])
    label_us, is_fraud = _us(labels["label_timestamp"]), labels["is_fraud"].to_numpy(dtype=bool)
    here = position >= 0
    if horizon_days is not None and len(ids):
        here &= np.abs(label_us // DAY_US - learnt_us[position] // DAY_US) <= horizon_days
    position, label_us, is_fraud = position[here], label_us[here], is_fraud[here]
    known_us = np.maximum(label_us, learnt_us[position])
    order = np.lexsort((~is_fraud, label_us, known_us, position))
    position, known_us, is_fraud = position[order], known_us[order], is_fraud[order]
    stands = np.ones(len(position), dtype=bool)  # of what is known at one moment, the latest label
    stands[:-1] = (position[1:] != position[:-1]) | (known_us[1:] != known_us[:-1])
    position, known_us, is_fraud = position[stands], known_us[stands], is_fraud[stands]
    pending[position[known_us <= matured_us[position]]] = False

    labelled = np.zeros(len(ids), dtype=bool)
    labelled[position] = True
    both, alone = np.flatnonzero(pending & labelled), np.flatnonzero(pending & ~labelled)
    said = pd.DataFrame(
        {
            "position": np.concatenate([position, both]),
            "known_us": np.concatenate([known_us, matured_us[both]]),
            "is_fraud": np.concatenate([is_fraud, np.zeros(len(both), dtype=bool)]),
        }
    )
    said = said.iloc[np.lexsort((said["known_us"], said["position"]))]
    adds = (said["position"].diff() != 0) | (said["is_fraud"] != said["is_fraud"].shift())
    said = said[adds]
    matured = pd.DataFrame({"position": alone, "known_us": matured_us[alone], "is_fraud": False})
    first_us, end_us = (int(_us(pd.Series([moment]))[0]) for moment in (start, end))
    found = pd.concat(
        [part[(part["known_us"] >= first_us) & (part["known_us"] < end_us)] for part in (said, matured)]
    )
    return _rows(transactions, found)


def latest_verdicts(verdicts: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """The latest verdict on each transaction that was known before `as_of`: transaction_id, is_fraud, known;
    by transaction_id.
    """
    known = verdicts.loc[
        verdicts["event_timestamp"] < as_of, ["transaction_id", "is_fraud", "event_timestamp"]
    ]
    known = known.iloc[np.lexsort((~known["is_fraud"].to_numpy(dtype=bool), known["event_timestamp"]))]
    latest = known.drop_duplicates("transaction_id", keep="last").rename(columns={"event_timestamp": "known"})
    return latest.sort_values("transaction_id", ignore_index=True)


def _rows(transactions: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    of = transactions.iloc[found["position"].to_numpy(dtype=np.int64)].reset_index(drop=True)
    known = pd.Series(pd.to_datetime(found["known_us"].to_numpy(dtype=np.int64), unit="us", utc=True)).astype(
        TIME
    )
    rows = pd.DataFrame(
        {
            "transaction_id": of["transaction_id"],
            "customer_id": of["customer_id"],
            "merchant_id": of["merchant_id"],
            "transaction_timestamp": of["event_timestamp"].astype(TIME),
            "event_timestamp": known,
            "created_timestamp": known,
            "is_fraud": found["is_fraud"].to_numpy(dtype=bool),
            "amount": of["amount"],
        }
    )
    order = np.lexsort((pd.factorize(rows["transaction_id"], sort=True)[0], _us(rows["event_timestamp"])))
    return rows.iloc[order].reset_index(drop=True)


def _us(times: pd.Series) -> np.ndarray:
    return pd.DatetimeIndex(times).as_unit("us").asi8
