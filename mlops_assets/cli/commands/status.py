"""`mlops status`: the state of a home, read from files. It imports no library that takes long."""

from __future__ import annotations

import argparse
from typing import Any

from mlops_assets.cli.decision_report import decision
from mlops_assets.cli.platform import case_of, configured, registry_exists
from mlops_assets.core.keys import FEATURE_VECTORS, PREDICTION_LOG, VERDICTS


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The days of each dataset, the champion, and the newest decision.

    `HistoryError` where the history was altered, or ends before the line that MLflow knows of.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.resources.decision_history import History
    from mlops_assets.resources.registry_records import champion_on_record, head_on_record

    settings = configured()
    lake, history, champion = Lake(settings.lake_root), History(str(settings.history_file)), None
    datasets = {}
    for name in (case_of(settings).event.dataset, VERDICTS, FEATURE_VECTORS, PREDICTION_LOG):
        days = lake.partitions(name)
        first, last = (days[0], days[-1]) if days else (None, None)
        datasets[name] = {"days": len(days), "first": first, "last": last}
    if registry_exists(settings):
        champion = champion_on_record(settings)
        history.unconfirmed(head_on_record(settings))  # Raises where the end of the history is missing
    entries = history.entries()
    return {
        "home": str(settings.home),
        "config": str(settings.config_file) if settings.config_file else "defaults",
        "datasets": datasets,
        "champion": {"version": champion.version, "as_of": champion.as_of} if champion else None,
        "last_decision": decision(entries[-1]) if entries else None,
    }
