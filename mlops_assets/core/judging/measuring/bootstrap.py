"""The effect of chance on a figure: resamples of whole groups, and labels drawn from the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring.measures import Flags, Scores, calibration_bins
from mlops_assets.core.words import Words, several_of_key
from serving.contract.subject import Subject

Codes = npt.NDArray[Any]  # the group of each row, from 0 without gaps
Statistic = Callable[[Codes], float]  # takes how often each group was drawn
Drawn = npt.NDArray[np.float64]  # a statistic on each draw
# Quantiles. The gate's one-sided confidence of 95 % is the lower end.
INTERVAL = (0.05, 0.95)


def clusters(subject: Subject, rows: pd.DataFrame) -> dict[str, Codes]:
    """The group of each row, by each key of `subject.clusters`, under names such as "routes".

    Rows that share such a key are not independent, because positives come in bursts. A row with a null key is
    a group of its own. Without clusters every row is its own group, under the plural of the event's noun.
    The codes of the groups count from 0 without gaps.
    """
    if not subject.clusters:
        return {Words.of(subject).events: np.arange(len(rows))}
    return {several_of_key(key): _groups(rows[key]) for key in subject.clusters}


def _groups(keys: pd.Series) -> Codes:
    codes = pd.factorize(keys)[0]
    if (absent := codes < 0).any():
        codes = codes.copy()
        codes[absent] = codes.max() + 1 + np.arange(int(absent.sum()))
    return codes


def value_of(subject: Subject, rows: pd.DataFrame) -> Scores:
    """The loss of a missed positive in each row, in the unit of `decisions`; 1 where cases are counted."""
    value = subject.decisions.value
    return np.ones(len(rows)) if value is None else rows[value].to_numpy(dtype=np.float64)


def resample(
    statistics: Mapping[str, Statistic], groups: Codes, seed: int, resamples: int
) -> dict[str, Drawn]:
    """Each statistic on the same draws. A draw takes as many groups as there are, with replacement."""
    random = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    found = {name: np.empty(resamples) for name in statistics}
    for draw in range(resamples):
        times_drawn = np.bincount(random.integers(0, count, size=count), minlength=count)
        for name, statistic in statistics.items():
            found[name][draw] = statistic(times_drawn)
    return found


def most_varied(drawn: Mapping[str, Mapping[str, Drawn]], statistic: str) -> str:
    """The name of the `clusters` whose resamples of a statistic differ most.

    Nobody knows beforehand which key makes positives come in bursts. Resamples that tear bursts apart take
    chance for proof. Clusters with a draw that is not a number come before all others.
    """
    spread = {by: float(np.std(found[statistic])) for by, found in drawn.items()}
    return max(spread, key=lambda by: spread[by] if math.isfinite(spread[by]) else math.inf)


def paired_bootstrap(
    positive: Flags, one: Scores, other: Scores, groups: Mapping[str, Codes], seed: int, resamples: int
) -> tuple[str, Drawn]:
    """The grouping by which the difference of average precision varies most, and the difference on each draw.

    The difference is `one` minus `other`. A draw without any positive gives NaN.
    """
    drawn = {}
    for by, codes in groups.items():
        statistics = {
            name: weighted_average_precision(positive, scores, codes)
            for name, scores in (("one", one), ("other", other))
        }
        found = resample(statistics, codes, seed, resamples)
        drawn[by] = {"difference": found["one"] - found["other"]}
    by = most_varied(drawn, "difference")
    return by, drawn[by]["difference"]


def calibration_by_chance(
    positive: Flags, scores: Scores, groups: Iterable[Codes], seed: int, draws: int = 1_000
) -> tuple[float, ...]:
    """The `relative_calibration_error` that correct scores show by chance, once for each of `draws`.

    Positives are drawn from the scores. This is the consistency resampling of Bröcker and Smith (Weather and
    Forecasting, 2007) with `calibration_bins`. Positives of one group come together, so n rows are worth
    n / `design_effect` independent rows. That many rows are drawn, with the largest effect of the `groups`.
    The error is relative to the share and the mean score of the given rows.
    """
    bins = calibration_bins(scores)
    _, bins = np.unique(bins, return_inverse=True)
    rows = np.bincount(bins)
    expected, positives = np.bincount(bins, weights=scores), np.bincount(bins, weights=positive)
    # The residuals are relative to the share in the bin. Otherwise a wrong level would look like a burst.
    residuals = positive - scores - ((positives - expected) / rows)[bins]
    effect = max([1.0, *(design_effect(residuals, codes) for codes in groups)])
    independent = np.maximum(1, np.rint(rows / effect)).astype(np.int64)
    drawn = np.random.default_rng(seed).binomial(
        independent, np.clip(expected / rows, 0, 1), size=(draws, len(rows))
    ) * (rows / independent)
    errors = np.abs(drawn - expected).sum(axis=1) / min(positives.sum(), expected.sum())
    return tuple(errors.tolist())


def design_effect(residuals: Scores, groups: Codes) -> float:
    """The variance of the sum of residuals over the variance for independent rows.

    It is the sum over groups of (sum of r)^2, over the sum of r^2 (Kish, Survey Sampling, 1965).
    """
    total = float(np.sum(residuals**2))
    return float(np.sum(np.bincount(groups, weights=residuals) ** 2)) / total if total > 0 else 1.0


def interval(values: Drawn) -> tuple[float, float]:
    """The lower and the upper end of the percentile interval. NaN if any value is NaN."""
    low, high = np.quantile(values, INTERVAL)
    return float(low), float(high)


def weighted_average_precision(positive: Flags, scores: Scores, groups: Codes) -> Statistic:
    """Average precision as a function of how often each group was drawn.

    Rows are sorted once. Each draw takes two cumulative sums. A draw without a positive gives NaN.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, codes, positives = scores[order], groups[order], np.flatnonzero(positive[order])
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    positive_codes = codes[positives]
    # Precision counts only at thresholds that catch a further positive. Such a threshold is the end of its
    # run of equal scores.
    at = ends[np.searchsorted(ends, positives)]
    last_caught = np.searchsorted(positives, at, side="right") - 1

    def weigh(times_drawn: Codes) -> float:
        alarms = np.cumsum(times_drawn[codes])[at]
        weights = times_drawn[positive_codes]
        caught = np.cumsum(weights)[last_caught]
        if not caught[-1]:
            return math.nan
        return float(np.sum(weights * caught / np.maximum(alarms, 1)) / caught[-1])

    return weigh


def weighted_value_saved(
    values: Scores, positive: Flags, scores: Scores, days: pd.Series, costs: AppliedCosts, groups: Codes
) -> Statistic:
    """The value that reviews of the highest scores of each day save, by how often each group was drawn.

    An event of a group that is drawn twice takes two reviews, and pushes other events out of the capacity of
    the day. The result is in the unit of `values`.
    """
    day = pd.factorize(days, use_na_sentinel=False)[0]
    order = np.lexsort((-scores, day))  # Ties keep the order of the rows, as in `reviewed_at_capacity`.
    codes, positives = groups[order], np.flatnonzero(positive[order])
    losses, first_of_day = (
        costs.missed_share * values[order][positives],
        np.searchsorted(day[order], day[order][positives]),
    )
    positive_codes = codes[positives]

    def weigh(times_drawn: Codes) -> float:
        before = np.concatenate([[0], np.cumsum(times_drawn[codes])])
        ahead = before[positives] - before[first_of_day]
        return float(np.sum(losses * np.clip(costs.reviews_per_day - ahead, 0, times_drawn[positive_codes])))

    return weigh
