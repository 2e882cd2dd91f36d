"""The scoring service beside other servers with the same model: top rates, latencies, and the start.

python benchmarks/serving.py --data DIR [--work DIR] [--rivals mlserver,mlflow,asgi,bentoml]

The home has the handbook's whole history as its state. The service runs as in production: every decision is
logged, metrics are on. Transactions go on where the history ends, at its own pace of event time. Ready
vectors are of the history's last days. Every answer of the service is checked: its status, its decision and
whether it has reasons. The log holds as many decisions as were answered. Of the other servers the status is
checked.

Every cell is measured in each round, and the median counts. The order of the servers changes in each
round, because a machine's speed drifts. wrk sends at saturation. The rate of the latencies
is half of the highest median, by a client that counts from the intended moment. Prints one JSON line, with
what was measured so far where a part fails; exit 1 then, and where the service refused a request.

benchmarks/rivals/setup.sh installs MLServer and BentoML; a rival that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Benchmarks have this folder first on their path, where this file hides the package of the same name. By this
# path its modules are found nevertheless. So this file itself imports nothing of the project up here.
__path__ = [str(ROOT / "serving")]

KINDS, DECISIONS = ("vector", "transaction", "batch"), ("allow", "block", "mixed")
CONNECTIONS, WORKERS = (1, 8, 64), (1, 2)
RIVALS = ("mlserver", "mlflow", "asgi", "bentoml")


def main() -> int:
    from handbook import configured_folder
    from load.bench import ServingBench
    from load.clients.wrk import MISSING, has_wrk
    from load.prepared import prepared

    options = arguments()
    data = options.data or configured_folder()
    if not any(data.glob("*.parquet")):
        print(json.dumps(skipped(f"the data is not in {data}; name its folder with --data")))
        return 0
    if not has_wrk():
        print(json.dumps(skipped(MISSING)))
        return 0
    bench = ServingBench(prepared(data, options.work), options)
    try:
        bench.run()
    finally:
        figures = bench.figures()
        print(json.dumps(figures), flush=True)
    return 0 if figures["targets"]["failed_requests"]["reached"] else 1


def arguments() -> argparse.Namespace:
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
    parser.add_argument(
        "--environments",
        type=Path,
        default=ROOT / "var" / "rivals",
        help="where setup.sh has put the rivals (var/rivals)",
    )
    parser.add_argument("--kinds", type=one_of(KINDS), default=KINDS, help="what is sent")
    parser.add_argument(
        "--decisions", type=one_of(DECISIONS), default=DECISIONS, help="what the service decides"
    )
    parser.add_argument("--connections", type=numbers, default=CONNECTIONS, help="how many at once (1,8,64)")
    parser.add_argument("--workers", type=numbers, default=WORKERS, help="processes of the service (1,2)")
    parser.add_argument(
        "--rivals", type=one_of(("", *RIVALS)), default=RIVALS, help="the other servers; empty: none"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a cell in a round (10)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts (3)")
    parser.add_argument(
        "--latency-minutes",
        type=float,
        default=10.0,
        help="at half of one worker's top rate, for each kind and decisions; 0: not at all (10)",
    )
    options = parser.parse_args()
    if options.latency_minutes and 1 not in options.workers:
        parser.error("--latency-minutes needs 1 among --workers: the rate is half of one worker's top rate")
    return options


def one_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return tuple(name for name in names if name)

    return read


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def skipped(why: str) -> dict[str, str]:
    return {"benchmark": "serving", "skipped": why}


if __name__ == "__main__":
    raise SystemExit(main())
