"""How soon one worker of the service sees what another one has accepted.

python benchmarks/freshness.py --data DIR [--work DIR] [--pairs 100000]

A pair writes an event through one worker and, as soon as that is answered, scores the same key through the
other one. Both are processes on one port and one store. Every second pair goes the other way. The
logged vector of each scored event tells whether it had seen the written one: the time since the key's last
event is that between the two, or the answer was stale. Prints one JSON line; exit 1 where one was stale.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from handbook import ROOT, configured_folder

WORKERS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="the folder of the daily Parquet files (the `path` in docs/handbook.toml)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "var" / "benchmark",
        help="where the prepared home is kept (var/benchmark)",
    )
    parser.add_argument("--pairs", type=int, default=100_000, help="how many (100000)")
    options = parser.parse_args()
    data = options.data or configured_folder()
    if not any(data.glob("*.parquet")):
        why = f"the data is not in {data}; name its folder with --data"
        print(json.dumps({"benchmark": "freshness", "skipped": why}))
        return 0
    figures = measure(data, options.work, options.pairs)
    print(json.dumps({"benchmark": "freshness", **figures}))
    return 1 if figures["stale"] else 0


def measure(data: Path, work: Path, pairs: int) -> dict[str, Any]:
    from load.clients.pairs import send_pairs, stale_ids
    from load.prepared import ALLOW, prepared
    from load.services import service_on

    ready = prepared(data, work)
    with service_on(ready, ALLOW, WORKERS, "freshness") as service:
        start = datetime.combine(ready.last + timedelta(days=1), datetime.min.time(), UTC)
        began_s = time.perf_counter()
        visible, refused = send_pairs(service.server.port, service.worker_processes(), pairs, start)
        seconds = time.perf_counter() - began_s
        stale = stale_ids(service.database, pairs)
    if stale:
        print(f"stale: {', '.join(stale[:20])}", file=sys.stderr)
    return {
        "events": ready.events,
        "workers": WORKERS,
        "pairs": pairs,
        "pairs_per_second": round(pairs / seconds),
        "stale": len(stale),
        "refused_and_sent_again": refused,
        "accepted_to_visible_ms": visible,
    }


if __name__ == "__main__":
    raise SystemExit(main())
