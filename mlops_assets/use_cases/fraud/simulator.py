"""A simulated bank: a source that never runs dry, whose fraud is known, and whose misfortunes happen on the
days that a scenario names.

Every day has random numbers of its own, from the seed and its date, so that a day made alone equals the same
day within a range.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_repo.times import DAY_US, HOUR_US
from mlops_assets.core.data.base import SourceError
from mlops_assets.use_cases.fraud import patterns
from mlops_assets.use_cases.fraud.payments import PAYMENTS, REPORTS
from mlops_assets.use_cases.fraud.population import Population, Rows, populate

if TYPE_CHECKING:
    import pandas as pd

ScenarioKind = Literal["amount_inflation", "new_fraud_pattern", "cents_for_euros", "missing_feed"]
EPOCH = date(1970, 1, 1)
LATEST_DAYS = 3  # a late row arrives within
LABEL_HORIZON_DAYS = 60  # a chargeback comes within, or never
CACHED_DAYS = 16


class Scenario(BaseModel):
    """What is different from `from` to `to`, both included.

    `factor` multiplies amounts (inflation) or the number of cards (the new pattern).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    kind: ScenarioKind
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _forwards(self) -> Scenario:
        if self.last < self.first:
            raise ValueError(f"the scenario ends ({self.last}) before it begins ({self.first})")
        return self


class FraudConfig(BaseModel):
    """How often each pattern begins, a day and a thousand customers (merchants, for compromises)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compromised_merchants: float = Field(default=0.2, ge=0)
    stolen_cards: float = Field(default=1.1, ge=0)
    large_amounts: float = Field(default=4.0, ge=0)
    tested_cards: float = Field(default=12.0, ge=0)  # only where a scenario injects the pattern


class SimulatorConfig(BaseModel):
    """`[source]` of `kind = "simulator"`.

    The default is about 1,300 payments a day, 1.5 to 2 % of them fraud.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["simulator"] = "simulator"
    customers: int = Field(default=1000, ge=1)
    merchants: int = Field(default=1000, ge=1)
    payments_per_day: float = Field(default=1.3, gt=0)  # of one customer
    seed: int = Field(default=7, ge=0)
    start: date = date(2026, 1, 1)
    fraud: FraudConfig = FraudConfig()
    label_median_hours: float = Field(default=36.0, gt=0)  # of the delay of a chargeback, which is lognormal:
    label_spread: float = Field(default=0.9, ge=0)  # with these, 4 % come later than 7 days
    late_share: float = Field(
        default=0.002, ge=0, le=1
    )  # of rows, that arrive hours to days after they happened
    scenarios: tuple[Scenario, ...] = ()


@dataclass(frozen=True)
class Day:
    """What happened on one day, in the order of time; times are microseconds since the epoch.

    `charged_back_us` is 0 where it never is.
    """

    rows: Rows
    event_us: np.ndarray
    created_us: np.ndarray
    charged_back_us: np.ndarray
    investigated_us: np.ndarray
    number: (
        np.ndarray
    )  # of the transaction: the date as eight digits, then seven digits of its place in the day


class BankSource:
    """The simulator as a `Source`, with the truth beside it."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self._people: Population | None = None
        self._days: OrderedDict[date, Day] = OrderedDict()
        self._frauds: dict[date, tuple[np.ndarray, np.ndarray]] = {}

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        """The payments or the labels that arrived from `first` to `last`, as a raw table."""
        return (self.labels if dataset == REPORTS.dataset else self.transactions)(first, last)

    def transactions(self, first: date, last: date) -> pa.Table:
        """The payments that arrived from `first` to `last`."""
        days = [self.day(day) for day in self._dates(first - timedelta(days=LATEST_DAYS), last)]
        if not days:
            return PAYMENTS.raw_columns.empty_table()
        created = np.concatenate([day.created_us for day in days])
        arrival = created // DAY_US
        arrived = (arrival >= (first - EPOCH).days) & (arrival <= (last - EPOCH).days)
        for scenario in self._active("missing_feed", first, last):
            arrived &= (arrival < (scenario.first - EPOCH).days) | (arrival > (scenario.last - EPOCH).days)

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(day.rows, name) for day in days])[arrived]

        number, event = (
            np.concatenate([getattr(day, name) for day in days])[arrived] for name in ("number", "event_us")
        )
        columns = {
            "transaction_id": _ids("T", number),
            "event_timestamp": _times(event),
            "created_timestamp": _times(created[arrived]),
            "customer_id": _names("C", self.people.customers).take(pa.array(column("customer"))),
            "merchant_id": _names("M", self.people.merchants).take(pa.array(column("merchant"))),
            "amount": pa.array(column("amount")),
            "is_declined": pa.array(column("declined")),
            "malformed": pa.nulls(len(number), pa.string()),
            "arrival_day": pa.array(arrival[arrived].astype(np.int32)).cast(pa.date32()),
        }
        return pa.table(columns, schema=PAYMENTS.raw_columns)

    def labels(self, first: date, last: date) -> pa.Table:
        """Chargebacks: of fraud only, hours to weeks late."""
        found = [
            self._chargebacks(day) for day in self._dates(first - timedelta(days=LABEL_HORIZON_DAYS), last)
        ]
        number, known_us = (
            np.concatenate([part[i] for part in found]) if found else np.zeros(0, dtype=np.int64)
            for i in (0, 1)
        )
        arrived = (known_us // DAY_US >= (first - EPOCH).days) & (known_us // DAY_US <= (last - EPOCH).days)
        return _labels(number[arrived], np.ones(int(arrived.sum()), dtype=bool), known_us[arrived])

    def truth(self, first: date, last: date) -> pa.Table:
        """What nobody is told: every transaction that happened (not: arrived) on the days, is_fraud, and the
        pattern that made it.
        """
        days = [self.day(day) for day in self._dates(first, last)]
        pattern = np.concatenate([day.rows.pattern for day in days]) if days else np.zeros(0, dtype=np.int8)
        number, event = (
            np.concatenate([getattr(day, n) for day in days]) if days else np.zeros(0, dtype=np.int64)
            for n in ("number", "event_us")
        )
        return pa.table(
            {
                "transaction_id": _ids("T", number),
                "event_timestamp": _times(event),
                "is_fraud": pa.array(pattern > 0),
                "pattern": pa.array(patterns.PATTERNS).take(pa.array(pattern)),
            }
        )

    def investigations(self, transactions: pa.Table | pd.DataFrame, decisions: Mapping[str, str]) -> pa.Table:
        """The labels, fraud or legitimate, of those transactions that were reviewed or blocked, hours after
        they arrived.

        `decisions` is id -> ALLOW, REVIEW or BLOCK; an id without a decision was never looked at. An id that
        is not this bank's is a `SourceError`.
        """
        ids = transactions["transaction_id"]
        looked_at = [
            i
            for i in (ids.to_pylist() if hasattr(ids, "to_pylist") else list(ids))
            if decisions.get(i, "ALLOW") != "ALLOW"
        ]
        number, is_fraud, known_us = [], [], []
        for one in looked_at:
            day, place = self._find(one)
            number.append(day.number[place])
            is_fraud.append(day.rows.pattern[place] > 0)
            known_us.append(day.investigated_us[place])
        return _labels(
            np.array(number, dtype=np.int64),
            np.array(is_fraud, dtype=bool),
            np.array(known_us, dtype=np.int64),
        )

    @property
    def people(self) -> Population:
        if self._people is None:
            made = self.config
            self._people = populate(
                self._stream("population", 0), made.customers, made.merchants, made.payments_per_day
            )
        return self._people

    def day(self, day: date) -> Day:
        """Everything that happened on a day, made anew or remembered."""
        if day not in self._days:
            self._days[day] = self._make(day)
            while len(self._days) > CACHED_DAYS:
                self._days.popitem(last=False)
        return self._days[day]

    def _make(self, day: date) -> Day:
        number, people, knobs = (day - EPOCH).days, self.people, self.config.fraud
        thousands, shops = people.customers / 1000, people.merchants / 1000
        rows = people.ordinary(self._stream("ordinary", number), day.weekday())
        rows = patterns.large_amounts(rows, people, self._stream, number, knobs.large_amounts * thousands)
        rows = patterns.compromised_merchants(
            rows, people, self._stream, number, knobs.compromised_merchants * shops
        )
        parts = [rows, patterns.stolen_cards(people, self._stream, number, knobs.stolen_cards * thousands)]
        for scenario in self._active("new_fraud_pattern", day, day):
            parts.append(
                patterns.card_testing(
                    people, self._stream, number, knobs.tested_cards * scenario.factor * thousands
                )
            )
        rows = patterns.together(parts)
        amount = rows.amount
        for scenario in self._active("amount_inflation", day, day):
            amount = amount * scenario.factor
        amount = np.maximum(np.round(amount, 2), 0.01)
        if self._active("cents_for_euros", day, day):
            amount = np.round(amount * 100.0)
        return self._tell(day, replace(rows, amount=amount))

    def _tell(self, day: date, rows: Rows) -> Day:
        """When the platform learns of each row, of its chargeback, and of an investigation if any."""
        rng, n, made = self._stream("telling", (day - EPOCH).days), len(rows), self.config
        event = (day - EPOCH).days * DAY_US + rows.time_us
        late = rng.random(n) < made.late_share
        created = event + np.where(
            late, rng.uniform(2 * HOUR_US, LATEST_DAYS * DAY_US - HOUR_US, n), 0.0
        ).astype(np.int64)
        hours = made.label_median_hours * np.exp(made.label_spread * rng.standard_normal(n))
        fraud = (rows.pattern > 0) & (hours < (LABEL_HORIZON_DAYS - 1) * 24)
        charged = np.where(fraud, np.maximum(event + (hours * HOUR_US).astype(np.int64), created), 0)
        investigated = created + rng.uniform(HOUR_US, 12 * HOUR_US, n).astype(np.int64)
        numbers = int(f"{day:%Y%m%d}") * 10_000_000 + np.arange(n)
        return Day(rows, event, created, charged, investigated, numbers)

    def _chargebacks(self, day: date) -> tuple[np.ndarray, np.ndarray]:
        if day not in self._frauds:
            made = self.day(day)
            charged = made.charged_back_us > 0
            self._frauds[day] = made.number[charged], made.charged_back_us[charged]
        return self._frauds[day]

    def _find(self, transaction_id: str) -> tuple[Day, int]:
        digits = transaction_id[1:]
        try:
            day, place = date.fromisoformat(digits[:8]), int(digits[8:])
        except ValueError:
            day, place = EPOCH, 0
        if transaction_id[:1] != "T" or day < self.config.start or place >= len(self.day(day).number):
            raise SourceError(f"transaction {transaction_id!r} is not one of the simulated bank's")
        return self.day(day), place

    def _dates(self, first: date, last: date) -> list[date]:
        first = max(first, self.config.start)
        return [first + timedelta(days=i) for i in range((last - first).days + 1)]

    def _active(self, kind: ScenarioKind, first: date, last: date) -> Iterable[Scenario]:
        return [s for s in self.config.scenarios if s.kind == kind and s.first <= last and s.last >= first]

    def _stream(self, purpose: str, day: int) -> np.random.Generator:
        """Random numbers of their own for every purpose and day."""
        return np.random.default_rng(
            np.random.SeedSequence([self.config.seed, zlib.crc32(purpose.encode()), day + 1_000_000])
        )


def _labels(number: np.ndarray, is_fraud: np.ndarray, known_us: np.ndarray) -> pa.Table:
    order = np.lexsort((number, known_us))
    number, is_fraud, known_us = number[order], is_fraud[order], known_us[order]
    days = pa.array((known_us // DAY_US).astype(np.int32)).cast(pa.date32())
    arrays = [
        _ids("T", number),
        pa.array(is_fraud),
        _times(known_us),
        pa.nulls(len(number), pa.string()),
        days,
    ]
    return pa.table(arrays, schema=REPORTS.raw_columns)


def _ids(letter: str, numbers: np.ndarray) -> pa.Array:
    return pa.compute.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def _names(letter: str, n: int) -> pa.Array:
    return pa.array([f"{letter}{i:06d}" for i in range(n)])


def _times(microseconds: np.ndarray) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us", tz="UTC"))
