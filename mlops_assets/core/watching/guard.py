"""Whether a newly promoted version keeps the limits of its scores, errors and latency.

A breach that its predecessor also showed on its last days is not caused by the version. A rollback would not
help. The drift reports show such a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlops_assets.core.lifecycle.champions import (
    GATE,
    GUARD,
    PROMOTED,
    ROLLED_BACK,
    Row,
    back_to,
    kind,
    moved_to,
)
from mlops_assets.errors import PlatformError
from serving.store.version_counts import KEPT_DAYS, SLOW_MS, Measured

COMPARED_DAYS = 7  # days before the promotion that measure the predecessor, each weekday once
# The guard looks 20,000 times a week. A version exactly at its limit has one false alarm in fifty weeks.
BEYOND_CHANCE = 1e-6
SLOW_SHARE = 0.01  # the share above a 99th percentile


class BadGuard(PlatformError, ValueError):
    """An impossible limit. The message names the key and the value."""


@dataclass(frozen=True)
class Guard:
    """The limits of the guard, each with its reason. Raises `BadGuard` for an impossible limit."""

    enabled: bool = True
    watch_days: int = 7  # A fault of a promotion shows within a week, the weekend included.
    min_requests: int = 500  # With fewer requests, less than five are above a 99th percentile.
    # One event that is sent repeatedly is no pattern. A version that always fails reaches this number at
    # once.
    min_errors: int = 10
    # A failed request makes the client use its fallback. A sound model never fails.
    max_error_share: float = 0.01
    # A score takes some tenths of a millisecond. At 10 ms a worker makes a hundred scores a second, not
    # thousands.
    max_p99_ms: int = 10
    # Relative to the share in the reference, in both directions. No busy day has five times the usual share.
    max_alarm_factor: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.watch_days <= KEPT_DAYS - COMPARED_DAYS:
            raise BadGuard(
                f"watch_days has to be from 1 to {KEPT_DAYS - COMPARED_DAYS}, for as long as measurements are"
                f" kept, not {self.watch_days}"
            )
        if few := next((name for name in ("min_requests", "min_errors") if getattr(self, name) < 1), None):
            raise BadGuard(f"{few} has to be at least 1, not {getattr(self, few)}")
        if not 0 < self.max_p99_ms <= SLOW_MS[-1]:
            raise BadGuard(f"max_p99_ms has to be from 1 to {SLOW_MS[-1]}, not {self.max_p99_ms}")
        if not self.max_alarm_factor > 1:
            raise BadGuard(f"max_alarm_factor has to be more than 1, not {self.max_alarm_factor}")
        if not 0 <= self.max_error_share < 1:
            raise BadGuard(f"max_error_share has to be from 0 to below 1, not {self.max_error_share}")


@dataclass(frozen=True)
class Watched:
    """The champion, promoted at `since`, and the version `before` it, the target of a rollback."""

    version: str
    as_of: str
    since: datetime
    before: str


@dataclass(frozen=True)
class Reference:
    """The rows of the version's drift reference, and the alarms: rows that its policy does not let pass."""

    rows: int
    alarms: int


@dataclass(frozen=True)
class Judgement:
    """The judgement on a version, in sentences.

    `breaches` are the reasons for a rollback. `shared` are breaches that its predecessor had too. `note` has
    the figures.
    """

    breaches: tuple[str, ...]
    shared: tuple[str, ...]
    note: str


def watched(rows: Sequence[Row], now: datetime, guard: Guard) -> Watched | str:
    """The champion if the guard may roll it back, or a sentence that says why it may not.

    `rows` are the history, the oldest row first.
    """
    if (row := next((row for row in reversed(rows) if moved_to(row)), None)) is None:
        return "there is no champion"
    version = str(moved_to(row))
    if kind(row) != PROMOTED:
        return f"version {version} serves after a rollback: the guard does not roll such a version back"
    if "at" not in row:
        return f"the time of the promotion of version {version} is not on record"
    if now - (since := datetime.fromisoformat(row["at"])) > timedelta(days=guard.watch_days):
        return (
            f"version {version} was promoted at {row['at']}, more than {guard.watch_days} days ago: the drift"
            " reports watch later changes"
        )
    if row["by"] != GATE and any(
        kind(r) == ROLLED_BACK and r["version"] == version and r["by"] == GUARD for r in rows
    ):
        return (
            f"version {version} was rolled back by the guard before, and {row['by']} has promoted it again:"
            " only a person rolls it back"
        )
    if (before := back_to(rows)) is None:
        return f"version {version} has no predecessor: a rollback is not possible"
    return Watched(version, str(row["as_of"]), since, before)


def judge(served: Measured, before: Measured, reference: Reference, guard: Guard, passes: str) -> Judgement:
    """Compare the measurements of a version since its promotion with the limits.

    `before` are those of its predecessor, which excuse nothing below `min_requests`. `passes` is the decision
    that lets an event pass.
    """
    found = [
        *_errors(served, before, guard),
        *_latency(served, before, guard),
        *_alarms(served, before, reference, guard, passes),
    ]
    comparable = before.scored + before.errors >= guard.min_requests
    breaches = tuple(text for text, shared in found if not (shared and comparable))
    excused = tuple(text for text, shared in found if shared and comparable)
    if served.scored < guard.min_requests:
        note = (
            f"{served.scored:,} requests scored, of {guard.min_requests:,} to judge by, and {served.errors:,}"
            " failed"
        )
        return Judgement(breaches, excused, note)
    slow = served.slower_than(guard.max_p99_ms)
    figures = (
        f"{served.alarms:,} not {passes}, {served.errors:,} failed, {slow:,} slower than"
        f" {guard.max_p99_ms} ms"
    )
    return Judgement(breaches, excused, f"{served.scored:,} requests scored, {figures}")


def by_chance(hits: int, trials: int, share: float) -> float:
    """An upper bound of the probability of at least `hits` in `trials`, each a hit with probability `share`.

    It is Chernoff's bound (Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, 1963,
    theorem 1). The exact probability is never larger.
    """
    if hits <= trials * share:
        return 1.0
    if share <= 0:
        return 0.0
    found = hits / trials
    divergence = found * math.log(found / share) + (
        0.0 if found >= 1 else (1 - found) * math.log((1 - found) / (1 - share))
    )
    return math.exp(-trials * divergence)


def beyond_factor(hits: int, trials: int, other_hits: int, other_trials: int, factor: float) -> bool:
    """Whether the first share is more than `factor` times the second, beyond chance.

    The test is that of Przyborowski and Wilenski (Biometrika, 1940). If the factor were exact, the first side
    would have a known share of all hits. The test takes account of the uncertainty on both sides.
    """
    weighed = factor * trials
    return (
        weighed > 0 and by_chance(hits, hits + other_hits, weighed / (weighed + other_trials)) < BEYOND_CHANCE
    )


Found = list[tuple[str, bool]]  # each breach, and whether the predecessor had it too


def _errors(served: Measured, before: Measured, guard: Guard) -> Found:
    asked, most = served.scored + served.errors, guard.max_error_share
    if served.errors < guard.min_errors or by_chance(served.errors, asked, most) >= BEYOND_CHANCE:
        return []
    text = (
        f"{served.errors:,} of {asked:,} requests failed while it scored, {served.errors / asked:.2%}: at"
        f" most {most:.2%} is allowed"
    )
    return [(text, before.errors > most * (before.scored + before.errors))]


def _latency(served: Measured, before: Measured, guard: Guard) -> Found:
    limit = guard.max_p99_ms
    slow = served.slower_than(limit)
    if served.scored < guard.min_requests or by_chance(slow, served.scored, SLOW_SHARE) >= BEYOND_CHANCE:
        return []
    text = (
        f"{slow:,} of {served.scored:,} scores took more than {limit} ms of the processor,"
        f" {slow / served.scored:.2%}: its p99 may be {limit} ms"
    )
    return [(text, before.slower_than(limit) > SLOW_SHARE * before.scored)]


def _alarms(served: Measured, before: Measured, reference: Reference, guard: Guard, passes: str) -> Found:
    if served.scored < guard.min_requests or not reference.rows:
        return []
    factor, share, usual = (
        guard.max_alarm_factor,
        served.alarms / served.scored,
        reference.alarms / reference.rows,
    )
    figures = (
        f"{served.alarms:,} of {served.scored:,} decisions are not {passes}, {share:.2%}, where its reference"
        f" has {usual:.2%}"
    )
    if beyond_factor(served.alarms, served.scored, reference.alarms, reference.rows, factor):
        return [
            (
                f"{figures}: more than {factor:g} times as many",
                share * before.scored <= factor * before.alarms,
            )
        ]
    if beyond_factor(reference.alarms, reference.rows, served.alarms, served.scored, factor):
        return [(f"{figures}: fewer than 1 in {factor:g}", before.alarms <= factor * share * before.scored)]
    return []
