"""`mlops history`: every decision, after the chain of digests was verified."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.cli.output import padded
from mlops_assets.cli.platform import configured, registry_exists


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Print the decisions, the oldest first, or return them as data.

    `HistoryError` where a decision was altered or is missing.
    """
    from mlops_assets.resources.decision_history import History
    from mlops_assets.resources.registry_records import head_on_record

    settings = configured()
    history = History(str(settings.history_file))
    cut_off = 0
    if registry_exists(settings):
        unconfirmed = history.unconfirmed(head_on_record(settings))
        cut_off = sum("digest" in row for row in unconfirmed)
    entries, head = history.entries(), history.head()
    unchained = sum("digest" not in entry for entry in entries)
    if options.json:
        return {
            "entries": entries,
            "whole": True,
            "rows": head.rows,
            "digest": head.digest,
            "unchained": unchained,
            "unconfirmed": cut_off,
        }
    print(_table(entries), end="")
    if unchained:
        sealed = "by the first digest after them" if unchained < head.rows else "by the next decision"
        print(f"The first {unchained} are from before there were digests, and are sealed {sealed}")
    if cut_off:
        print(f"A crash came before MLflow was told of the last {cut_off}; the next decision makes up for it")
    known = "" if cut_off else ", and MLflow knows of the last one"
    print(
        f"{head.rows} entries, whole: each follows from the one before it{known}"
        if entries
        else f"no entries: nothing was decided in {settings.home} yet"
    )
    return None


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    from mlops_assets.core.lifecycle.champions import GATE, kind

    lines = [("at (UTC)", "decision", "version", "as of", "champion before", "by", "reason")]
    for row in entries:
        reasons = [*row["reasons"], *row.get("overruled", ())]
        what = kind(row).replace("_", " ") + (f" to {row['to']}" if "to" in row else "")
        reason = reasons[0] + (f" (and {len(reasons) - 1} more)" if reasons[1:] else "")
        champion, by = row["champion"] or "none", row.get("by", GATE)
        lines.append((row.get("at", "")[:19], what, row["version"], row["as_of"], champion, by, reason))
    return padded(lines) if entries else ""
