"""The end of the demo: the summary as data, and a table for a person."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.bank import Bank
from mlops_assets.core.keys import DATA_DRIFT, FEATURE_PARITY, PREDICTION_DRIFT
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_table
from mlops_assets.resources.registry import Version
from mlops_assets.steps.monitoring.matured_days import worth_by_day
from mlops_assets.use_cases.fraud.case import FRAUD

if TYPE_CHECKING:
    from dagster import DagsterRun


def summarize(
    settings: Settings,
    bank: Bank,
    run: DagsterRun,
    injected: str,
    detected: str,
    swapped: str,
    before: Version,
    after: Version,
    until: date,
) -> dict[str, Any]:
    """The summary, made from the lake, the run's tags and the answers of the service.

    `caught` is a share of fraud money.
    """
    lake = Lake(settings.lake_root)
    days = lake.partitions("transactions")
    parity = [m.metadata for m in lake.manifests(FEATURE_PARITY, lake.partitions(FEATURE_PARITY))]
    report = worth_by_day(FRAUD, lake, settings, until.isoformat())
    return {
        "days": len(days),
        "transactions": sum(m.rows for m in lake.manifests("transactions", days)),
        "drift": {"injected": injected, "detected": detected},
        "retraining": {
            "launched_by": "sensor" if "dagster/sensor_name" in run.tags else "hand",
            "run_id": run.run_id,
        },
        "versions": {"before": before.version, "after": after.version},
        "serving": {
            "requests": bank.requests,
            "failed": bank.failed,
            "swapped_without_restart": (
                (bank.versions[0], bank.versions[-1]) == (before.version, after.version)
            ),
        },
        "parity": {
            "compared": sum(p["compared"] for p in parity),
            "mismatches": sum(p["mismatches"] for p in parity),
        },
        "business": {
            "caught_before": _caught(report, report["day"] < injected),
            "caught_drifted": _caught(report, (report["day"] >= injected) & (report["day"] <= swapped)),
            "caught_after": _caught(report, report["day"] > swapped),
        },
    }


def tell(home: Path, settings: Settings, summary: dict[str, Any], swapped: str) -> None:
    """The days as a table, and the places to look at next."""
    from rich.console import Console
    from rich.table import Table

    lake = Lake(settings.lake_root)
    reports = [
        m for name in (DATA_DRIFT, PREDICTION_DRIFT) for m in lake.manifests(name, lake.partitions(name))
    ]
    drifted = {
        day: any(m.metadata["drifted"] for m in reports if m.partition == day)
        for day in lake.partitions(DATA_DRIFT)
    }
    last = shift(max(drifted), 1)
    console = Console(width=122, highlight=False)
    table = Table(
        title="Fraud in money on the served days that have matured",
        caption=(
            "Caught: blocked, or among the reviews that a team gets through. Without a verdict it is unknown."
        ),
    )
    for name in ("day", "payments", "fraud", "caught", "missed", "caught", "reviews", "blocked", "drift", ""):
        table.add_column(name, justify="left" if name in ("day", "") else "right", no_wrap=True)
    notes = {
        summary["drift"]["injected"]: "the world changes",
        swapped: f"then version {summary['versions']['after']} takes over",
    }
    for row in to_table(worth_by_day(FRAUD, lake, settings, last)).to_pylist():
        if row["day"] not in drifted:  # Late payments of the days before the service
            continue
        share = "" if row["caught_share"] is None else f"{row['caught_share']:.0%}"
        values = [
            f"{row['transactions']:,}",
            f"{row['fraud_money']:,.0f}",
            f"{row['caught_money']:,.0f}",
            f"{row['missed_money']:,.0f}",
            share,
        ]
        mark = "yes" if drifted.get(row["day"]) else ""
        table.add_row(
            row["day"], *values, _reviews(row), f"{row['blocked']:,}", mark, notes.get(row["day"], "")
        )
    console.print(table)
    money_caught, model = summary["business"], summary["versions"]
    console.print(
        f"Of the fraud money, version {model['before']} caught {money_caught['caught_before']:.0%}, and"
        f" {money_caught['caught_drifted']:.0%} once the world had changed;\nversion {model['after']} catches"
        f" {money_caught['caught_after']:.0%}."
    )
    console.print(
        f"{summary['serving']['requests']:,} requests, {summary['serving']['failed']} failed; "
        f"{summary['parity']['compared']:,} vectors recomputed, {summary['parity']['mismatches']} mismatches."
    )
    page = home / "reports" / DATA_DRIFT / f"{summary['drift']['detected']}.html"
    console.print(f"\nThe drift report of the day it was detected:  {page}", soft_wrap=True)
    console.print(f"Everything as data:                           {home / 'summary.json'}", soft_wrap=True)
    console.print(
        f"In the UI: MLOPS_HOME={_shown(home)} MLOPS_CONFIG=docs/demo.toml make dev, then"
        " http://127.0.0.1:3000",
        soft_wrap=True,
    )


def _reviews(row: dict[str, Any]) -> str:
    """The number of reviews that were done, and of how many where there were too many."""
    return f"{row['reviews']:,}" + (
        f" of {row['reviews'] + row['not_reviewed']:,}" if row["not_reviewed"] else ""
    )


def _caught(report: pd.DataFrame, days: pd.Series) -> float:
    chosen = report[days]
    if not chosen["fraud_money"].sum():
        raise ValueError(
            f"no fraud has matured on the days from {chosen['day'].min()} to {chosen['day'].max()}: nothing"
            " can be said of what was caught"
        )
    return round(float(chosen["caught_money"].sum() / chosen["fraud_money"].sum()), 4)


def _shown(home: Path) -> str:
    try:
        return str(home.relative_to(Path.cwd()))
    except ValueError:
        return str(home)
