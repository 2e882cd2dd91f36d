"""The streams of a use case from files: Parquet or CSV, with the feed's own column names.

A stream is one file, or a folder of files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.times import DAY_US
from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED, FileRows
from mlops_assets.core.data.streams import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    LABEL_TIMESTAMP,
    Stream,
    feed_stream,
    label_stream,
)
from mlops_assets.core.data.values.value_rules import Rules
from mlops_assets.sources.column_layout import Layout
from mlops_assets.sources.feed_folder import Folder, Preview
from mlops_assets.sources.files_config import FeedConfig, FilesConfig
from serving.contract.subject import Event, Feed, Flag, Key, Number, Text

UTF_8 = "utf-8"


class FileSource:
    """The rows of a `FilesConfig` by their arrival day. It caches what it has read of unchanged files."""

    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        self._events, self._label = config.event, config.declared_labels
        self._streams = {
            self._events.dataset: config.stream,
            self._label.dataset: label_stream(self._events, self._label),
        }
        self._folders = {self._events.dataset: Folder(config.path, _events_layout(config))}
        self._label_folder = _label_folder(config)
        for feed in config.declared_feeds:
            self._streams[feed.name] = feed_stream(feed)
            self._folders[feed.name] = Folder(
                config.further[feed.name].path, _feed_layout(config, config.further[feed.name], feed)
            )

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        """The rows of a stream that arrived from `first` to `last`, both included, as a raw table.

        Raises `SourceError`.
        """
        stream = self._streams[dataset]
        rows = (
            self._labels(first, last)
            if dataset == self._label.dataset
            else self._folders[dataset].rows(first, last)
        )
        return rows.select(stream.raw_columns.names).cast(stream.raw_columns)

    def preview(self, dataset: str, rows: int = 1_000) -> Preview | None:
        """The files of a stream, with their first rows as a raw table.

        None for labels without files of their own. Raises `SourceError`.
        """
        if dataset != self._label.dataset:
            return _in_form(self._folders[dataset].preview(rows), self._streams[dataset])
        if self.config.labels is None or self.config.labels.path is None or self._label_folder is None:
            return None
        return _in_form(self._label_folder.preview(rows), self._streams[dataset])

    def holdings(
        self, dataset: str, first: date, last: date, known: Mapping[str, FileRows]
    ) -> dict[str, FileRows]:
        """The number of rows by arrival day, for each file of a stream. Raises `SourceError`.

        The counted rows are those that `rows` returns.
        """
        if dataset != self._label.dataset:
            return self._folders[dataset].holdings(first, last, known)
        if self._label_folder is None:
            return {}
        return self._label_folder.holdings(first, last, known, self._as_labels, self._delay_days)

    def _labels(self, first: date, last: date) -> pa.Table:
        if self._label_folder is None:
            return self._streams[self._label.dataset].raw_columns.empty_table()
        # The label of a late row is known with its row. Rows from before `first` less the delay can therefore
        # have no label of these days.
        rows = self._as_labels(self._label_folder.rows(first - timedelta(days=self._delay_days), last))
        days = rows[ARRIVAL_DAY]
        return rows.filter(
            pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last)))
        )

    @property
    def _delay_days(self) -> int:
        """The days from the arrival of a row to its label, at most. 0 where labels have their own times."""
        labels = self.config.labels
        return math.ceil(labels.delay_days) if labels and labels.delay_days else 0

    def _as_labels(self, rows: pa.Table) -> pa.Table:
        """The rows of the labels' files that hold a label, with the day on which the label became known."""
        settings = self.config.labels
        if settings is None or settings.path is not None:
            return rows
        if settings.delay_days is not None:
            rows = _due(rows, settings.delay_days)
        label = rows[self._label.name]
        said = pc.fill_null(pc.is_valid(label) if settings.negatives else label, False)
        return rows.filter(pc.or_(said, pc.and_(pc.is_null(label), pc.is_valid(rows[MALFORMED]))))


def _events_layout(config: FilesConfig) -> Layout:
    return _layout(config, config.stream, config.event, config.row_rules, config.encoding or UTF_8)


def _feed_layout(config: FilesConfig, own: FeedConfig, feed: Feed) -> Layout:
    encoding = own.encoding or config.encoding or UTF_8
    return _layout(own, feed_stream(feed), feed, config.feed_rules(feed.name), encoding)


def _layout(
    config: FilesConfig | FeedConfig, stream: Stream, declared: Event | Feed, rules: Rules, encoding: str
) -> Layout:
    return Layout(
        {name: config.columns.get(name, name) for name in stream.kinds},
        stream.kinds,
        known=CREATED_TIMESTAMP,
        happened=EVENT_TIMESTAMP,
        configured=frozenset(config.columns),
        defaults=_defaults(declared),
        by_file=config.arrival == "file",
        encoding=encoding,
        purposes={key.name: _purpose(key) for key in declared.keys},
        rules=rules,
    )


def _defaults(declared: Event | Feed) -> dict[str, object]:
    """The values of the columns that a feed may leave out."""
    absent: dict[str, object] = {key.name: None for key in declared.keys if key.nullable}
    given = (one for one in declared.columns if isinstance(one, Number | Flag | Text))
    return absent | {one.name: one.default for one in given if one.default is not None}


def _purpose(key: Key) -> str:
    """What is impossible without a key."""
    thing = key.name.removesuffix("_id").replace("_", " ")
    return f"no windowed feature of {'an' if thing[0] in 'aeiou' else 'a'} {thing} can be computed"


def _label_folder(config: FilesConfig) -> Folder | None:
    """The files with the labels. None where no file has labels."""
    labels = config.labels
    if labels is None:
        return None
    if labels.path is not None:
        return Folder(labels.path, _own_labels_layout(config))
    return Folder(config.path, _labels_beside_events(config))


def _own_labels_layout(config: FilesConfig) -> Layout:
    """Labels in files of their own. Where only positives are reported, files may list them without a flag."""
    labels, declared = config.labels, config.declared_labels
    assert labels is not None
    names = (declared.name, LABEL_TIMESTAMP)
    return Layout(
        {name: labels.origins.get(name, name) for name in labels.stream.kinds},
        labels.stream.kinds,
        LABEL_TIMESTAMP,
        configured=frozenset(name for name in names if name in labels.origins),
        defaults={declared.name: True} if declared.silence == "negative" else {},
        rules=config.label_rules,
        by_file=labels.arrival == "file",
        encoding=labels.encoding or config.encoding or UTF_8,
    )


def _labels_beside_events(config: FilesConfig) -> Layout:
    """Labels as columns of the events' files."""
    labels, name, event_id = config.labels, config.declared_labels.name, config.event.id
    assert labels is not None
    events, kinds = _events_layout(config), labels.stream.kinds
    columns: dict[str, Any] = {one: labels.origins.get(one, one) for one in kinds}
    columns[event_id] = config.columns.get(event_id, event_id)
    if labels.delay_days is None:
        beside = replace(events, columns=columns, kinds=kinds, configured=frozenset(kinds))
        # Most events have no label, and so no time of a label.
        return replace(beside, known=LABEL_TIMESTAMP, happened=None, says=(name, labels.negatives))
    times = (CREATED_TIMESTAMP, EVENT_TIMESTAMP)
    kinds = {one: config.stream.kinds[one] for one in times} | {
        one: kind for one, kind in kinds.items() if one != LABEL_TIMESTAMP
    }
    columns |= {one: events.columns[one] for one in times}
    configured = events.configured | {name}
    return replace(events, columns=columns, kinds=kinds, configured=configured, defaults={})


def _in_form(preview: Preview, stream: Stream) -> Preview:
    return replace(preview, rows=preview.rows.select(stream.raw_columns.names).cast(stream.raw_columns))


def _due(rows: pa.Table, delay_days: float) -> pa.Table:
    """The rows as labels. A label is known after the delay, but not before its row has arrived."""
    delay = pa.scalar(int(delay_days * DAY_US), pa.duration("us"))
    due, arrived = pc.add(rows[EVENT_TIMESTAMP], delay), rows[CREATED_TIMESTAMP]
    known = pc.if_else(pc.greater(due, arrived), due, arrived)
    days = known.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    later = pa.scalar(math.floor(delay_days), pa.int32())
    instead = pc.add(rows[ARRIVAL_DAY].cast(pa.int32()), later).cast(pa.date32())
    rows = rows.append_column(LABEL_TIMESTAMP, known)
    return rows.set_column(rows.column_names.index(ARRIVAL_DAY), ARRIVAL_DAY, pc.coalesce(days, instead))
