"""Reading a feed: a million rows through `FileSource.rows`, from plain CSV, CSV with every value
quoted, and Parquet.

python benchmarks/reading.py [--rows 1000000] [--rounds 5] [--against CHECKOUT]

With `--against`, rounds alternate with the code of another checkout, each in a process of its own. `ratio` is
the median time here over the median time there, `cpu_ratio` that of the processor's time. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent.parent
DAY = date(2026, 3, 1)
KINDS = {"csv": "feed.csv", "quoted": "feed.csv", "parquet": "feed.parquet"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        print(json.dumps(measure(asked.worker)))
        return 0
    sides = {"here": HERE} | ({"there": asked.against.resolve()} if asked.against else {})
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), asked.rows)
        seconds = {kind: {side: [] for side in sides} for kind in KINDS}
        for number in range(asked.rounds):
            for kind, name in KINDS.items():
                for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
                    seconds[kind][side].append(in_process(sides[side], Path(folder) / kind / name))
    figures = {kind: summary(measured, asked.rows) for kind, measured in seconds.items()}
    print(json.dumps({"benchmark": "reading", "rows": asked.rows, "rounds": asked.rounds} | figures))
    return 0


def write(folder: Path, rows: int) -> None:
    draw = np.random.default_rng(7)
    feed = pa.table(
        {
            "transaction_id": pa.array(np.arange(rows)).cast(pa.string()),
            "event_timestamp": pa.array(
                np.sort(draw.integers(0, 86_400, rows)) + 1_772_323_200, pa.timestamp("s")
            ),
            "customer_id": pa.array(draw.integers(0, 50_000, rows)).cast(pa.string()),
            "merchant_id": pa.array(draw.integers(0, 10_000, rows)).cast(pa.string()),
            "amount": np.round(draw.lognormal(3, 1, rows), 2),
        }
    )
    for kind in KINDS:
        (folder / kind).mkdir()
    pq.write_table(feed, folder / "parquet" / "feed.parquet")
    text = feed.set_column(1, "event_timestamp", feed["event_timestamp"].cast(pa.string()))
    pcsv.write_csv(text, folder / "csv" / "feed.csv", pcsv.WriteOptions(quoting_style="none"))
    pcsv.write_csv(
        text.cast(pa.schema([(name, pa.string()) for name in text.column_names])),
        folder / "quoted" / "feed.csv",
    )


def in_process(checkout: Path, path: Path) -> tuple[float, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(path)]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
    )
    seconds, cpu = json.loads(done.stdout)
    return seconds, cpu


def measure(path: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    from mlops_assets.sources.file_source import FileSource
    from mlops_assets.sources.files_config import files_config
    from mlops_assets.use_cases.fraud.case import FRAUD

    source = FileSource(files_config(FRAUD)(path=str(path)))
    begin, cpu = time.perf_counter(), time.process_time()
    table = source.rows("transactions", DAY, DAY)
    seconds = time.perf_counter() - begin, time.process_time() - cpu
    assert table.num_rows == pq.read_metadata(path.parent.parent / "parquet" / "feed.parquet").num_rows
    return seconds


def summary(measured: dict[str, list[tuple[float, float]]], rows: int) -> dict[str, Any]:
    medians = {
        side: (median(seconds for seconds, _ in runs), median(cpu for _, cpu in runs))
        for side, runs in measured.items()
    }
    seconds, cpu = medians["here"]
    figures = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "rows_per_second": round(rows / seconds),
    }
    if "there" in medians:
        figures |= {
            "ratio": round(seconds / medians["there"][0], 3),
            "cpu_ratio": round(cpu / medians["there"][1], 3),
        }
    return figures


if __name__ == "__main__":
    sys.exit(main())
