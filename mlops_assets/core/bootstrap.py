"""How much of a figure is luck: the same figure on resamples of whole customers, for two models on the same draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.metrics import Flags, Scores
from mlops_assets.core.money import Costs

Codes = npt.NDArray[Any]  # of each row's group, from 0 without gaps
Statistic = Callable[[Codes], float]  # of how often each group was drawn
INTERVAL = (0.05, 0.95)  # quantiles: its lower end is what the gate calls 95 % confidence, which is one-sided


def resample(statistics: Mapping[str, Statistic], groups: Codes, seed: int, resamples: int) -> dict[str, npt.NDArray[np.float64]]:
    """Each statistic on the same draws, with replacement, of as many groups as there are.

    Groups, here customers, because the transactions of a card are not independent: a stolen card makes a burst of frauds.
    """
    random = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    found = {name: np.empty(resamples) for name in statistics}
    for draw in range(resamples):
        times_drawn = np.bincount(random.integers(0, count, size=count), minlength=count)
        for name, statistic in statistics.items():
            found[name][draw] = statistic(times_drawn)
    return found


def paired_bootstrap(is_fraud: Flags, one: Scores, other: Scores, groups: Codes, seed: int, resamples: int) -> tuple[float, ...]:
    """Differences of average precision, one minus other, over `resample`. A draw without any fraud gives NaN."""
    statistics = {name: weighted_average_precision(is_fraud, scores, groups) for name, scores in (("one", one), ("other", other))}
    found = resample(statistics, groups, seed, resamples)
    return tuple((found["one"] - found["other"]).tolist())


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of resampled values; NaN if one of them is."""
    low, high = np.quantile(values, INTERVAL)
    return float(low), float(high)


def weighted_average_precision(is_fraud: Flags, scores: Scores, groups: Codes) -> Statistic:
    """Average precision as a function of the groups' weights: sorted once, then two cumulative sums for each draw."""
    order = np.argsort(-scores, kind="stable")
    ranked, codes, frauds = scores[order], groups[order], np.flatnonzero(is_fraud[order])
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    fraud_codes = codes[frauds]
    # Precision matters only at thresholds that catch another fraud: the end of the run of equal scores that holds it.
    at = ends[np.searchsorted(ends, frauds)]
    last_caught = np.searchsorted(frauds, at, side="right") - 1

    def weigh(times_drawn: Codes) -> float:
        alarms = np.cumsum(times_drawn[codes])[at]
        weights = times_drawn[fraud_codes]
        caught = np.cumsum(weights)[last_caught]
        if not caught[-1]:
            return math.nan
        return float(np.sum(weights * caught / np.maximum(alarms, 1)) / caught[-1])

    return weigh


def weighted_money_saved(amounts: Scores, is_fraud: Flags, scores: Scores, days: pd.Series, costs: Costs, groups: Codes) -> Statistic:
    """What reviewing the highest scores of each day saves, as a function of the groups' weights.

    Each payment of a customer who is drawn twice takes two reviews, and what was just within the day's capacity may fall out of it.
    """
    day = pd.factorize(days, use_na_sentinel=False)[0]
    order = np.lexsort((-scores, day))  # stable: ties go by the order of the rows, as in `reviewed_at_capacity`
    codes, frauds = groups[order], np.flatnonzero(is_fraud[order])
    losses, first_of_day = costs.missed_fraud_share * amounts[order][frauds], np.searchsorted(day[order], day[order][frauds])
    fraud_codes = codes[frauds]

    def weigh(times_drawn: Codes) -> float:
        before = np.concatenate([[0], np.cumsum(times_drawn[codes])])
        ahead = before[frauds] - before[first_of_day]
        return float(np.sum(losses * np.clip(costs.reviews_per_day - ahead, 0, times_drawn[fraud_codes])))

    return weigh
