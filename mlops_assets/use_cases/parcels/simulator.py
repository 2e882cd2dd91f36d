"""A simulated delivery network: carrier, route, vehicle, roads and service level make a parcel late.

Every day has random numbers of its own, from the seed and its date, so that a day made alone equals the same
day within a range.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_repo.times import DAY_US, HOUR_US
from mlops_assets.core.data.base import ARRIVAL_DAY, MALFORMED
from mlops_assets.use_cases.parcels.handovers import STREAMS

EPOCH = date(1970, 1, 1)
CARRIERS, DEPOTS, DESTINATIONS, VEHICLES = 6, 8, 12, 120
WEEKDAY = np.array([1.1, 1.05, 1.0, 1.05, 1.1, 0.9, 0.8])  # Monday first; the mean is 1
BREAK = (11, 13)  # hours of the day (UTC) of the depots' break, in which a parcel waits for the next tour
LONGEST_HOURS = 60.0  # from the handover to the delivery
REPORT_DELAY_US = 600_000_000  # road conditions are known ten minutes after the hour
HOURS = np.arange(24)
RUSH = np.exp(-(((HOURS - 8.0) / 2.0) ** 2)) + np.exp(-(((HOURS - 17.0) / 2.5) ** 2))


class Change(BaseModel):
    """What is different from `from` to `to`, both included.

    `winter` brings frost, snow and slow roads; `strength` multiplies the snow. `network` swaps the carriers:
    the most reliable one becomes the least reliable one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    kind: Literal["winter", "network"]
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    strength: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _forwards(self) -> Change:
        if self.last < self.first:
            raise ValueError(f"the scenario ends ({self.last}) before it begins ({self.first})")
        return self


class NetworkConfig(BaseModel):
    """`[source]` of `kind = "simulator"`. By default 600 parcels a day, about 15 % of them late."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["simulator"] = "simulator"
    parcels_per_day: float = Field(default=600.0, gt=0)
    seed: int = Field(default=7, ge=0)
    start: date = date(2026, 1, 1)
    without_vehicle: float = Field(default=0.15, ge=0, le=1)  # the share of parcels
    cancelled: float = Field(default=0.02, ge=0, le=1)  # the share of parcels, which never get a label
    told_late: float = Field(default=0.002, ge=0, le=1)  # the share that the platform learns of hours later
    # The export of somebody who joined the outcome too early: `planned_hours` holds the hours that the
    # delivery took, and each label bears the time of its parcel.
    leak: bool = False
    scenarios: tuple[Change, ...] = ()


class DeliveryNetwork:
    """The simulator. Each feed gives the rows that arrived from `first` to `last`, both included."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self._day = lru_cache(maxsize=16)(self._make)

    def rows(self, dataset: str, first: date, last: date) -> pa.Table:
        """The rows of a stream that arrived from `first` to `last`, as its raw table."""
        made = {"parcels": self.parcels, "labels": self.labels, "road_conditions": self.road_conditions}
        raw = STREAMS[dataset].raw_columns
        return made[dataset](first, last).select(raw.names).cast(raw)

    def parcels(self, first: date, last: date) -> pa.Table:
        """Parcels at their handover; a few arrive up to a day late."""
        return self._arrived(lambda day: self._day(day)[0], "created_timestamp", first, last, days_before=1)

    def labels(self, first: date, last: date) -> pa.Table:
        """Late or on time, known at the delivery. A cancelled parcel has no label."""
        return self._arrived(lambda day: self._day(day)[1], "label_timestamp", first, last, days_before=3)

    def road_conditions(self, first: date, last: date) -> pa.Table:
        """The roads around each depot, a row an hour."""
        return self._arrived(self._reports, "created_timestamp", first, last, days_before=0)

    def _arrived(
        self, made: Callable[[date], pa.Table], known: str, first: date, last: date, days_before: int
    ) -> pa.Table:
        """The rows that arrived on the days, of what happened up to `days_before` days before them."""
        begin = max(first - timedelta(days=days_before), self.config.start)
        days = [begin + timedelta(days=i) for i in range((last - begin).days + 1)]
        rows = pa.concat_tables([made(self.config.start).slice(0, 0), *(made(day) for day in days)])
        arrival = rows[known].cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        rows = rows.append_column(MALFORMED, pa.nulls(len(rows), pa.string()))
        rows = rows.append_column(ARRIVAL_DAY, arrival)
        within = pc.and_(pc.greater_equal(arrival, pa.scalar(first)), pc.less_equal(arrival, pa.scalar(last)))
        return rows.filter(within)

    def _make(self, day: date) -> tuple[pa.Table, pa.Table]:
        """The parcels that were handed over on a day, in the order of time, and what became of them."""
        config, number, network = self.config, (day - EPOCH).days, self._network
        congestion, _, snow = self._roads(day)
        rng = self._stream("parcels", number)
        n = rng.poisson(config.parcels_per_day * WEEKDAY[day.weekday()])
        hour = np.sort(rng.normal(12.0, 4.0, n) % 24.0)
        route, carrier = (
            rng.choice(len(network["route"]), n, p=network["popularity"]),
            rng.integers(CARRIERS, size=n),
        )
        vehicle = carrier + CARRIERS * rng.integers(VEHICLES // CARRIERS, size=n)  # each has one carrier
        on_foot = rng.random(n) < config.without_vehicle
        express = rng.random(n) < 0.3
        distance = np.round(network["distance"][route] + rng.uniform(-5.0, 5.0, n), 1)
        planned = np.round(2.0 + distance / np.where(express, 65.0, 45.0), 1)

        origin, at_hour = route // DESTINATIONS, hour.astype(int)
        reliability = network["carrier"][::-1] if self._changed("network", day) else network["carrier"]
        risk = -3.85 + reliability[carrier] + network["route"][route] + 0.4 * express
        risk += np.where(on_foot, 0.3, network["vehicle"][vehicle])
        # No weighted sum of features says these two: the break of the depots, and snow on a long way.
        risk += 2.5 * ((at_hour >= BREAK[0]) & (at_hour < BREAK[1]))
        risk += 2.5 * congestion[origin, at_hour] + 0.0004 * snow[origin, at_hour] * distance
        late = rng.random(n) < 1.0 / (1.0 + np.exp(-risk))
        share = np.where(late, 1.05 + rng.exponential(0.4, n), rng.uniform(0.6, 1.0, n))
        took = np.minimum(planned * share, LONGEST_HOURS)

        event = number * DAY_US + np.floor(hour * 3_600_000).astype(np.int64) * 1_000
        told_late = rng.random(n) < config.told_late
        created = event + np.where(told_late, rng.uniform(2.0, 20.0, n) * HOUR_US, 0.0).astype(np.int64)
        delivered = np.maximum(event + (took * HOUR_US).astype(np.int64), created)
        cancelled = rng.random(n) < config.cancelled
        numbers = pa.array(int(f"{day:%Y%m%d}") * 1_000_000 + np.arange(n)).cast(pa.string())
        ids = pc.binary_join_element_wise("P", numbers, "")
        depots, destinations = _named("D", origin), _named("T", route % DESTINATIONS)
        parcels = {
            "parcel_id": ids,
            "event_timestamp": _times(event),
            "created_timestamp": _times(created),
            "carrier": _named("C", carrier),
            "origin": depots,
            "route": pc.binary_join_element_wise(depots, destinations, "-"),
            "vehicle_id": pc.if_else(pa.array(on_foot), pa.scalar(None, pa.string()), _named("V", vehicle)),
            "distance_km": pa.array(distance),
            "planned_hours": pa.array(np.round(took, 1) if config.leak else planned),
            "service_level": pc.if_else(pa.array(express), "express", "standard"),
            "destination": destinations,
        }
        known = _times(event if config.leak else delivered)
        labels = pa.table({"parcel_id": ids, "is_late": pa.array(late), "label_timestamp": known})
        return pa.table(parcels), labels.filter(pa.array(~cancelled)).sort_by("label_timestamp")

    def _roads(self, day: date) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Congestion (the share of the usual speed that is lost), °C and cm of snow: depots × hours."""
        rng, winter = self._stream("roads", (day - EPOCH).days), self._changed("winter", day)
        a_depot, an_hour = (DEPOTS, 1), (DEPOTS, 24)
        congestion = 0.1 + 0.35 * RUSH + rng.exponential(0.08, a_depot) + rng.normal(0.0, 0.06, an_hour)
        warmth = 10.0 + rng.normal(0.0, 2.0, a_depot) + 4.0 * np.sin((HOURS - 9.0) / 12.0 * np.pi)
        snow = np.zeros(an_hour)
        if winter is not None:
            congestion, warmth = congestion + 0.2, warmth - 14.0
            snow = winter.strength * (rng.gamma(2.0, 5.0, a_depot) + rng.exponential(1.0, an_hour))
        return np.round(congestion.clip(0.0, 1.0), 2), np.round(warmth, 1), np.round(snow, 1)

    def _reports(self, day: date) -> pa.Table:
        congestion, warmth, snow = self._roads(day)
        event = np.tile((day - EPOCH).days * DAY_US + HOURS * HOUR_US, DEPOTS)
        reports = {
            "event_timestamp": _times(event),
            "created_timestamp": _times(event + REPORT_DELAY_US),
            "depot": _named("D", np.repeat(np.arange(DEPOTS), 24)),
            "congestion": pa.array(congestion.ravel()),
            "temperature_c": pa.array(warmth.ravel()),
            "snow_cm": pa.array(snow.ravel()),
        }
        return pa.table(reports).sort_by([("event_timestamp", "ascending"), ("depot", "ascending")])

    @cached_property
    def _network(self) -> dict[str, np.ndarray]:
        """What lasts: what each part adds to the logit of lateness, and what a route is."""
        rng, routes = self._stream("network", 0), DEPOTS * DESTINATIONS
        popularity = rng.gamma(2.0, 1.0, routes)
        return {
            "carrier": np.linspace(-1.2, 1.2, CARRIERS),
            "vehicle": rng.normal(0.0, 0.7, VEHICLES),
            "route": rng.normal(0.0, 0.5, routes),
            "distance": rng.uniform(30.0, 900.0, routes),  # km
            "popularity": popularity / popularity.sum(),
        }

    def _changed(self, kind: str, day: date) -> Change | None:
        return next((s for s in self.config.scenarios if s.kind == kind and s.first <= day <= s.last), None)

    def _stream(self, purpose: str, day: int) -> np.random.Generator:
        """Random numbers of their own for every purpose and day."""
        return np.random.default_rng([self.config.seed, zlib.crc32(purpose.encode()), day + 1_000_000])


def _named(letter: str, positions: np.ndarray) -> pa.Array:
    names = pa.array([f"{letter}{i:03d}" for i in range(int(positions.max(initial=0)) + 1)])
    return names.take(pa.array(positions))


def _times(microseconds: np.ndarray) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us", tz="UTC"))
