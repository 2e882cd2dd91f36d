"""Card transactions and their labels from files: Parquet or CSV, one file or a folder of them, with the
feed's own column names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import date, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlops_assets.core.config_tables import nearest
from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED, FileRows
from mlops_assets.core.data.parsing import PLAIN, Epoch, Rules
from mlops_assets.sources.column_layout import Composed, Layout, Origin, Since
from mlops_assets.sources.files import Folder, Preview
from mlops_assets.use_cases.fraud.schema import LABEL_KINDS, RAW_LABELS, RAW_TRANSACTIONS, TRANSACTION_KINDS

DAY_US = 86_400_000_000
UTF_8 = "utf-8"
LONGEST_DELAY = 3_650  # days until a label becomes known: more is a number in another unit
DEFAULTS = {"is_declined": False}  # of columns that a feed may leave out
PURPOSES = {  # what cannot be done without a column
    "customer_id": "no windowed feature of a customer can be computed",
    "merchant_id": "no windowed feature of a merchant can be computed",
}

Arrival = Literal["rows", "file"]


class FlagWords(BaseModel):
    """What a feed writes for true and for false, beside 1 and 0, true and false, yes and no."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()


class TextConfig(BaseModel):
    """What the text of a feed means where it is not the usual.

    What is left out is usual, or for labels as in `[source]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: tuple[str, ...] | None = None
    decimal: str | None = None
    thousands: str | None = None
    timezone: str | None = None
    epoch: Epoch | None = None
    flags: FlagWords | None = None
    encoding: str | None = None

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                "".encode(value)  # Python has codecs that are no encodings of text
            return value
        except LookupError as error:
            raise ValueError(
                f"{value!r} is no text encoding; usual ones are utf-8, cp1252, latin-1 and utf-16"
            ) from error

    @property
    def text(self) -> dict[str, Any]:
        """What is set of it."""
        values = {name: getattr(self, name) for name in TextConfig.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def rules(self, section: str, base: Rules = PLAIN) -> Rules:
        said = {field.name for field in fields(Rules)}
        changes: dict[str, Any] = {name: value for name, value in self.text.items() if name in said}
        words: dict[str, Any] = {"true": self.flags.true, "false": self.flags.false} if self.flags else {}
        return replace(base, **changes, **words, section=section)


class LabelsConfig(TextConfig):
    """Where labels are and when they became known: columns of the transactions' own files, or files of their
    own (`path`).

    With `delay_days` a label counts as known that long after its transaction. In the transactions' own files
    a 0 says only that no fraud was reported, so that fraud alone becomes a label, unless `legitimate` is
    true. Files of labels are taken as they are; one without a column `is_fraud` is a list of frauds.
    `arrival` is that of files of labels; labels in the transactions' files arrive as those do.
    """

    path: str | None = Field(default=None, min_length=1)
    transaction_id: Origin = "transaction_id"
    is_fraud: str | None = None
    label_timestamp: Origin | None = None
    delay_days: float | None = Field(default=None, ge=0, le=LONGEST_DELAY)
    legitimate: bool = False
    arrival: Arrival = "rows"

    @model_validator(mode="after")
    def _says_when(self) -> LabelsConfig:
        if self.path is None and (self.delay_days is None) == (self.label_timestamp is None):
            raise ValueError(
                "labels in the transactions' own files need one of `delay_days` and `label_timestamp`"
            )
        if self.path is not None and self.delay_days is not None:
            raise ValueError(
                "labels with a `path` have times of their own: `delay_days` is for labels in the"
                " transactions' files"
            )
        if self.path is None and (own := [*self.text, *(["arrival"] if self.arrival != "rows" else [])]):
            raise ValueError(
                f"`{own[0]}` is for label files of their own (`path`); labels in the transactions' files"
                " follow [source]"
            )
        if isinstance(self.transaction_id, Since):
            raise ValueError("`transaction_id` is no time: it is a name, or composed of several columns")
        if isinstance(self.label_timestamp, Composed):
            raise ValueError(
                "a time cannot be composed of columns: `label_timestamp` is a name, or a number of units"
                " since a moment"
            )
        return self


class FilesConfig(TextConfig):
    """A feed of files.

    `columns` maps canonical names to the feed's; one that is not named there goes by its canonical name.

    With `arrival = "file"` the day in a file's name is the day on which all of its rows arrived. `encoding`
    is that of text without a BOM.
    """

    kind: Literal["files"] = "files"
    path: str = Field(min_length=1)
    columns: dict[str, Origin] = Field(default_factory=dict)
    labels: LabelsConfig | None = None
    arrival: Arrival = "rows"

    @model_validator(mode="after")
    def _names_known_columns(self) -> FilesConfig:
        if unknown := sorted(set(self.columns) - set(TRANSACTION_KINDS)):
            told = "; ".join(
                f"unknown column {name!r}{nearest(name, list(TRANSACTION_KINDS))}" for name in unknown
            )
            raise ValueError(f"{told}; there are {', '.join(TRANSACTION_KINDS)}")
        for name, origin in self.columns.items():
            if isinstance(origin, Since) and TRANSACTION_KINDS[name] != "time":
                raise ValueError(f"`columns.{name}` is no time; name the feed's column")
            if isinstance(origin, Composed) and TRANSACTION_KINDS[name] != "id":
                raise ValueError(f"`columns.{name}` is no id, and cannot be composed; name the feed's column")
        return self

    @model_validator(mode="after")
    def _has_one_id(self) -> FilesConfig:
        own = self.columns.get("transaction_id", "transaction_id")
        if (
            self.labels
            and self.labels.path is None
            and self.labels.transaction_id not in ("transaction_id", own)
        ):
            raise ValueError(
                "labels: `transaction_id` is for label files of their own (`path`); those in the"
                " transactions' files have the id of [source.columns]"
            )
        return self

    @model_validator(mode="after")
    def _has_rules(self) -> FilesConfig:
        _ = self.row_rules, self.label_rules
        return self

    @property
    def row_rules(self) -> Rules:
        return self.rules("[source]")

    @property
    def label_rules(self) -> Rules:
        """Those of the transactions, and what the labels' own files do otherwise."""
        if self.labels is None or self.labels.path is None:
            return self.row_rules
        try:
            return self.labels.rules("[source.labels]", self.row_rules)
        except ValueError as error:
            raise ValueError(f"labels: {error}") from error


class FileSource:
    """The rows of a `FilesConfig` by their day of arrival.

    What it read it remembers, as long as the files do not change.
    """

    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        self._transactions = Folder(config.path, _transactions_layout(config))
        self._labels = _label_folder(config)

    def preview(self, rows: int = 1_000) -> Preview:
        """What the transactions' files look like, with the first rows in the form of `transactions`."""
        return _in_form(self._transactions.preview(rows), RAW_TRANSACTIONS)

    def preview_labels(self, rows: int = 1_000) -> Preview | None:
        """The same of labels in files of their own; None where there are none."""
        if self.config.labels is None or self.config.labels.path is None or self._labels is None:
            return None
        return _in_form(self._labels.preview(rows), RAW_LABELS)

    def transactions(self, first: date, last: date) -> pa.Table:
        return self._transactions.rows(first, last).select(RAW_TRANSACTIONS.names).cast(RAW_TRANSACTIONS)

    def labels(self, first: date, last: date) -> pa.Table:
        if self.config.labels is None or self._labels is None:
            return RAW_LABELS.empty_table()
        # A label of a late row is known when its row is, so that arrival less the delay bounds what can be
        # due.
        rows = self._as_labels(self._labels.rows(first - timedelta(days=self._delay_days), last))
        rows = rows.filter(
            pc.and_(
                pc.greater_equal(rows[ARRIVAL_DAY], pa.scalar(first)),
                pc.less_equal(rows[ARRIVAL_DAY], pa.scalar(last)),
            )
        )
        return rows.select(RAW_LABELS.names).cast(RAW_LABELS)

    def holdings(
        self, feed: Literal["transactions", "labels"], first: date, last: date, known: Mapping[str, FileRows]
    ) -> dict[str, FileRows]:
        """What the files of a feed hold, by day of arrival.

        Nothing is filtered out that `transactions` and `labels` would give.
        """
        if feed == "transactions":
            return self._transactions.holdings(first, last, known)
        if self._labels is None:
            return {}
        return self._labels.holdings(first, last, known, self._as_labels, self._delay_days)

    @property
    def _delay_days(self) -> int:
        """How long after its row a label may become known; 0 where labels have times of their own."""
        return (
            math.ceil(self.config.labels.delay_days)
            if self.config.labels and self.config.labels.delay_days
            else 0
        )

    def _as_labels(self, rows: pa.Table) -> pa.Table:
        """The rows of the labels' folder that say something, with the day on which that became known."""
        settings = self.config.labels
        if settings is None or settings.path is not None:
            return rows
        if settings.delay_days is not None:
            rows = _due(rows, settings.delay_days)
        said = pc.is_valid(rows["is_fraud"]) if settings.legitimate else rows["is_fraud"]
        return rows.filter(
            pc.or_(
                pc.fill_null(said, False), pc.and_(pc.is_null(rows["is_fraud"]), pc.is_valid(rows[MALFORMED]))
            )
        )


def _transactions_layout(config: FilesConfig) -> Layout:
    return Layout(
        {name: config.columns.get(name, name) for name in TRANSACTION_KINDS},
        TRANSACTION_KINDS,
        known="created_timestamp",
        happened="event_timestamp",
        configured=frozenset(config.columns),
        defaults=DEFAULTS,
        by_file=config.arrival == "file",
        encoding=config.encoding or UTF_8,
        purposes=PURPOSES,
        rules=config.row_rules,
    )


def _label_folder(config: FilesConfig) -> Folder | None:
    labels = config.labels
    if labels is None:
        return None
    columns: dict[str, Any] = {name: getattr(labels, name) or name for name in LABEL_KINDS}
    if labels.path is not None:
        configured = frozenset(name for name in ("is_fraud", "label_timestamp") if getattr(labels, name))
        layout = Layout(
            columns,
            LABEL_KINDS,
            "label_timestamp",
            configured=configured,
            defaults={"is_fraud": True},
            rules=config.label_rules,
        )
        encoding = labels.encoding or config.encoding or UTF_8
        return Folder(labels.path, replace(layout, by_file=labels.arrival == "file", encoding=encoding))
    columns["transaction_id"] = config.columns.get("transaction_id", "transaction_id")
    transactions = _transactions_layout(config)
    if labels.delay_days is None:
        labelled = replace(
            transactions, columns=columns, kinds=LABEL_KINDS, configured=frozenset(LABEL_KINDS)
        )
        says = (
            "is_fraud",
            labels.legitimate,
        )  # most payments are never reported, and have no time of a label
        return Folder(config.path, replace(labelled, known="label_timestamp", happened=None, says=says))
    times = ("created_timestamp", "event_timestamp")
    kinds = {name: TRANSACTION_KINDS[name] for name in times} | {
        name: kind for name, kind in LABEL_KINDS.items() if name != "label_timestamp"
    }
    columns |= {name: transactions.columns[name] for name in times}
    return Folder(
        config.path,
        replace(
            transactions,
            columns=columns,
            kinds=kinds,
            configured=transactions.configured | {"is_fraud"},
            defaults={},
        ),
    )


def _in_form(preview: Preview, schema: pa.Schema) -> Preview:
    return replace(preview, rows=preview.rows.select(schema.names).cast(schema))


def _due(rows: pa.Table, delay_days: float) -> pa.Table:
    """The rows as labels: known the delay after the event, or when the row itself arrived."""
    delay = pa.scalar(int(delay_days * DAY_US), pa.duration("us"))
    due, arrived = pc.add(rows["event_timestamp"], delay), rows["created_timestamp"]
    known = pc.if_else(pc.greater(due, arrived), due, arrived)
    days = known.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    instead = pc.add(rows[ARRIVAL_DAY].cast(pa.int32()), pa.scalar(math.floor(delay_days), pa.int32())).cast(
        pa.date32()
    )
    rows = rows.append_column("label_timestamp", known)
    return rows.set_column(rows.column_names.index(ARRIVAL_DAY), ARRIVAL_DAY, pc.coalesce(days, instead))
