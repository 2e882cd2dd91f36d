"""The handbook's published transactions through the file source; skipped, with a line that says so, where the
folder is absent.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
import pytest
from payment_feeds import TRANSACTION_KEY, TRANSACTION_ORDER, FilesConfig, LabelsConfig, transactions_schema

from mlops_assets.core.data.base import by_day
from mlops_assets.core.data.validation import validate
from mlops_assets.sources.file_source import FileSource

COLUMNS = {
    "transaction_id": "TRANSACTION_ID",
    "event_timestamp": "TX_DATETIME",
    "customer_id": "CUSTOMER_ID",
    "merchant_id": "TERMINAL_ID",
    "amount": "TX_AMOUNT",
}


@pytest.fixture(scope="module")
def handbook() -> FileSource:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "handbook"
    folder = Path(os.environ.get("MLOPS_HANDBOOK_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("the handbook's data is not here: set MLOPS_HANDBOOK_DATA to its folder")
    return FileSource(
        FilesConfig(path=str(folder), columns=COLUMNS, labels=LabelsConfig(is_fraud="TX_FRAUD", delay_days=7))
    )


def test_every_day_of_the_handbook_is_accepted_whole(handbook: FileSource) -> None:
    first, last = date(2018, 4, 1), date(2018, 7, 31)
    days = by_day(handbook.rows("transactions", first, last), first, last)
    assert sum(rows.num_rows for rows in days.values()) == 1_169_723
    for day in ("2018-04-01", "2018-07-31"):
        outcome = validate(
            days[day].to_pandas(),
            transactions_schema(date.fromisoformat(day)),
            key=TRANSACTION_KEY,
            order=TRANSACTION_ORDER,
        )
        assert outcome.counts == {
            "received": days[day].num_rows,
            "accepted": days[day].num_rows,
            "duplicate": 0,
            "quarantined": 0,
        }


def test_a_day_of_the_handbook_alone_is_that_day_within_the_range(handbook: FileSource) -> None:
    first, last = date(2018, 4, 5), date(2018, 4, 7)
    alone = handbook.rows("transactions", date(2018, 4, 6), date(2018, 4, 6))
    assert alone.drop_columns(["arrival_day"]).equals(
        by_day(handbook.rows("transactions", first, last), first, last)["2018-04-06"]
    )


def test_every_fraud_of_the_handbook_is_known_a_week_later(handbook: FileSource) -> None:
    labels = handbook.rows("labels", date(2018, 4, 8), date(2018, 8, 7))
    assert labels.num_rows == 9_465
    assert pc.all(labels["is_fraud"]).as_py()
