"""Card transactions and their labels from files: Parquet or CSV, one file or a folder of them, with the feed's own column names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlops_assets.core.source import ARRIVAL_DAY, MALFORMED, FileRows
from mlops_assets.use_cases.fraud.files import Folder, Layout
from mlops_assets.use_cases.fraud.schema import LABEL_KINDS, RAW_LABELS, RAW_TRANSACTIONS, TRANSACTION_KINDS

DAY_US = 86_400_000_000


class LabelsConfig(BaseModel):
    """Where labels are and when they became known: columns of the transactions' own files, or files of their own (`path`).

    With `delay_days` a label counts as known that long after its transaction. In the transactions' own files a 0 says only that no fraud
    was reported, so that fraud alone becomes a label, unless `legitimate` is true. Files of labels are taken as they are; one
    without a column `is_fraud` is a list of frauds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    transaction_id: str = "transaction_id"
    is_fraud: str | None = None
    label_timestamp: str | None = None
    delay_days: float | None = Field(default=None, ge=0)
    legitimate: bool = False

    @model_validator(mode="after")
    def _says_when(self) -> LabelsConfig:
        if self.path is None and (self.delay_days is None) == (self.label_timestamp is None):
            raise ValueError("labels in the transactions' own files need one of `delay_days` and `label_timestamp`")
        if self.path is not None and self.delay_days is not None:
            raise ValueError("labels with a `path` have times of their own: `delay_days` is for labels in the transactions' files")
        return self


class FilesConfig(BaseModel):
    """A feed of files. `columns` maps canonical names to the feed's; one that is not named there goes by its canonical name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["files"] = "files"
    path: str
    columns: dict[str, str] = Field(default_factory=dict)
    labels: LabelsConfig | None = None

    @model_validator(mode="after")
    def _names_known_columns(self) -> FilesConfig:
        if unknown := sorted(set(self.columns) - set(TRANSACTION_KINDS)):
            raise ValueError(f"unknown column {unknown[0]!r}; there are {', '.join(TRANSACTION_KINDS)}")
        return self


class FileSource:
    """The rows of a `FilesConfig` by their day of arrival. What it read it remembers, as long as the files do not change."""

    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        columns = {name: config.columns.get(name, name) for name in TRANSACTION_KINDS}
        optional = {name: value for name, value in {"is_declined": False}.items() if name not in config.columns}
        arrival = ("created_timestamp",) if "created_timestamp" in config.columns else ("created_timestamp", "event_timestamp")
        self._transactions = Folder(config.path, Layout(columns, TRANSACTION_KINDS, arrival, optional))
        self._labels = _label_folder(config)

    def transactions(self, first: date, last: date) -> pa.Table:
        return self._transactions.rows(first, last).select(RAW_TRANSACTIONS.names).cast(RAW_TRANSACTIONS)

    def labels(self, first: date, last: date) -> pa.Table:
        if self.config.labels is None or self._labels is None:
            return RAW_LABELS.empty_table()
        # A label of a late row is known when its row is, so that arrival less the delay bounds what can be due.
        rows = self._as_labels(self._labels.rows(first - timedelta(days=self._delay_days), last))
        rows = rows.filter(pc.and_(pc.greater_equal(rows[ARRIVAL_DAY], pa.scalar(first)), pc.less_equal(rows[ARRIVAL_DAY], pa.scalar(last))))
        return rows.select(RAW_LABELS.names).cast(RAW_LABELS)

    def holdings(self, feed: Literal["transactions", "labels"], first: date, last: date, known: Mapping[str, FileRows]) -> dict[str, FileRows]:
        """What the files of a feed hold, by day of arrival. Nothing is filtered out that `transactions` and `labels` would give."""
        if feed == "transactions":
            return self._transactions.holdings(first, last, known)
        if self._labels is None:
            return {}
        return self._labels.holdings(first, last, known, self._as_labels, self._delay_days)

    @property
    def _delay_days(self) -> int:
        """How long after its row a label may become known; 0 where labels have times of their own."""
        return math.ceil(self.config.labels.delay_days) if self.config.labels and self.config.labels.delay_days else 0

    def _as_labels(self, rows: pa.Table) -> pa.Table:
        """The rows of the labels' folder that say something, with the day on which that became known."""
        settings = self.config.labels
        if settings is None or settings.path is not None:
            return rows
        if settings.delay_days is not None:
            rows = _due(rows, settings.delay_days)
        said = pc.is_valid(rows["is_fraud"]) if settings.legitimate else rows["is_fraud"]
        return rows.filter(pc.or_(pc.fill_null(said, False), pc.and_(pc.is_null(rows["is_fraud"]), pc.is_valid(rows[MALFORMED]))))


def _label_folder(config: FilesConfig) -> Folder | None:
    labels = config.labels
    if labels is None:
        return None
    columns = {name: getattr(labels, name) or name for name in LABEL_KINDS}
    if labels.path is not None:
        return Folder(labels.path, Layout(columns, LABEL_KINDS, ("label_timestamp",), {} if labels.is_fraud else {"is_fraud": True}))
    columns["transaction_id"] = config.columns.get("transaction_id", "transaction_id")
    if labels.delay_days is None:
        return Folder(config.path, Layout(columns, LABEL_KINDS, ("label_timestamp",)))
    times = {name: config.columns.get(name, name) for name in ("created_timestamp", "event_timestamp")}
    kinds = {name: TRANSACTION_KINDS[name] for name in times} | {name: kind for name, kind in LABEL_KINDS.items() if name != "label_timestamp"}
    return Folder(config.path, Layout(columns | times, kinds, tuple(times)))


def _due(rows: pa.Table, delay_days: float) -> pa.Table:
    """The rows as labels: known the delay after the event, or when the row itself arrived."""
    delay = pa.scalar(int(delay_days * DAY_US), pa.duration("us"))
    due, arrived = pc.add(rows["event_timestamp"], delay), rows["created_timestamp"]
    known = pc.if_else(pc.greater(due, arrived), due, arrived)
    days = known.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    instead = pc.add(rows[ARRIVAL_DAY].cast(pa.int32()), pa.scalar(math.floor(delay_days), pa.int32())).cast(pa.date32())
    rows = rows.append_column("label_timestamp", known)
    return rows.set_column(rows.column_names.index(ARRIVAL_DAY), ARRIVAL_DAY, pc.coalesce(days, instead))
