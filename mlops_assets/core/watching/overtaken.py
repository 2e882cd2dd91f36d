"""Decisions that were made before an earlier event of their key was committed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def overtaken(
    decisions: pd.DataFrame, events: pd.DataFrame, histories: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """The decisions that were made before an earlier event of their key was committed.

    Returns, by prediction_id, the longest time in seconds from the arrival of such an event to the decision.
    Only events count that had arrived by their timestamps. Training goes by the timestamps, so its vector has
    these events. A history is a pair of columns with the key: of the decision, and of the event. Both frames
    are sorted by seq, and have event_timestamp, created_timestamp, seq and the keys. Decisions also have
    prediction_id and read_seq.
    """
    found: dict[str, float] = {}
    if not len(decisions) or not len(events):
        return found
    newest = decisions["event_timestamp"].cummax()
    # The last decision before each event.
    position = np.searchsorted(decisions["seq"].to_numpy(), events["seq"].to_numpy()) - 1
    before = newest.to_numpy()[np.maximum(position, 0)]
    # Only decisions before a late event can have missed it.
    late = events[(position >= 0) & (events["created_timestamp"].to_numpy() <= before)]
    for asked, entity in histories:
        columns = [entity, "event_timestamp", "created_timestamp", "seq"]
        # A null key has no history, so no late event can be missing.
        of_a_key = late[columns].dropna(subset=[entity])
        pairs = decisions.merge(of_a_key, left_on=asked, right_on=entity, suffixes=("", "_late"))
        visible = (pairs["event_timestamp_late"] < pairs["event_timestamp"]) & (
            pairs["created_timestamp_late"] <= pairs["event_timestamp"]
        )
        pairs = pairs[visible & (pairs["seq_late"] > pairs["read_seq"]) & (pairs["seq_late"] != pairs["seq"])]
        seconds = (pairs["event_timestamp"] - pairs["created_timestamp_late"]).dt.total_seconds()
        for name, late_s in seconds.groupby(pairs["prediction_id"]).max().items():
            found[str(name)] = max(found.get(str(name), 0.0), float(late_s))
    return found
