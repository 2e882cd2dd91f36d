"""The columns in which a serving log is read, whichever store holds it."""

from __future__ import annotations

import pyarrow as pa

from serving.contract.subject import Feed, Subject
from serving.contract.subject.event import Event

TIMESTAMP = pa.timestamp("us", tz="UTC")
KINDS = {"number": pa.float64(), "flag": pa.bool_(), "text": pa.string()}
MADE = ("made_versions", pa.string())
TIMES = (("event_timestamp", TIMESTAMP), ("created_timestamp", TIMESTAMP))


def decision_columns(subject: Subject) -> pa.Schema:
    """The columns of decisions. The event's own columns are null for a ready-made vector.

    `features` is the vector as JSON, `freshness` the age in seconds of each view's newest event as JSON.
    `read_versions` and `made_versions` are the versions that the vector read and that the event made, as
    JSON. They are null for a ready-made vector, and for what was decided before the log had them. For those,
    `read_seq` says what was read: it is the number of the newest row that was committed before.
    """
    return pa.schema(
        [
            ("seq", pa.int64()),
            ("prediction_id", pa.string()),
            ("kind", pa.string()),
            *TIMES,
            *_own(subject.event),
            ("features", pa.string()),
            ("read_seq", pa.int64()),
            ("read_versions", pa.string()),
            MADE,
            (subject.score, pa.float64()),
            ("decision", pa.string()),
            ("review_threshold", pa.float64()),
            ("block_threshold", pa.float64()),
            ("model_version", pa.string()),
            ("degraded", pa.bool_()),
            ("freshness", pa.string()),
        ]
    )


def receipt_columns(subject: Subject) -> pa.Schema:
    """The columns of decisions, and `reasons` as JSON: everything that the answer told."""
    return decision_columns(subject).append(pa.field("reasons", pa.string()))


def label_columns(subject: Subject) -> pa.Schema:
    """The columns of labels. `known` is false where the service had not seen the event.

    `made_versions` are the versions that the label's verdicts made, as JSON. They are null for a label whose
    event the service had not seen, and for one that came before the log had them.
    """
    return pa.schema(
        [
            ("seq", pa.int64()),
            (subject.event.id, pa.string()),
            (subject.labels.name, pa.bool_()),
            ("label_timestamp", TIMESTAMP),
            ("known", pa.bool_()),
            MADE,
        ]
    )


def feed_columns(feed: Feed) -> pa.Schema:
    """The columns of a further feed: `seq`, its two times, the versions made, its keys and its columns."""
    return pa.schema([("seq", pa.int64()), *TIMES, MADE, *_own(feed)])


def _own(stream: Event | Feed) -> list[tuple[str, pa.DataType]]:
    keys = [(key.name, pa.string()) for key in stream.keys]
    return keys + [(column.name, KINDS[column.kind]) for column in stream.columns]
