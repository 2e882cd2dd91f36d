"""How fraud happens in the simulated bank: four patterns, each a function of the day alone, so that any day
can be made without the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mlops_assets.use_cases.fraud.population import Population, Rows, to_us

PATTERNS = ("", "compromised_merchant", "stolen_card", "large_amount", "card_testing")
COMPROMISED_MERCHANT, STOLEN_CARD, LARGE_AMOUNT, CARD_TESTING = 1, 2, 3, 4
LONGEST_COMPROMISE, LONGEST_THEFT = 21, 3  # days

Stream = Callable[[str, int], np.random.Generator]  # (purpose, day number) -> that day's own random numbers


def compromised_merchants(
    rows: Rows, people: Population, stream: Stream, day: int, starts_per_day: float
) -> Rows:
    """For 5 to 21 days most payments at a merchant are made with copies of cards, of larger amounts."""
    active = np.zeros(people.merchants, dtype=bool)
    for start in range(day - LONGEST_COMPROMISE + 1, day + 1):
        rng = stream("compromise", start)
        merchants = people.anywhere(rng, int(rng.poisson(starts_per_day)))
        active[merchants[start + rng.integers(5, LONGEST_COMPROMISE + 1, len(merchants)) > day]] = True
    rng = stream("compromised", day)
    chance, dearer = rng.random(len(rows)), rng.uniform(1.0, 2.0, len(rows))
    fraud = active[rows.merchant] & (chance < 0.7)
    return replace(
        rows,
        amount=np.where(fraud, rows.amount * dearer, rows.amount),
        pattern=np.where(fraud, COMPROMISED_MERCHANT, rows.pattern).astype(np.int8),
    )


def stolen_cards(people: Population, stream: Stream, day: int, thefts_per_day: float) -> Rows:
    """For 1 to 3 days a card pays in bursts, several times its owner's usual amount, anywhere, and is often
    refused.
    """
    stolen = []
    for start in range(day - LONGEST_THEFT + 1, day + 1):
        rng = stream("theft", start)
        cards = rng.integers(0, people.customers, int(rng.poisson(thefts_per_day)))
        stolen.append(cards[start + rng.integers(1, LONGEST_THEFT + 1, len(cards)) > day])
    rng = stream("stolen", day)
    cards = np.concatenate(stolen)
    return _burst(
        people,
        rng,
        cards,
        2 + rng.poisson(2.5, len(cards)),
        rng.uniform(8.0, 20.0, len(cards)),
        0.4,
        (2.0, 5.0),
        0.3,
        STOLEN_CARD,
    )


def large_amounts(rows: Rows, people: Population, stream: Stream, day: int, per_day: float) -> Rows:
    """Single payments of many times what the customer usually spends."""
    rng = stream("large", day)
    n = min(int(rng.poisson(per_day)), len(rows))
    chosen = rng.choice(len(rows), n, replace=False) if n else np.zeros(0, dtype=np.int64)
    amount, pattern = rows.amount.copy(), rows.pattern.copy()
    amount[chosen] = people.mean_amount[rows.customer[chosen]] * rng.uniform(6.0, 14.0, n)
    pattern[chosen] = LARGE_AMOUNT
    return replace(rows, amount=amount, pattern=pattern)


def card_testing(people: Population, stream: Stream, day: int, cards_per_day: float) -> Rows:
    """The pattern that no model has seen before it is injected.

    At night a ring of merchants, another one each week, tries good spenders' cards with small change; before
    the morning each is drained by a few payments, larger than usual but not much, at merchants where hardly
    anybody pays. Neither their size nor the merchant's record gives them away: the hour, the quiet merchant
    and the small payment just before do.
    """
    ring = stream("ring", day // 7).choice(people.merchants, min(8, people.merchants), replace=False)
    quiet = np.argsort(people.popularity, kind="stable")[: max(people.merchants // 4, 1)]
    rng = stream("testing", day)
    spenders = np.argsort(people.mean_amount, kind="stable")[-max(people.customers // 5, 1) :]
    cards = rng.choice(spenders, min(int(rng.poisson(cards_per_day)), len(spenders)), replace=False)
    tests = _burst(
        people,
        rng,
        cards,
        rng.integers(0, 2, len(cards)),
        rng.uniform(0.0, 2.0, len(cards)),
        0.2,
        (0.0, 0.0),
        0.05,
        CARD_TESTING,
    )
    tests = replace(tests, merchant=rng.choice(ring, len(tests)), amount=rng.uniform(0.5, 2.5, len(tests)))
    drains = _burst(
        people,
        rng,
        cards,
        np.ones(len(cards), dtype=np.int64),
        rng.uniform(2.2, 4.5, len(cards)),
        0.7,
        (1.5, 3.2),
        0.0,
        CARD_TESTING,
    )
    return together([tests, replace(drains, merchant=rng.choice(quiet, len(drains)))])


def together(parts: list[Rows]) -> Rows:
    """All rows of one day in the order of their times."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__dataclass_fields__
    }
    order = np.argsort(columns["time_us"], kind="stable")
    return Rows(**{name: values[order] for name, values in columns.items()})


def _burst(
    people: Population,
    rng: np.random.Generator,
    cards: np.ndarray,
    counts: np.ndarray,
    first_hour: np.ndarray,
    gap_hours: float,
    times_usual: tuple[float, float],
    declined: float,
    pattern: int,
) -> Rows:
    """Each card pays `counts` times from `first_hour` on, with exponential gaps."""
    customer = np.repeat(cards, counts)
    n = len(customer)
    elapsed = np.concatenate([[0.0], np.cumsum(rng.exponential(gap_hours, n))])
    before = np.repeat(elapsed[np.cumsum(counts) - counts], counts)
    hours = np.repeat(first_hour, counts) + elapsed[1:] - before
    return Rows(
        customer,
        people.anywhere(rng, n),
        to_us(np.minimum(hours, 23.99 - rng.uniform(0.0, 0.3, n))),
        people.mean_amount[customer] * rng.uniform(*times_usual, n),
        rng.random(n) < declined,
        np.full(n, pattern, dtype=np.int8),
    )
