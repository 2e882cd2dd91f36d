"""The cost of one more day after 30, 60 and 120 days of history.

The cost depends on the day and the windows, not on the history.

Prints one JSON line.

    python benchmarks/increment.py --data DIR

The handbook's days through the platform's own assets, in one process for each round, after imports and the
reading of the declarations. Windows reach back 90 days, ids and labels 120 days. Until then each
day looks back on more days than the day before. The same run also makes all features of the whole history.
Peaks are those of the process while an asset is made. `idle_gb` is what the process holds before the first
asset.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from handbook import ROOT, configured_folder

HISTORIES = (30, 60, 120)
INGEST = ("raw_transactions", "raw_labels", "transactions", "labels", "verdicts")
FEATURES = ("customer_stats", "merchant_stats", "merchant_activity", "feature_vectors")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="the folder of the daily Parquet files (the `path` in docs/handbook.toml)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each day; the median counts (3)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first, last, *names = options.child
        print(json.dumps(make(names, first, last)))
        return 0
    data = options.data or configured_folder()
    days = sorted(path.stem for path in data.glob("*.parquet"))
    if not days:
        print(
            json.dumps(
                {
                    "benchmark": "increment",
                    "skipped": f"the data is not in {data}; name its folder with --data",
                }
            )
        )
        return 0
    if len(days) <= max(HISTORIES):
        parser.error(f"{data} holds {len(days)} days, and {max(HISTORIES) + 1} are needed")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(data.resolve(), days[0], options.rounds, Path(folder))))
    return 0


def measure(data: Path, first: str, rounds: int, folder: Path) -> dict[str, Any]:
    config = (ROOT / "docs" / "handbook.toml").read_text(encoding="utf-8")
    lines = [
        f"path = {json.dumps(str(data))}" if line.startswith("path = ") else line
        for line in config.splitlines()
    ]
    (folder / "handbook.toml").write_text("\n".join(lines), encoding="utf-8")
    environment = {
        **os.environ,
        "MLOPS_HOME": str(folder / "home"),
        "MLOPS_CONFIG": str(folder / "handbook.toml"),
    }
    environment.pop("DAGSTER_HOME", None)

    def child(start: int, end: int, names: tuple[str, ...]) -> dict[str, Any]:
        span = [(date.fromisoformat(first) + timedelta(days=n)).isoformat() for n in (start, end)]
        words = [sys.executable, __file__, "--child", *span, *names]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{span[0]} to {span[1]}: {result}", file=sys.stderr, flush=True)
        return result

    after, ingested = {}, 0
    for history in HISTORIES:
        child(ingested, history - 1, INGEST)
        whole = child(0, history - 1, FEATURES)
        runs = [child(history, history, INGEST + FEATURES) for _ in range(rounds)]
        ingested = history + 1
        after[history] = {
            "rows": runs[-1]["rows"],
            "seconds": round(median(run["total"] for run in runs), 2),
            "seconds_of": {
                name: round(median(run["seconds"][name] for run in runs), 3) for name in INGEST + FEATURES
            },
            "peak_gb_of": {name: max(run["peak_gb"][name] for run in runs) for name in INGEST + FEATURES},
            "idle_gb": runs[-1]["idle_gb"],
            "features_of_the_day_seconds": round(
                median(sum(run["seconds"][name] for name in FEATURES) for run in runs), 2
            ),
            "features_of_the_whole_history": {
                "rows": whole["rows"],
                "seconds": whole["total"],
                "peak_gb": max(whole["peak_gb"].values()),
            },
        }
    shortest, longest = after[HISTORIES[0]], after[HISTORIES[-1]]
    return {
        "benchmark": "increment",
        "rounds": rounds,
        "rounds_of_the_whole_history": 1,
        "after_days": after,
        "day_seconds_longest_to_shortest": round(longest["seconds"] / shortest["seconds"], 2),
        "whole_to_day_after_the_longest": round(
            longest["features_of_the_whole_history"]["seconds"] / longest["features_of_the_day_seconds"], 1
        ),
    }


def make(names: list[str], first: str, last: str) -> dict[str, Any]:
    """Make the assets for the days from `first` to `last` in one process, one after the other, as Dagster
    would call them.
    """
    from dagster import PartitionKeyRange, build_asset_context

    from feature_repo.lake.datasets import Lake
    from mlops_assets.definitions import defs, settings
    from mlops_assets.use_cases.fraud.case import FRAUD

    assets = {key.to_user_string(): definition for definition in defs.assets or [] for key in definition.keys}  # type: ignore[union-attr]
    resources = dict(defs.resources or {})
    resources["feature_store"].plan(FRAUD.feature_service)
    seconds, peaks, idle = {}, {}, _peak_gb()
    for name in names:
        definition = assets[name]
        needed = {key: resources[key] for key in definition.required_resource_keys & set(resources)}
        _forget_peak()
        started = time.perf_counter()
        days = (
            {"partition_key": first}
            if first == last
            else {"partition_key_range": PartitionKeyRange(first, last)}
        )
        with build_asset_context(**days) as context:
            outcome = definition(context, **needed)
            if hasattr(outcome, "__next__"):
                list(outcome)
        seconds[name], peaks[name] = round(time.perf_counter() - started, 3), _peak_gb()
    lake = Lake(settings.lake_root)
    rows = sum(m.rows for m in lake.manifests("transactions", lake.between("transactions", first, last)))
    return {
        "rows": rows,
        "total": round(sum(seconds.values()), 2),
        "seconds": seconds,
        "peak_gb": peaks,
        "idle_gb": idle,
    }


def _forget_peak() -> None:
    """Have Linux count the peak of this process from here on. psutil has no name for the peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_gb() -> float:
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM")
    )
    return round(int(line.split()[1]) / 1024**2, 3)


if __name__ == "__main__":
    raise SystemExit(main())
