"""Windowed features, Parquet to Parquet, beside the least that any engine must do and the handbook's own
pandas method.

Prints one JSON line.

    python benchmarks/windowed_features.py --data DIR [--copies 10]

The handbook's transactions, 0.5 % of them hours late, become fifteen columns. Of the customer: count and
average over 1, 7 and 30 days, and declines over 7. Of the merchant: count and fraud rate over 1, 7, 30 and
90 days, tiled by the hour as the fraud case declares it. What is timed is `LocalEngine.view_by_day` and
`write_by_day`,
as the assets call them. It is compared with
- the floor: a plain DuckDB read of the inputs and COPY of the same output, which is in its memory beforehand,
- pandas as the handbook has it: a Python call for each key, rolling windows within it, and fraud counts as
  differences of two windows for the delay,
- pandas' quicker way: one `groupby().rolling()` for each column.
`--copies` times as many rows are the same rows with a suffix to every id.

Equality with pandas is asserted without late rows and without tiling, which pandas has not; rows that share
key and instant with another are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from handbook import configured_folder

DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
DELAY_DAYS = 7  # after which the handbook takes a label as known
CUSTOMER_DAYS, MERCHANT_DAYS = (1, 7, 30), (1, 7, 30, 90)
VIEWS = ("customer", "merchant", "merchant_risk")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="the folder of the daily Parquet files (the `path` in docs/handbook.toml)",
    )
    parser.add_argument(
        "--copies", type=int, default=10, help="how many times the rows, for the exponent (10)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement; the median counts (3)")
    parser.add_argument("--child", nargs=4, metavar=("WORK", "LAKE", "OUT", "COPIES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    data = options.data or configured_folder()
    if options.child:
        work, lake, out, copies = options.child
        print(json.dumps(CHILDREN[work](data, lake, out, int(copies))))
        return 0
    if not any(data.glob("*.parquet")):
        print(
            json.dumps(
                {
                    "benchmark": "features",
                    "skipped": f"the data is not in {data}; name its folder with --data",
                }
            )
        )
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(data.resolve(), options.copies, options.rounds, Path(folder))))
    return 0


def measure(data: Path, copies: int, rounds: int, folder: Path) -> dict[str, Any]:
    def child(work: str, lake: str, out: str, times: int = 1) -> dict[str, Any]:
        """In a process of its own, whose peak memory is this work's alone.

        This one stays small, for a child begins with its parent's peak.
        """
        words = [
            sys.executable,
            __file__,
            "--data",
            str(data),
            "--child",
            work,
            str(folder / lake),
            str(folder / out),
            str(times),
        ]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{work} {times}x: {result}", file=sys.stderr, flush=True)
        return result

    def timed(work: str, lake: str, out: str, times: int = 1) -> dict[str, Any]:
        runs = [child(work, lake, out, times) for _ in range(rounds)]
        return {
            **runs[-1],
            "seconds": round(median(r["seconds"] for r in runs), 2),
            "peak_gb": round(max(r["peak_gb"] for r in runs), 2),
        }

    child("prepare", "plain", "unused", 0)
    child("prepare", "lake", "unused")
    child("engine_untiled", "plain", "untiled")
    ours = timed("engine", "lake", "made")
    floor = timed("floor", "lake", "made")
    handbook = timed("pandas_handbook", "plain", "pandas_handbook")
    grouped = timed("pandas_grouped", "plain", "pandas_grouped")
    equal = child("equality", "plain", "untiled")
    child("prepare", "many", "unused", copies)
    many = timed("engine", "many", "made", copies)
    return {
        "benchmark": "features",
        "rows": ours["rows"],
        "columns": 15,
        "rounds": rounds,
        "seconds": ours["seconds"],
        "peak_gb": ours["peak_gb"],
        "floor": {k: floor[k] for k in ("seconds", "peak_gb")},
        "ratio_to_floor": round(ours["seconds"] / floor["seconds"], 2),
        "pandas_as_the_handbook": {k: handbook[k] for k in ("seconds", "peak_gb")},
        "times_faster_than_pandas": round(handbook["seconds"] / ours["seconds"], 1),
        "pandas_groupby_rolling": {k: grouped[k] for k in ("seconds", "peak_gb")},
        "times_faster_than_groupby_rolling": round(grouped["seconds"] / ours["seconds"], 1),
        "equal_to_pandas": equal,
        "copies": copies,
        f"at_{copies}x": {k: many[k] for k in ("rows", "seconds", "peak_gb")},
        "exponent": round(
            math.log(many["seconds"] / ours["seconds"]) / math.log(many["rows"] / ours["rows"]), 3
        ),
    }


# The data: a lake of transactions and of verdicts, as the platform's own ingestion would leave it.


def prepare(data: Path, lake_root: str, _: str, copies: int) -> dict[str, Any]:
    """`copies` 0 is one copy in which nothing is late."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from feature_repo.lake.datasets import Lake

    names = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
    source = pa.concat_tables([pq.read_table(path, columns=names) for path in sorted(data.glob("*.parquet"))])
    event_us = source["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    noise = source["TRANSACTION_ID"].to_numpy() * 2_654_435_761 % 2**32
    created_us = event_us + np.where((noise % 200 == 0) & (copies > 0), (1 + noise // 200 % 36) * HOUR_US, 0)
    known_us = np.maximum(event_us + DELAY_DAYS * DAY_US, created_us)
    time_of = pa.timestamp("us", tz="UTC")
    ids = {
        name: source[column].cast(pa.string())
        for name, column in (
            ("transaction_id", "TRANSACTION_ID"),
            ("customer_id", "CUSTOMER_ID"),
            ("merchant_id", "TERMINAL_ID"),
        )
    }
    of_transactions = {"amount": source["TX_AMOUNT"], "is_declined": pa.array(noise % 50 == 1)}
    of_verdicts = {"is_fraud": pc.equal(source["TX_FRAUD"], 1)}
    lake = Lake(lake_root)
    last = int(
        created_us.max() // DAY_US
    )  # a verdict that becomes known after the last transaction is never looked at
    for dataset, happened_us, arrived_us, columns in (
        ("transactions", event_us, created_us, of_transactions),
        ("verdicts", known_us, known_us, of_verdicts),
    ):
        table = pa.table(
            {
                **ids,
                "event_timestamp": pa.array(happened_us, time_of),
                "created_timestamp": pa.array(arrived_us, time_of),
                **columns,
            }
        )
        order = np.lexsort((happened_us, arrived_us // DAY_US))
        table, days = table.take(pa.array(order)).combine_chunks(), arrived_us[order] // DAY_US
        for day in range(int(event_us.min() // DAY_US), last + 1):
            start, end = np.searchsorted(days, [day, day + 1])
            lake.write(dataset, _name_of(day), _copied(table[start:end], copies), validated=True)
    return {"rows": source.num_rows * max(copies, 1)}


def _copied(table: Any, copies: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if copies <= 1:
        return table
    parts = []
    for number in range(copies):
        ids = {
            name: pc.binary_join_element_wise(table[name], str(number), "-")
            for name in ("transaction_id", "customer_id", "merchant_id")
        }
        parts.append(pa.table({**{name: table[name] for name in table.column_names}, **ids}))
    return pa.concat_tables(parts).sort_by([("event_timestamp", "ascending")])


def _name_of(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


# What is measured.


def clocked(work: Callable[[], int]) -> dict[str, Any]:
    started = time.perf_counter()
    rows = work()
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "seconds": round(seconds, 3),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 3),
    }


def engine(data: Path, lake_root: str, out: str, copies: int, hop_us: int = HOUR_US) -> dict[str, Any]:
    from feature_repo.engine.local.by_day import write_by_day
    from feature_repo.engine.local.engine import LocalEngine
    from feature_repo.lake.datasets import Lake

    def views() -> int:
        lake, made, rows = Lake(lake_root), Lake(out), 0
        days = lake.partitions("transactions")
        for view in plans(hop_us):
            written = write_by_day(
                made, view.name, LocalEngine(lake).view_by_day(view, "transactions", "transaction_id", days)
            )
            rows = sum(manifest.rows for manifest in written)
        return rows

    return clocked(views)


def engine_untiled(data: Path, lake_root: str, out: str, copies: int) -> dict[str, Any]:
    return engine(data, lake_root, out, copies, hop_us=0)


def plans(hop_us: int) -> list[Any]:
    from feature_repo.engine.plan import Aggregate, ViewPlan

    def over(days: Iterable[int], function: str, column: str, name: str) -> list[Aggregate]:
        return [Aggregate(f"{name}_{d}d", column, function, d * DAY_US) for d in days]

    customer = [
        *over(CUSTOMER_DAYS, "count", "transaction_id", "customer_count"),
        *over(CUSTOMER_DAYS, "avg", "amount", "customer_avg"),
        *over((7,), "sum", "is_declined", "customer_declines"),
    ]
    scales = {"amount": 2, "is_declined": 0, "is_fraud": 0}
    return [
        ViewPlan("customer", "customer_id", "transactions", 0, tuple(customer), scales),
        ViewPlan(
            "merchant",
            "merchant_id",
            "transactions",
            hop_us,
            tuple(over(MERCHANT_DAYS, "count", "transaction_id", "merchant_count")),
            scales,
        ),
        ViewPlan(
            "merchant_risk",
            "merchant_id",
            "verdicts",
            hop_us,
            tuple(over(MERCHANT_DAYS, "avg", "is_fraud", "merchant_fraud_rate")),
            scales,
        ),
    ]


def floor(data: Path, lake_root: str, out: str, copies: int) -> dict[str, Any]:
    import duckdb

    from feature_repo.lake.datasets import Lake

    lake, made = Lake(lake_root), Lake(out)
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as folder:
        for view in VIEWS:
            connection.execute(
                f"CREATE TABLE {view} AS FROM read_parquet({made.files(view, made.partitions(view))})"
            )

        def read_and_write() -> int:
            for dataset, columns in (
                (
                    "transactions",
                    (
                        "transaction_id, event_timestamp, created_timestamp, customer_id, merchant_id,"
                        " amount, is_declined"
                    ),
                ),
                ("verdicts", "event_timestamp, created_timestamp, merchant_id, is_fraud"),
            ):
                connection.execute(
                    f"CREATE TABLE {dataset} AS SELECT {columns} FROM"
                    f" read_parquet({lake.files(dataset, lake.partitions(dataset))})"
                )
            for view in VIEWS:
                connection.execute(f"COPY {view} TO '{folder}/{view}.parquet' (FORMAT parquet)")
            return 0

        return clocked(read_and_write)


def pandas_handbook(data: Path, lake_root: str, out: str, copies: int) -> dict[str, Any]:
    return clocked(lambda: _pandas(lake_root, out, _as_the_handbook))


def pandas_grouped(data: Path, lake_root: str, out: str, copies: int) -> dict[str, Any]:
    return clocked(lambda: _pandas(lake_root, out, _grouped))


def _pandas(lake_root: str, out: str, method: Callable[[Any], Any]) -> int:
    frame = method(_frame(lake_root))
    Path(out).mkdir(exist_ok=True)
    frame.to_parquet(f"{out}/features.parquet")
    return len(frame)


def _frame(lake_root: str) -> Any:
    """Transactions by time, with their label: the one frame that the handbook works on.

    The frame has no column for late events.
    """
    from feature_repo.lake.datasets import Lake

    lake = Lake(lake_root)
    frame = lake.read("transactions", lake.partitions("transactions")).to_pandas()
    labels = lake.read("verdicts", lake.partitions("verdicts"), ["transaction_id", "is_fraud"]).to_pandas()
    frame = frame.merge(labels.astype({"is_fraud": float}), on="transaction_id", how="left").fillna(
        {"is_fraud": 0.0}
    )
    return frame.sort_values("event_timestamp", kind="stable", ignore_index=True)


def _as_the_handbook(frame: Any) -> Any:
    """`get_customer_spending_behaviour_features` and `get_count_risk_rolling_window` of its chapter on
    features, the transaction itself left out.
    """

    def of_customer(rows: Any) -> Any:
        rows = rows.sort_values("event_timestamp")
        rows.index = rows["event_timestamp"]
        for days in CUSTOMER_DAYS:
            window = rows["amount"].rolling(f"{days}D", closed="left")
            total, count = window.sum(), window.count()
            rows[f"customer_count_{days}d"], rows[f"customer_avg_{days}d"] = (
                count.to_numpy(),
                (total / count).to_numpy(),
            )
        rows["customer_declines_7d"] = rows["is_declined"].rolling("7D", closed="left").sum().to_numpy()
        rows.index = rows["transaction_id"]
        return rows

    def of_merchant(rows: Any) -> Any:
        rows = rows.sort_values("event_timestamp")
        rows.index = rows["event_timestamp"]
        delay = rows["is_fraud"].rolling(f"{DELAY_DAYS}D", closed="left")
        frauds_of_delay, count_of_delay = delay.sum().fillna(0), delay.count().fillna(0)
        for days in MERCHANT_DAYS:
            both = rows["is_fraud"].rolling(f"{DELAY_DAYS + days}D", closed="left")
            frauds, count = both.sum().fillna(0) - frauds_of_delay, both.count().fillna(0) - count_of_delay
            rows[f"merchant_count_{days}d"] = (
                rows["amount"].rolling(f"{days}D", closed="left").count().to_numpy()
            )
            rows[f"merchant_fraud_rate_{days}d"] = (frauds / count).to_numpy()
        rows.index = rows["transaction_id"]
        return rows

    frame = (
        frame.groupby("customer_id", group_keys=False)[frame.columns.tolist()]
        .apply(of_customer)
        .reset_index(drop=True)
    )
    frame = (
        frame.groupby("merchant_id", group_keys=False)[frame.columns.tolist()]
        .apply(of_merchant)
        .reset_index(drop=True)
    )
    return frame.sort_values("event_timestamp")


def _grouped(frame: Any) -> Any:
    """The same numbers by pandas' own loop over the keys, one `groupby().rolling()` for each column that is
    wanted.
    """
    import numpy as np

    def rolled(rows: Any, key: str, days: int, column: str, function: str) -> Any:
        return getattr(
            rows.groupby(key).rolling(f"{days}D", on="event_timestamp", closed="left")[column], function
        )().to_numpy()

    rows = frame.sort_values("customer_id", kind="stable", ignore_index=True)
    for days in CUSTOMER_DAYS:
        rows[f"customer_count_{days}d"] = rolled(rows, "customer_id", days, "amount", "count")
        rows[f"customer_avg_{days}d"] = rolled(rows, "customer_id", days, "amount", "mean")
    rows["customer_declines_7d"] = rolled(rows, "customer_id", 7, "is_declined", "sum")
    rows = rows.sort_values(["merchant_id", "event_timestamp"], kind="stable", ignore_index=True)
    frauds_of_delay, count_of_delay = (
        np.nan_to_num(rolled(rows, "merchant_id", DELAY_DAYS, "is_fraud", f)) for f in ("sum", "count")
    )
    for days in MERCHANT_DAYS:
        frauds, count = (
            np.nan_to_num(rolled(rows, "merchant_id", DELAY_DAYS + days, "is_fraud", f))
            for f in ("sum", "count")
        )
        rows[f"merchant_count_{days}d"] = rolled(rows, "merchant_id", days, "amount", "count")
        with np.errstate(invalid="ignore"):
            rows[f"merchant_fraud_rate_{days}d"] = (frauds - frauds_of_delay) / (count - count_of_delay)
    return rows.sort_values("event_timestamp")


def equality(data: Path, lake_root: str, out: str, copies: int) -> dict[str, Any]:
    """Every value of the untiled views against both pandas frames; rows that share key and instant with
    another are counted and left out.
    """
    import numpy as np
    import pandas as pd

    from feature_repo.lake.datasets import Lake

    made = Lake(out)
    ours = pd.concat(
        [made.read(view, made.partitions(view)).to_pandas().set_index("transaction_id") for view in VIEWS],
        axis=1,
    )
    compared = 0
    for method in ("pandas_handbook", "pandas_grouped"):
        theirs = (
            pd.read_parquet(Path(out).parent / method / "features.parquet")
            .set_index("transaction_id")
            .loc[ours.index]
        )
        tied = theirs.duplicated(["customer_id", "event_timestamp"], keep=False) | theirs.duplicated(
            ["merchant_id", "event_timestamp"], keep=False
        )
        for name in (a.name for view in plans(0) for a in view.aggregates):
            mine, other = ours.loc[~tied, name].to_numpy(), theirs.loc[~tied, name].to_numpy(dtype=float)
            if not name.startswith(("customer_avg", "merchant_fraud_rate")):
                other = np.nan_to_num(other)  # pandas has no sum of nothing
            same = np.isclose(mine, other, rtol=1e-9, atol=1e-9, equal_nan=True)
            if not same.all():
                row = int(np.flatnonzero(~same)[0])
                raise SystemExit(
                    f"{name} of transaction {ours.index[~tied][row]}: {mine[row]!r}, {method} says"
                    f" {other[row]!r}"
                )
            compared += len(mine)
    return {"values": compared, "tied_rows_left_out": int(tied.sum()), "tiled": False, "late_rows": False}


CHILDREN: dict[str, Callable[[Path, str, str, int], dict[str, Any]]] = {
    one.__name__: one
    for one in (prepare, engine, engine_untiled, floor, pandas_handbook, pandas_grouped, equality)
}


if __name__ == "__main__":
    raise SystemExit(main())
