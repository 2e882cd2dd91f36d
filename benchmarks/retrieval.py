"""Feast's historical retrieval: stock Feast on its DuckDB store against the engine behind the same call, on
the handbook's transactions.

python benchmarks/retrieval.py [--data DIR] [--sizes 50000,200000,400000] [--rounds 3]

Two views of finished features, the same rows for both: stock Feast reads them from one Parquet file a view,
ours from the lake, and every value has to be equal. `windowed` is what the product does: the same features
computed from the events at the same entities. All rows are asked of ours alone. Each side and size runs in a
process of its own; a side whose first round takes over a minute has that one only. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from handbook import configured_folder

from feature_repo.lake.datasets import Lake

VIEWS = {  # the windowed view, and which of its features are kept as finished rows
    "customer_stats": ("customer_id", ["num_txns_7d", "avg_txn_amount_7d", "avg_txn_amount_30d"]),
    "merchant_activity": ("merchant_id", ["merchant_num_txns_1d", "merchant_num_txns_30d"]),
}
TOO_LONG_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=configured_folder(), help="the handbook's daily Parquet files"
    )
    parser.add_argument("--sizes", default="50000,200000,400000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "ROWS"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        print(json.dumps(measure(asked.folder, asked.worker[0], int(asked.worker[1]), asked.rounds)))
        return 0
    if not asked.data.is_dir():
        print(json.dumps({"benchmark": "retrieval", "skipped": f"no handbook data at {asked.data}"}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(
                compare(
                    asked.data.resolve(), Path(folder), [int(s) for s in asked.sizes.split(",")], asked.rounds
                )
            )
        )
    return 0


def compare(data: Path, folder: Path, sizes: list[int], rounds: int) -> dict[str, Any]:
    rows = prepare(data, folder)
    result: dict[str, Any] = {"benchmark": "retrieval", "views": len(VIEWS), "events": rows, "sizes": []}
    for size in [*(s for s in sizes if s < rows), rows]:
        sides = ["plain", "windowed"] if size == rows else ["stock", "plain", "windowed"]
        found: dict[str, Any] = {
            "entities": size,
            **{side: worker(folder, side, size, rounds) for side in sides},
        }
        if "stock" in sides:
            answers = {side: pq.read_table(folder / f"{side}.parquet") for side in sides}
            found["values_equal"] = all(answers[side].equals(answers["stock"]) for side in sides)
            for side in sides[1:]:
                found[side]["times_stock"] = round(found["stock"]["seconds"] / found[side]["seconds"], 1)
        result["sizes"].append(found)
    return result


def prepare(data: Path, folder: Path) -> int:
    """The lake, the entity rows, and the stock project's files; the finished rows are the engine's own values
    at each transaction.
    """
    from feature_repo.engine.columns import microseconds
    from feature_repo.engine.from_feast import view_from_feast
    from feature_repo.engine.local.windows import view_values
    from feature_repo.store import open_store

    lake = Lake(folder / "home" / "lake")
    tables = []
    for path in sorted(data.glob("*.parquet")):
        raw = pq.read_table(
            path, columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT"]
        )
        at = raw["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        ids = {
            n: raw[c].cast(pa.string())
            for n, c in (
                ("transaction_id", "TRANSACTION_ID"),
                ("customer_id", "CUSTOMER_ID"),
                ("merchant_id", "TERMINAL_ID"),
            )
        }
        never = pa.array(np.zeros(raw.num_rows, bool))
        table = pa.table(
            {
                **ids,
                "event_timestamp": at,
                "created_timestamp": at,
                "amount": raw["TX_AMOUNT"],
                "is_declined": never,
            }
        )
        lake.write("transactions", path.stem, table, validated=True)
        tables.append(table)
    events = pa.concat_tables(tables)
    store = open_store(folder / "home", "feature_repo.fraud")
    for view, (key, features) in VIEWS.items():
        plan = view_from_feast(store.get_stream_feature_view(view), set(features))
        values = view_values(plan, events, events[key], microseconds(events["event_timestamp"]))
        finished = events.select([key, "event_timestamp", "created_timestamp"])
        for name in features:
            finished = finished.append_column(name, pa.array(values[name], from_pandas=True))
        # Of two payments in the same second one row is enough: both would claim to be the newest.
        at = microseconds(events["event_timestamp"])
        _, first = np.unique(
            np.char.add(np.asarray(events[key]).astype("U12"), at.astype("U20")), return_index=True
        )
        finished = finished.take(pa.array(np.sort(first)))
        pq.write_table(finished, folder / f"{view}.parquet")
        days = pc.strftime(finished["event_timestamp"], "%Y-%m-%d")
        for day in pc.unique(days).to_pylist():
            lake.write(f"finished_{view}", day, finished.filter(pc.equal(days, day)), validated=True)
    asked = (
        events.select(["customer_id", "merchant_id", "event_timestamp"])
        .to_pandas()
        .assign(row=np.arange(events.num_rows))
    )
    asked.sample(frac=1, random_state=1).to_parquet(folder / "entities.parquet", index=False)
    return len(asked)


def worker(folder: Path, side: str, size: int, rounds: int) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--folder",
        folder,
        "--rounds",
        str(rounds),
        "--worker",
        side,
        str(size),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} at {size}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(folder: Path, side: str, size: int, rounds: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    store = stock_store(folder) if side == "stock" else our_store(folder)
    refs = [
        f"{view if side == 'windowed' else 'finished_' + view}:{name}"
        for view, (_, features) in VIEWS.items()
        for name in features
    ]
    entities = pd.read_parquet(folder / "entities.parquet").head(size)
    store.get_historical_features(entities.head(100), features=refs).to_df()  # what is imported on first use
    seconds: list[float] = []
    while len(seconds) < (1 if seconds and seconds[0] > TOO_LONG_S else rounds):
        started = time.perf_counter()
        found = store.get_historical_features(entities, features=refs).to_df()
        seconds.append(time.perf_counter() - started)
    names = [r.split(":")[1] for r in refs]
    table = pa.Table.from_pandas(found.sort_values("row")[["row", *names]], preserve_index=False)
    pq.write_table(
        pa.table({n: table[n].cast(pa.float64()) for n in table.column_names}), folder / f"{side}.parquet"
    )
    return {"seconds": round(median(seconds), 3), "rounds": len(seconds), "peak_gb": peak_gb()}


def peak_gb() -> float:
    """The peak of this process alone, which psutil does not know.

    What getrusage says of a new process includes the process that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024**2, 2)


def definitions(place: str) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64, String

    result: list[Any] = []
    for view, (key, features) in VIEWS.items():
        entity = Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=ValueType.STRING)
        source = FileSource(
            name=f"finished_{view}",
            path=place.format(view),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
        schema = [
            Field(name=key, dtype=String),
            *(Field(name=n, dtype=Int64 if "num" in n else Float64) for n in features),
        ]
        result += [
            entity,
            FeatureView(
                name=f"finished_{view}", entities=[entity], source=source, ttl=timedelta(0), schema=schema
            ),
        ]
    return result


def our_store(folder: Path) -> Any:
    from feature_repo.store import open_store

    store = open_store(folder / "home", "feature_repo.fraud")
    store.apply(definitions("lake://finished_{}"))
    return store


def stock_store(folder: Path) -> Any:
    from feast import FeatureStore, RepoConfig

    project = folder / "stock"
    project.mkdir(exist_ok=True)
    config = RepoConfig(
        project="stock",
        provider="local",
        registry=str(project / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(project / "online.db")},
        entity_key_serialization_version=3,
    )
    config.repo_path = project
    store = FeatureStore(config=config)
    store.apply(definitions(f"{folder}/{{}}.parquet"))
    return store


if __name__ == "__main__":
    raise SystemExit(main())
