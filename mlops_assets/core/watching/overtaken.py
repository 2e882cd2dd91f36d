"""Decisions that were made before an earlier event of their key was committed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def overtaken(
    decisions: pd.DataFrame, events: pd.DataFrame, histories: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """The decisions that read before an event of one of their keys was committed, and by how many seconds.

    Only events count that the clocks had known by then. Training goes by the clocks, so its vector has the
    event. A history is a pair: the decision's column that holds the key, and the event's. Both frames by seq:
    event_timestamp, created_timestamp, seq and the keys; decisions with prediction_id and read_seq too.
    """
    found: dict[str, float] = {}
    if not len(decisions) or not len(events):
        return found
    newest = decisions["event_timestamp"].cummax()
    # Of each event, the last decision before it.
    position = np.searchsorted(decisions["seq"].to_numpy(), events["seq"].to_numpy()) - 1
    before = newest.to_numpy()[np.maximum(position, 0)]
    # Only these can have overtaken anything.
    late = events[(position >= 0) & (events["created_timestamp"].to_numpy() <= before)]
    for asked, entity in histories:
        columns = [entity, "event_timestamp", "created_timestamp", "seq"]
        # A null key has no history, so that no late event can be missing in it.
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
