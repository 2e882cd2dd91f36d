"""The rows that a model may learn from as of a day: mature events with the latest verdict of that day."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.learning.splits import Split
from serving.contract.subject import Bands, Subject


def event_columns(subject: Subject) -> tuple[str, ...]:
    """The columns of an event that learning and judging need besides its features and times.

    They are the id, the keys, and the numbers for decisions and slices.
    """
    event, value = subject.event, subject.decisions.value
    banded = (one.column for one in subject.slices if isinstance(one, Bands))
    numbers = ([value] if value else []) + list(banded)
    return tuple(dict.fromkeys([event.id, *(key.name for key in event.keys), *numbers]))


def assemble(
    subject: Subject, vectors: pd.DataFrame, verdicts: pd.DataFrame, split: Split, features: Sequence[str]
) -> pd.DataFrame:
    """Join feature vectors with the latest verdict as of the split's day.

    Rows without a verdict are left out, and rows that are not mature, even with an early positive verdict.
    Columns: the event's id, event_timestamp, the other `event_columns`, the features in order, the label, and
    fold (`train` or `holdout`). The rows are sorted by id, which makes the model reproducible.
    """
    as_of, name, label = pd.Timestamp(split.as_of, tz="UTC"), subject.event.id, subject.labels.name
    known = latest_verdicts(subject, verdicts, as_of)
    rows = vectors[vectors["created_timestamp"] < as_of].merge(known[[name, label]], on=name, how="inner")
    rows["fold"] = split.label(rows["event_timestamp"])
    rows = rows[rows["fold"].notna()].sort_values(name, kind="stable", ignore_index=True)
    others = [column for column in event_columns(subject) if column != name]
    columns = [name, "event_timestamp", *others, *features, label, "fold"]
    return rows[list(dict.fromkeys(columns))]
