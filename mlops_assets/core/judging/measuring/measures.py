"""Measures of scores, each by its published definition.

An undefined measure raises `UndefinedMetric`. It never returns a 0.0 that looks like a result. `positive` has
a flag for each row, `scores` a number for each row. Shares and precisions are from 0 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.errors import PlatformError

Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class UndefinedMetric(PlatformError, ValueError):
    """A measure without a value: there are no rows, one class only, or scores that are not numbers."""

    def __init__(self, metric: str, why: str) -> None:
        self.metric, self.why = metric, why
        super().__init__(f"{metric} is undefined: {why}")


def average_precision(positive: Any, scores: Any) -> float:
    """Average precision: the sum over thresholds of (R_n - R_{n-1}) * P_n, without interpolation.

    It is scikit-learn's `average_precision_score`. Raises `UndefinedMetric`.
    """
    from sklearn.metrics import average_precision_score

    flags, values = both_classes("average precision", positive, scores)
    return float(average_precision_score(flags, values))


def roc_auc(positive: Any, scores: Any) -> float:
    """The probability that a positive scores above a negative, where a tie counts one half.

    It is Mann-Whitney's U / (n+ * n-). Raises `UndefinedMetric`.
    """
    from sklearn.metrics import roc_auc_score

    flags, values = both_classes("ROC AUC", positive, scores)
    return float(roc_auc_score(flags, values))


def recall_at_fpr(positive: Any, scores: Any, max_fpr: float = 0.01) -> float:
    """The largest TP / P over the thresholds whose FP / N is at most `max_fpr`, without interpolation.

    Raises `UndefinedMetric`.
    """
    from sklearn.metrics import roc_curve

    flags, values = both_classes("recall at a false-positive rate", positive, scores)
    false_rate, true_rate, _ = roc_curve(flags, values, drop_intermediate=False)
    return float(true_rate[false_rate <= max_fpr].max())


def precision_at_k(days: Any, keys: Any, positive: Any, scores: Any, k: int) -> float:
    """Precision top-k of Le Borgne et al. (2022), chapter 4 of the book that docs/handbook.md is about.

    The k keys with the highest maximum score of a day are investigated. The precision of the day is the
    number of these keys with a positive on the day, over k, even if fewer than k keys are left. A key with a
    found positive does not count on later days. The result is the mean over days. The key's name breaks ties,
    which the book leaves open. Raises `UndefinedMetric`.
    """
    flags, values = both_classes("precision at k", positive, scores)
    if k < 1:
        raise UndefinedMetric("precision at k", f"k is {k}")
    frame = pd.DataFrame(
        {"day": np.asarray(days), "key": np.asarray(keys), "positive": flags, "score": values}
    )
    worst = frame.groupby(["day", "key"], sort=True, as_index=False)[["positive", "score"]].max()
    worst = worst.sort_values(["day", "score", "key"], ascending=[True, False, True], kind="stable")
    found: set[object] = set()
    precisions = []
    for _, day in worst.groupby("day", sort=True):
        top = day[~day["key"].isin(found)].head(k)
        hits = top.loc[top["positive"], "key"]
        precisions.append(len(hits) / k)
        found.update(hits)
    return float(np.mean(precisions))


def expected_calibration_error(positive: Any, scores: Any, bins: int = 10) -> float:
    """The mean difference of score and share of positives, for scores that are probabilities.

    It is the sum over `calibration_bins` of (n_b / n) * |mean score - share of positives| (Naeini et al.,
    AAAI 2015). Raises `UndefinedMetric`.
    """
    flags, values = numbers("calibration error", positive, scores)
    group = calibration_bins(values, bins)
    gap = np.bincount(group, weights=values) - np.bincount(group, weights=flags)
    return float(np.abs(gap).sum() / len(values))


def calibration_bins(scores: Scores, bins: int = 10) -> npt.NDArray[np.int64]:
    """The bin of each row, from 0.

    Bins have equal numbers of rows (Nixon et al., 2019). With bins of equal width and rare positives, the
    first bin would hold nearly all rows. Equal scores share the bin of their mean rank.
    """
    place = pd.Series(scores).rank().to_numpy() - 0.5
    return (place * bins // max(1, len(scores))).astype(np.int64)


def relative_calibration_error(positive: Any, scores: Any) -> float:
    """`expected_calibration_error` over the share of positives or the mean score, whichever is smaller.

    An absolute error means little for rare positives: scores of 0 can have an error of 0.01. Scores that are
    all too high or all too low by a factor f have a relative error of f - 1. Raises `UndefinedMetric`.
    """
    error = expected_calibration_error(positive, scores)
    scale = min(float(np.mean(np.asarray(positive, dtype=bool))), float(np.mean(scores)))
    if scale <= 0:
        raise UndefinedMetric(
            "relative calibration error", "there is no positive row, or the mean score is not above 0"
        )
    return error / scale


def value_saved(values: Any, positive: Any, caught: Any) -> float:
    """The sum of the values of the caught positives, in the unit of the values.

    `caught` has a flag for each row. Raises `UndefinedMetric` for values that are not numbers.
    """
    worth, flags = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=bool)
    if bad := int((~np.isfinite(worth)).sum()):
        raise UndefinedMetric("the value saved", f"{bad} values are not numbers")
    return float(worth[flags & np.asarray(caught, dtype=bool)].sum())


def numbers(metric: str, positive: Any, scores: Any) -> tuple[Flags, Scores]:
    """Flags and scores as arrays of equal length.

    Raises `UndefinedMetric` for no rows or scores that are not numbers, and `ValueError` for lengths that
    differ.
    """
    flags, values = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if len(flags) != len(values):
        raise ValueError(f"{metric}: {len(flags):,} labels and {len(values):,} scores")
    if not len(flags):
        raise UndefinedMetric(metric, "there are no rows")
    if bad := int((~np.isfinite(values)).sum()):
        raise UndefinedMetric(metric, f"{bad:,} of {len(values):,} scores are not numbers")
    return flags, values


def both_classes(metric: str, positive: Any, scores: Any) -> tuple[Flags, Scores]:
    """Flags and scores as from `numbers`. Raises `UndefinedMetric` also where a class is missing."""
    flags, values = numbers(metric, positive, scores)
    positives = int(flags.sum())
    if positives in (0, len(flags)):
        raise UndefinedMetric(metric, f"{positives:,} of {len(flags):,} rows are positive")
    return flags, values
