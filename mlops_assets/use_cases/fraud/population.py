"""The simulated bank's customers and merchants, and what an ordinary day of theirs looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_repo.times import DAY_US, HOUR_US

NEIGHBOURS = 40  # merchants that a customer visits
LOCAL_SHARE = 0.92  # of a customer's payments, the rest goes to any merchant by its popularity
TRAVELLERS, TRAVEL_RATE = (
    0.01,
    4.0,
)  # of customers on a day; how many times as often they pay then, and anywhere
SPLURGES, DECLINES = (
    0.015,
    0.015,
)  # of legitimate payments: unusually large ones, and ones that the issuer refused
MILLISECOND_US = 1_000
WEEKDAY = np.array([0.95, 0.92, 0.95, 1.0, 1.12, 1.18, 0.88])  # Monday first; the mean is 1


@dataclass(frozen=True)
class Rows:
    """Payments of one day in columns: positions of customer and merchant, microseconds of the day, the
    amount, and which pattern (0: none).
    """

    customer: np.ndarray
    merchant: np.ndarray
    time_us: np.ndarray
    amount: np.ndarray
    declined: np.ndarray
    pattern: np.ndarray

    def __len__(self) -> int:
        return len(self.customer)


@dataclass(frozen=True)
class Population:
    """Everybody's habits. Amounts are in currency units, times in hours, rates in payments a day."""

    mean_amount: np.ndarray
    spread: np.ndarray
    rate: np.ndarray
    peak_hour: np.ndarray
    price_level: np.ndarray
    popularity: np.ndarray
    neighbours: np.ndarray  # customers × NEIGHBOURS: merchant positions
    habit: (
        np.ndarray
    )  # cumulative share of each neighbour, plus the customer's position: one sorted line to search

    @property
    def customers(self) -> int:
        return len(self.rate)

    @property
    def merchants(self) -> int:
        return len(self.popularity)

    def ordinary(self, rng: np.random.Generator, weekday: int) -> Rows:
        """A day without fraud."""
        travels = rng.random(self.customers) < TRAVELLERS
        counts = rng.poisson(self.rate * WEEKDAY[weekday] * np.where(travels, TRAVEL_RATE, 1.0))
        customer = np.repeat(np.arange(self.customers), counts)
        n = len(customer)
        hour = (self.peak_hour[customer] + 3.5 * rng.standard_normal(n)) % 24.0
        local = (rng.random(n) < LOCAL_SHARE) & ~travels[customer]
        merchant = np.where(local, self.nearby(rng, customer), self.anywhere(rng, n))
        amount = (
            self.mean_amount[customer]
            * self.price_level[merchant]
            * np.exp(self.spread[customer] * rng.standard_normal(n))
        )
        amount *= np.where(rng.random(n) < SPLURGES, rng.uniform(2.5, 6.0, n), 1.0)
        return Rows(
            customer, merchant, to_us(hour), amount, rng.random(n) < DECLINES, np.zeros(n, dtype=np.int8)
        )

    def nearby(self, rng: np.random.Generator, customer: np.ndarray) -> np.ndarray:
        """A merchant for each payment, by its customer's habits."""
        place = np.searchsorted(self.habit, customer + rng.random(len(customer)), side="right")
        return self.neighbours.reshape(-1)[np.minimum(place, self.habit.size - 1)]

    def anywhere(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Merchants by popularity alone."""
        return np.minimum(
            np.searchsorted(np.cumsum(self.popularity), rng.random(n), side="right"), self.merchants - 1
        )


def to_us(hours: np.ndarray) -> np.ndarray:
    """Hours of the day as whole milliseconds within the day, in microseconds."""
    return np.clip(
        (hours * (HOUR_US / MILLISECOND_US)).astype(np.int64) * MILLISECOND_US, 0, DAY_US - MILLISECOND_US
    )


def populate(rng: np.random.Generator, customers: int, merchants: int, payments_per_day: float) -> Population:
    """Draw a population; the mean of the customers' rates is `payments_per_day`."""
    from scipy.spatial import cKDTree

    homes, shops = rng.uniform(0.0, 100.0, (customers, 2)), rng.uniform(0.0, 100.0, (merchants, 2))
    popularity = rng.lognormal(0.0, 1.0, merchants)
    distance, neighbours = cKDTree(shops).query(homes, k=min(NEIGHBOURS, merchants))
    distance, neighbours = distance.reshape(customers, -1), neighbours.reshape(customers, -1)
    liking = popularity[neighbours] * np.exp(-distance / 6.0)
    shares = np.cumsum(liking, axis=1) / liking.sum(axis=1, keepdims=True)
    shares[:, -1] = 1.0
    rate = rng.gamma(2.0, 1.0, customers)
    return Population(
        mean_amount=np.clip(rng.lognormal(np.log(40.0), 0.6, customers), 5.0, 300.0),
        spread=rng.uniform(0.3, 0.6, customers),
        rate=rate * (payments_per_day / rate.mean()),
        peak_hour=rng.normal(14.0, 2.5, customers),
        price_level=rng.lognormal(0.0, 0.25, merchants),
        popularity=popularity / popularity.sum(),
        neighbours=neighbours,
        habit=(np.arange(customers)[:, None] + shares).reshape(-1),
    )
