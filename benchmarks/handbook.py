"""Quality on the handbook's data by the handbook's protocol, through the platform's own commands.

python benchmarks/handbook.py --data DIR --as-of 2018-05-23 --weeks 10

From an empty home: backfill to the last test day, then week after week train as of its first day D
(transactions to D - 8 days), score D to D + 6, and measure that as the book does. Features and recipe were
chosen on the weeks in DEVELOPED, and the means are over the others. Prints a table on stderr and one JSON
line, with the published figures beside ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from mlops_assets.core.judging.measuring.measures import average_precision, precision_at_k, roc_auc
from mlops_assets.resources.lake import day_range

ROOT = Path(__file__).parents[1]
DELAY_DAYS, TEST_DAYS, TRAIN_DAYS = (
    7,
    7,
    7,
)  # of the book; its training week decides which cards are known at the start of the test
DEVELOPED = (date(2018, 5, 23), date(2018, 5, 30), date(2018, 6, 6))
MEASURES = ("auc", "average_precision", "card_precision_100")
# chapter 3, baseline modeling, test week 2018-08-08 to 08-14; and chapters 5 and 6, tuned, over four weeks
PUBLISHED = {
    "random forest, its week": {"auc": 0.867, "average_precision": 0.658, "card_precision_100": 0.287},
    "logistic regression, its week": {"auc": 0.871, "average_precision": 0.606, "card_precision_100": 0.291},
    "XGBoost tuned, four weeks": {"auc": 0.872, "average_precision": 0.687, "card_precision_100": 0.302},
    "balanced bagging, four weeks": {"auc": 0.879, "average_precision": 0.680, "card_precision_100": 0.305},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="the folder of the daily Parquet files (the `path` in docs/handbook.toml)",
    )
    parser.add_argument(
        "--as-of",
        type=date.fromisoformat,
        default=date(2018, 7, 18),
        metavar="D",
        help="first test day (2018-07-18)",
    )
    parser.add_argument(
        "--weeks", type=int, default=1, metavar="N", help="how many test weeks, one after the other (1)"
    )
    options = parser.parse_args()
    data = options.data or configured_folder()
    days = sorted(path.stem for path in data.glob("*.parquet"))
    if not days and options.data is None:
        print(
            json.dumps(
                {
                    "benchmark": "handbook",
                    "skipped": f"the data is not in {data}; name its folder with --data",
                }
            )
        )
        return 0
    if not days:
        parser.error(f"there are no Parquet files in {data}")
    weeks = [options.as_of + timedelta(days=TEST_DAYS * n) for n in range(options.weeks)]
    if outside := [str(day) for day in weeks if not days[0] < day.isoformat() <= days[-1]] or (
        ["no week"] if not weeks else []
    ):
        parser.error(
            f"the data goes from {days[0]} to {days[-1]}, and {outside[0]} is not a day with data before it"
        )
    with tempfile.TemporaryDirectory() as folder:
        figures = run(data.resolve(), weeks, days[0], days[-1], Path(folder))
    print(json.dumps(figures))
    return 1 if "error" in figures else 0


def configured_folder() -> Path:
    config = ROOT / "docs" / "handbook.toml"
    return config.parent / tomllib.loads(config.read_text(encoding="utf-8"))["source"]["path"]


def run(data: Path, weeks: list[date], first: str, last: str, folder: Path) -> dict[str, object]:
    config = (ROOT / "docs" / "handbook.toml").read_text(encoding="utf-8")
    lines = [
        f"path = {json.dumps(str(data))}" if line.startswith("path = ") else line
        for line in config.splitlines()
    ]
    lines = [
        f"start = {first}"
        if line.startswith("start = ")
        else f"end = {last}"
        if line.startswith("end = ")
        else line
        for line in lines
    ]
    (folder / "handbook.toml").write_text("\n".join(lines), encoding="utf-8")
    ends = {
        week: min(date.fromisoformat(last), week + timedelta(days=TEST_DAYS - 1)).isoformat()
        for week in weeks
    }
    seconds: dict[str, float] = {}

    def timed(name: str, *words: str) -> None:
        started = time.monotonic()
        done = mlops([*words], folder)
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 1)
        if done.returncode:
            raise FailedCommand(f"mlops {words[0]}: {done.stderr.strip().splitlines()[-1]}")

    try:
        timed("backfill", "backfill", "--from", first, "--to", ends[weeks[-1]])
        walk = ["--group", "model", "--from", str(weeks[0]), "--to", str(weeks[-1]), "--step", str(TEST_DAYS)]
        timed("train", "backfill", *walk)
        truth = frauds(data, first, ends[weeks[-1]])
        table = []
        for week, end in ends.items():
            scores = folder / f"{week}.parquet"
            timed(
                "score", "score", "--from", str(week), "--to", end, "--as-of", str(week), "--out", str(scores)
            )
            table.append(
                {
                    "week": str(week),
                    "developed_on": week in DEVELOPED,
                    **measure(pq.read_table(scores).to_pandas(), truth, week),
                }
            )
    except FailedCommand as error:
        return {"benchmark": "handbook", "error": str(error), "seconds": seconds}
    means = {
        "reported": [row for row in table if not row["developed_on"]],
        "developed_on": [row for row in table if row["developed_on"]],
    }
    averages = {name: {"weeks": len(rows), **mean(rows)} for name, rows in means.items() if rows}
    show(table, averages)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    seconds["total"] = round(sum(seconds.values()), 1)
    return {
        "benchmark": "handbook",
        "means": averages,
        "weeks": table,
        "published": PUBLISHED,
        "seconds": seconds,
        "peak_gb": round(peak, 2),
    }


class FailedCommand(Exception):
    """A command of the platform failed; the message is its last line."""


def mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in MEASURES}


def show(table: list[dict[str, Any]], averages: dict[str, dict[str, Any]]) -> None:
    """The same for a person, on stderr."""
    lines = [(row["week"] + (" (developed on)" if row["developed_on"] else ""), row) for row in table]
    lines += [(f"mean of {row['weeks']} {name.replace('_', ' ')}", row) for name, row in averages.items()]
    lines += [(f"published: {name}", row) for name, row in PUBLISHED.items()]
    print(f"{'test week from':44}{'AUC':>8}{'AP':>8}{'CP@100':>8}", file=sys.stderr)
    for name, row in lines:
        print(f"{name:44}" + "".join(f"{row[measure]:8.3f}" for measure in MEASURES), file=sys.stderr)


def mlops(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "MLOPS_HOME": str(folder / "home"),
        "MLOPS_CONFIG": str(folder / "handbook.toml"),
    }
    environment.pop("DAGSTER_HOME", None)
    return subprocess.run(
        [sys.executable, "-m", "mlops_assets", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def frauds(data: Path, first: str, until: str) -> pd.DataFrame:
    """The truth of every transaction, read beside the platform."""
    columns = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TX_FRAUD"]
    days = [data / f"{day}.parquet" for day in day_range(first, until) if (data / f"{day}.parquet").exists()]
    table = pd.concat([pd.read_parquet(path, columns=columns) for path in days], ignore_index=True)
    return table.assign(
        transaction_id=table["TRANSACTION_ID"].astype(str),
        day=table["TX_DATETIME"].dt.date,
        customer_id=table["CUSTOMER_ID"].astype(str),
    )


def measure(scores: pd.DataFrame, truth: pd.DataFrame, as_of: date) -> dict[str, Any]:
    """The book's three measures on the test days, without the cards that were known to be compromised on each
    of them.

    Known on test day k: frauds of the book's training week (D - 14 to D - 8), and of each day up to k - 8
    days, as their labels came in.
    """
    rows = scores.merge(
        truth[["transaction_id", "day", "TX_FRAUD"]], on="transaction_id", validate="one_to_one"
    )
    kept = []
    for day, group in rows.groupby("day"):
        known_from = as_of - timedelta(days=DELAY_DAYS + TRAIN_DAYS)
        known_to = day - timedelta(days=DELAY_DAYS + 1)
        known = truth[(truth["TX_FRAUD"] == 1) & (truth["day"] >= known_from) & (truth["day"] <= known_to)][
            "customer_id"
        ]
        kept.append(group[~group["customer_id"].isin(set(known))])
    left = pd.concat(kept)
    flags, values = left["TX_FRAUD"].astype(bool).to_numpy(), left["fraud_score"].to_numpy()
    return {
        "auc": round(roc_auc(flags, values), 4),
        "average_precision": round(average_precision(flags, values), 4),
        "card_precision_100": round(precision_at_k(left["day"], left["customer_id"], flags, values, 100), 4),
        "transactions": len(left),
        "frauds": int(flags.sum()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
