"""The verdicts of a whole history at once, for millions of events.

The rule is `serving.contract.verdicts.verdict_events`, which gives the verdicts of one event.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_repo.times import DAY_US
from mlops_assets.core.data.streams import CREATED_TIMESTAMP, EVENT_TIMESTAMP, LABEL_TIMESTAMP
from mlops_assets.core.data.values.value_rules import TYPES
from serving.contract.subject import Number, Subject

TIME: Final = "datetime64[us, UTC]"


def verdict_columns(subject: Subject) -> pa.Schema:
    """The columns of the `verdicts` dataset.

    `event_timestamp` and `created_timestamp` both say when the verdict became known. `{noun}_timestamp` says
    when the event happened.
    """
    event = subject.event
    return pa.schema(
        [
            (event.id, TYPES["id"]),
            *((key.name, TYPES["id"]) for key in event.keys),
            (event.time, TYPES["time"]),
            (EVENT_TIMESTAMP, TYPES["time"]),
            (CREATED_TIMESTAMP, TYPES["time"]),
            (subject.labels.name, TYPES["flag"]),
            *((column.name, TYPES["number"]) for column in event.columns if isinstance(column, Number)),
        ]
    )


def verdicts_known(
    subject: Subject,
    events: pd.DataFrame,
    labels: pd.DataFrame,
    withheld_ids: Iterable[str],
    maturity: timedelta,
    start: pd.Timestamp,
    end: pd.Timestamp,
    horizon_days: int | None = None,
) -> pd.DataFrame:
    """The verdicts that became known in [start, end), as rows of `verdict_columns`.

    Rows are sorted by the time of becoming known and by id. `events` must hold every event that can get a
    verdict in that time, labelled events of any age among them. `labels` must hold all labels of these events
    up to `end`. Labels of other events are left out. Silence brings no verdict to `withheld_ids`, and none at
    all where the use case declares silence as unknown. With `horizon_days`, a label does not count for an
    event if their days of arrival (UTC) lie further apart. Otherwise the verdicts of a day would depend on
    how many days are read. Raises `ValueError` for an id that occurs twice among the events.
    """
    ids = pd.Index(events[subject.event.id])
    if not ids.is_unique:
        raise ValueError(f"{subject.event.noun} {ids[ids.duplicated()][0]!r} occurs more than once")
    event_us = _us(events[EVENT_TIMESTAMP])
    learnt_us = event_us
    if CREATED_TIMESTAMP in events:
        learnt_us = np.maximum(_us(events[CREATED_TIMESTAMP]), event_us)
    matured_us = np.maximum(event_us + maturity // timedelta(microseconds=1), learnt_us)
    if subject.labels.silence == "unknown":
        pending = np.zeros(len(ids), dtype=bool)
    else:
        pending = ~ids.isin(pd.Index(list(withheld_ids), dtype=object))

    position, known_us, positive = _labels_that_stand(subject, ids, labels, learnt_us, horizon_days)
    pending[position[known_us <= matured_us[position]]] = False
    labelled = np.zeros(len(ids), dtype=bool)
    labelled[position] = True
    both, alone = np.flatnonzero(pending & labelled), np.flatnonzero(pending & ~labelled)
    said = pd.DataFrame(
        {
            "position": np.concatenate([position, both]),
            "known_us": np.concatenate([known_us, matured_us[both]]),
            "positive": np.concatenate([positive, np.zeros(len(both), dtype=bool)]),
        }
    )
    said = said.iloc[np.lexsort((said["known_us"], said["position"]))]
    adds = (said["position"].diff() != 0) | (said["positive"] != said["positive"].shift())
    said = said[adds]
    matured = pd.DataFrame({"position": alone, "known_us": matured_us[alone], "positive": False})
    first_us, end_us = (int(_us(pd.Series([moment]))[0]) for moment in (start, end))
    found = pd.concat(
        [part[(part["known_us"] >= first_us) & (part["known_us"] < end_us)] for part in (said, matured)]
    )
    return _rows(subject, events, found)


def latest_verdicts(subject: Subject, verdicts: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """The latest verdict on each event that was known before `as_of`.

    The columns are the event's id, the label and `known`, the time of becoming known. Rows are sorted by id.
    """
    event_id, label = subject.event.id, subject.labels.name
    known = verdicts.loc[verdicts[EVENT_TIMESTAMP] < as_of, [event_id, label, EVENT_TIMESTAMP]]
    known = known.iloc[np.lexsort((~known[label].to_numpy(dtype=bool), known[EVENT_TIMESTAMP]))]
    latest = known.drop_duplicates(event_id, keep="last").rename(columns={EVENT_TIMESTAMP: "known"})
    return latest.sort_values(event_id, ignore_index=True)


def _labels_that_stand(
    subject: Subject, ids: pd.Index, labels: pd.DataFrame, learnt_us: np.ndarray, horizon_days: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each event and moment at which labels became known, the latest of these labels.

    Returns three arrays, sorted by position and moment: the position among `ids`, the moment in microseconds,
    and whether the label is positive.
    """
    position = ids.get_indexer(pd.Index(labels[subject.event.id]))
    label_us, positive = _us(labels[LABEL_TIMESTAMP]), labels[subject.labels.name].to_numpy(dtype=bool)
    here = position >= 0
    if horizon_days is not None and len(ids):
        here &= np.abs(label_us // DAY_US - learnt_us[position] // DAY_US) <= horizon_days
    position, label_us, positive = position[here], label_us[here], positive[here]
    known_us = np.maximum(label_us, learnt_us[position])
    order = np.lexsort((~positive, label_us, known_us, position))
    position, known_us, positive = position[order], known_us[order], positive[order]
    stands = np.ones(len(position), dtype=bool)
    stands[:-1] = (position[1:] != position[:-1]) | (known_us[1:] != known_us[:-1])
    return position[stands], known_us[stands], positive[stands]


def _rows(subject: Subject, events: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    event = subject.event
    of = events.iloc[found["position"].to_numpy(dtype=np.int64)].reset_index(drop=True)
    moments = pd.to_datetime(found["known_us"].to_numpy(dtype=np.int64), unit="us", utc=True)
    known = pd.Series(moments).astype(TIME)
    rows = pd.DataFrame(
        {
            event.id: of[event.id],
            **{key.name: of[key.name] for key in event.keys},
            event.time: of[EVENT_TIMESTAMP].astype(TIME),
            EVENT_TIMESTAMP: known,
            CREATED_TIMESTAMP: known,
            subject.labels.name: found["positive"].to_numpy(dtype=bool),
            **{column.name: of[column.name] for column in event.columns if isinstance(column, Number)},
        }
    )
    order = np.lexsort((pd.factorize(rows[event.id], sort=True)[0], _us(rows[EVENT_TIMESTAMP])))
    return rows.iloc[order].reset_index(drop=True)


def _us(times: pd.Series) -> np.ndarray:
    return pd.DatetimeIndex(times).as_unit("us").asi8
