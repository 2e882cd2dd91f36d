"""The fraud case's feeds as tests use them: the classes of `[source]`, and the tables of its streams."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from mlops_assets.sources.files_config import files_config, labels_config
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.bounds import Bounds

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

    from mlops_assets.sources.files_config import FilesConfig, LabelsConfig
else:
    FilesConfig, LabelsConfig = files_config(FRAUD), labels_config(FRAUD)

PAYMENTS, REPORTS = FRAUD.events, FRAUD.label_rows
TRANSACTIONS, LABELS = PAYMENTS.columns, REPORTS.columns
RAW_TRANSACTIONS, RAW_LABELS = PAYMENTS.raw_columns, REPORTS.raw_columns
TRANSACTION_KEY, TRANSACTION_ORDER, TRANSACTION_PREFER = PAYMENTS.key, PAYMENTS.order, PAYMENTS.prefer
LABEL_KEY, LABEL_ORDER = REPORTS.key, REPORTS.order

__all__ = ["FilesConfig", "LabelsConfig"]


def transactions_schema(arrival_day: date | None = None, bounds: Bounds | None = None) -> DataFrameSchema:
    return FRAUD.streams(bounds or Bounds())[0].schema(arrival_day)


def labels_schema(arrival_day: date | None = None) -> DataFrameSchema:
    return REPORTS.schema(arrival_day)
