"""The counters for Prometheus.

The number of series is constant. No label takes a value from a request, except through a closed list.

With several workers each process has its own counters, and a scrape shows those of the process that answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.exposition import generate_latest

STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
HUNG_UP = 499  # No answer, because the client had gone. That is neither a 4xx nor a 5xx.
REFUSALS = (
    "late", "future", "bad_value", "conflict", "store", "overload", "no_model",
    "invalid", "json_invalid", "not_json", "too_large", "foreign_host",
)  # fmt: skip
SWAPS = ("swapped", "refused", "fallback")
LABELS = ("accepted", "duplicate", "unknown")
STREAM_EVENTS = ("accepted", "duplicate", "conflict")
# Seconds. A vector takes 0.3 ms, an event under 1 ms; 250 ms is the deadline of the store.
LATENCY = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0)
UNMATCHED = "unmatched"


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        # A `_created` beside every counter would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # Counts stand in memory. Feast's import sets PROMETHEUS_MULTIPROC_DIR, also for child processes. With
        # that variable the client keeps counts in files, which all services of one process would share.
        values.ValueClass = values.MutexValue
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "serving_requests",
            "Requests by route template and class of status",
            ["route", "status"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "serving_predict_seconds", "Time to answer /predict", buckets=LATENCY, registry=self.registry
        )
        self._decisions = Counter("serving_decisions", "New decisions", ["decision"], registry=self.registry)
        self.decisions: Mapping[str, Any] = {}
        self.repeats = Counter("serving_repeats", "Requests answered from the log", registry=self.registry)
        self.refused = _closed(
            Counter("serving_refused", "Requests refused, by reason", ["reason"], registry=self.registry),
            REFUSALS,
        )
        self.degraded = Counter(
            "serving_degraded",
            "Decisions on a feed that is staler than its declaration allows",
            registry=self.registry,
        )
        self._last_ages: Mapping[str, float | None] = {}
        # The views come from the release that serves, never from a request.
        self._ages = Gauge(
            "serving_feature_age_seconds",
            "Age of a view's newest event at the last scored event",
            ["view"],
            registry=self.registry,
        )
        self.labels = _closed(
            Counter("serving_labels", "Labels received", ["outcome"], registry=self.registry), LABELS
        )
        self.stream_events = _closed(
            Counter(
                "serving_stream_events",
                "Events of further feeds received",
                ["outcome"],
                registry=self.registry,
            ),
            STREAM_EVENTS,
        )
        self.swaps = _closed(
            Counter("serving_model_swaps", "Releases tried, by outcome", ["outcome"], registry=self.registry),
            SWAPS,
        )
        self.version = Gauge(
            "serving_model_version", "The version that serves; 0 while there is none", registry=self.registry
        )
        self.upkeep_deaths = Counter(
            "serving_upkeep_deaths",
            "How often the store's housekeeping died and was started again",
            registry=self.registry,
        )
        self._by_route: dict[str, Mapping[str, Any]] = {}

    def watch_upkeep(self, silent_s: Callable[[], float], journal_bytes: Callable[[], float]) -> None:
        """Show, at each scrape, for how long the housekeeping was silent, and how large the journal is."""
        for name, what, value in (
            ("serving_upkeep_silent_seconds", "Since the housekeeping's last sign of life", silent_s),
            ("serving_journal_bytes", "Of the store's journal; 0 where another worker tidies", journal_bytes),
        ):
            Gauge(name, what, registry=self.registry).set_function(value)

    def know_decisions(self, names: Iterable[str]) -> None:
        """Make the series of every decision. The names come from the release that serves."""
        self.decisions = _closed(self._decisions, tuple(names))

    def know_routes(self, templates: list[str]) -> None:
        """Make the series of every route before the first request, so that none appears later."""
        for route in (*templates, UNMATCHED):
            self._by_route[route] = {
                status: self._requests.labels(route, status) for status in (*STATUS_CLASSES, str(HUNG_UP))
            }

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request by its route's template and the class of its status."""
        of_route = self._by_route.get(route) or self._by_route[UNMATCHED]
        of_route[
            str(HUNG_UP) if status == HUNG_UP else STATUS_CLASSES[min(max(status // 100, 2), 5) - 2]
        ].inc()
        if route == "/predict":
            self._latency.observe(seconds)

    def freshness(self, ages: Mapping[str, float | None]) -> None:
        """Keep the ages, in seconds, of the views' newest events for the next scrape.

        None, for no event, is infinite. A ready-made vector has no ages, and changes none.
        """
        if ages:
            self._last_ages = ages

    def exposition(self) -> bytes:
        """The page for a scrape."""
        for view, age in self._last_ages.items():
            self._ages.labels(view).set(math.inf if age is None else age)
        return generate_latest(self.registry)


def _closed(counter: Counter, values: tuple[str, ...]) -> Mapping[str, Any]:
    return {value: counter.labels(value) for value in values}
