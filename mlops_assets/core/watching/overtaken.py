"""Decisions that were made before an earlier event of their key was committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from mlops_assets.core.watching.histories import NONE, History, versions_of


def overtaken(
    decisions: pd.DataFrame, events: pd.DataFrame, histories: Sequence[History]
) -> dict[str, float]:
    """The decisions that were made before an earlier event of their key was committed.

    Returns, by prediction_id, the longest time in seconds from the arrival of such an event to the decision.
    Only events count that had arrived by their timestamps. Training goes by the timestamps, so its vector has
    these events. Versions say what was committed before. Where a decision or an event has no version, their
    numbers in the log say it. Both frames have event_timestamp, created_timestamp, seq, made_versions and the
    keys. Decisions also have prediction_id, read_seq and read_versions.
    """
    found: dict[str, float] = {}
    if not len(decisions) or not len(events):
        return found
    for history in histories:
        for pairs in _pairs(decisions, events, history):
            seconds = (pairs["event_timestamp"] - pairs["created_late"]).dt.total_seconds()
            for name, late_s in seconds.groupby(pairs["prediction_id"]).max().items():
                found[str(name)] = max(found.get(str(name), 0.0), float(late_s))
    return found


def _pairs(decisions: pd.DataFrame, events: pd.DataFrame, history: History) -> Iterator[pd.DataFrame]:
    """The decisions with each earlier event of their key that was committed after them."""
    # A null key has no history, so no late event can be missing.
    asked, made = decisions.dropna(subset=[history.asked]), events.dropna(subset=[history.entity])
    deciding = pd.DataFrame(
        {
            "key": asked[history.asked],
            "prediction_id": asked["prediction_id"],
            "event_timestamp": asked["event_timestamp"],
            "version": versions_of(asked["read_versions"], history.read),
            "number": asked["read_seq"],
        }
    )
    arriving = pd.DataFrame(
        {
            "key": made[history.entity],
            "event_late": made["event_timestamp"],
            "created_late": made["created_timestamp"],
            "version": versions_of(made["made_versions"], history.made),
            "number": made["seq"],
        }
    )
    versioned, changed = deciding["version"] > NONE, arriving["version"] > NONE
    for some, others, order in (
        (deciding[versioned], arriving[changed], "version"),
        (deciding[versioned], arriving[~changed], "number"),
        (deciding[~versioned], arriving, "number"),
    ):
        if len(some) and len(others):
            yield _unread(some, others, order)


def _unread(deciding: pd.DataFrame, arriving: pd.DataFrame, order: str) -> pd.DataFrame:
    """The pairs of a decision and an event of its key that it should have read, and that come later in an
    order.
    """
    before = deciding[["key", order, "event_timestamp"]].sort_values(order, kind="stable")
    before["newest"] = before.groupby("key")["event_timestamp"].cummax()
    # Of each event, the newest decision of its key before it. Only such a decision can have missed the event.
    late = pd.merge_asof(
        arriving.sort_values(order, kind="stable"),
        before[["key", order, "newest"]],
        on=order,
        by="key",
        allow_exact_matches=False,
    )
    late = late[late["created_late"] <= late["newest"]]
    pairs = deciding.merge(late, on="key", suffixes=("", "_late"))
    visible = (pairs["event_late"] < pairs["event_timestamp"]) & (
        pairs["created_late"] <= pairs["event_timestamp"]
    )
    return pairs[visible & (pairs[f"{order}_late"] > pairs[order])]
