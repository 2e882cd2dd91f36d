"""How fast the simulated bank makes raw transactions, compared with one payment at a time.

Prints one JSON line.

python benchmarks/simulated_bank.py [--customers 20000] [--merchants 5000] [--days 15]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from bisect import bisect
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import TypeVar

import pyarrow as pa

from mlops_assets.use_cases.fraud.payments import PAYMENTS
from mlops_assets.use_cases.fraud.population import LOCAL_SHARE
from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig

ROUNDS = 3
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--merchants", type=int, default=5_000)
    parser.add_argument("--days", type=int, default=15)
    asked = parser.parse_args()
    config = SimulatorConfig(customers=asked.customers, merchants=asked.merchants)
    last = config.start + timedelta(days=asked.days - 1)

    def vectorized() -> int:
        fresh = BankSource(
            config
        )  # nothing remembered from the round before, but its customers: they are made once in its life
        fresh._people = people
        return fresh.transactions(config.start, last).num_rows

    people, setup = timed(lambda: BankSource(config).people)
    rounds = [timed(vectorized) for _ in range(ROUNDS)]
    plain = [timed(lambda: one_at_a_time(config, people, config.start)) for _ in range(ROUNDS)]
    per_second = median(rows / seconds for rows, seconds in rounds)
    plain_per_second = median(rows / seconds for rows, seconds in plain)
    result = {
        "benchmark": "simulator",
        "rows": rounds[0][0],
        "transactions_per_second": round(per_second),
        "rounds": ROUNDS,
        "setup_seconds": round(setup, 3),
        "one_at_a_time": {"rows": plain[0][0], "transactions_per_second": round(plain_per_second)},
        "ratio": round(per_second / plain_per_second, 1),
    }
    print(json.dumps(result))


def one_at_a_time(config: SimulatorConfig, people: object, day: date) -> int:
    """One ordinary day without fraud, payment by payment, into the same columns: less than the simulator
    does.
    """
    rng = random.Random(config.seed)
    names = ("rate", "mean_amount", "spread", "peak_hour", "price_level", "habit", "neighbours")
    rate, mean, spread, peak, price, habit, neighbours = (getattr(people, name).tolist() for name in names)
    nearby = len(neighbours[0])
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = []
    for customer in range(config.customers):
        left = rng.expovariate(1.0)
        while left < rate[customer]:
            left += rng.expovariate(1.0)
            moment = midnight + timedelta(hours=rng.gauss(peak[customer], 3.5) % 24)
            if rng.random() < LOCAL_SHARE:
                place = bisect(habit, customer + rng.random(), customer * nearby, (customer + 1) * nearby - 1)
                merchant = neighbours[customer][place - customer * nearby]
            else:
                merchant = rng.randrange(config.merchants)
            amount = mean[customer] * price[merchant] * rng.lognormvariate(0.0, spread[customer])
            rows.append((moment, customer, merchant, max(round(amount, 2), 0.01), rng.random() < 0.015))
    rows.sort()
    ids = [f"T{day:%Y%m%d}{i:07d}" for i in range(len(rows))]
    times = [row[0] for row in rows]
    columns = [
        ids,
        times,
        times,
        [f"C{row[1]:06d}" for row in rows],
        [f"M{row[2]:06d}" for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
    ]
    arrays = [*columns, [None] * len(rows), [day] * len(rows)]
    return pa.table(
        [
            pa.array(values, type=field.type)
            for values, field in zip(arrays, PAYMENTS.raw_columns, strict=True)
        ],
        schema=PAYMENTS.raw_columns,
    ).num_rows


def timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


if __name__ == "__main__":
    main()
