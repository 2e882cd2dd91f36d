"""The log of the service as assets read it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mlops_assets.resources.serving_log import ServingLogResource
from mlops_assets.use_cases.fraud.case import FRAUD
from mlops_assets.use_cases.parcels.case import PARCELS
from serving.store.base import BadStore
from serving.store.opening import serving_store


def test_a_log_that_no_service_made_is_empty_and_is_not_made_by_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "serving.db"
    log = ServingLogResource(path=str(file)).open()
    assert log.decisions("2025-03-01", FRAUD).num_rows == 0
    assert log.labels("2025-03-01", FRAUD).num_rows == 0
    assert log.served_days(FRAUD, "transactions") == log.served_days(FRAUD, "labels", ["2025-03-01"]) == set()
    assert log.measured("1", 0).scored == 0
    assert not file.exists()


def test_days_before_the_first_decision_have_the_columns_of_the_use_case(tmp_path: Path) -> None:
    log = ServingLogResource(path=str(tmp_path / "serving.db")).open()
    columns = log.decisions("2026-01-01", PARCELS).column_names
    assert {"route", "vehicle_id", "score"} <= set(columns)
    assert not {"amount", "fraud_score"} & set(columns)


def test_a_log_that_cannot_be_opened_or_whose_use_case_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(BadStore, match=r"folder\.db cannot be read"):
        ServingLogResource(path=str(tmp_path / "folder.db")).open().subject()
    file = tmp_path / "serving.db"
    serving_store(file).close()
    for damaged in ({"name": "parcels"}, {**PARCELS.subject.to_dict(), "later": 1, "labels": 5}):
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO use_case VALUES (1, 'parcels', ?)", (json.dumps(damaged),)
            )
        with pytest.raises(BadStore, match="its use case on record cannot be read"):
            serving_store(file)
