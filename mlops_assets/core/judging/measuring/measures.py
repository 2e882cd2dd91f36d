"""What "good" means: each number by its published definition.

An undefined number is an `UndefinedMetric`, never a 0.0 that looks like a result. `positive` holds a flag a
row, `scores` a number a row; shares and precisions are from 0 to 1.
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
    """A metric that these rows do not define: no rows, one class only, scores that are not numbers."""

    def __init__(self, metric: str, why: str) -> None:
        self.metric, self.why = metric, why
        super().__init__(f"{metric} is undefined: {why}")


def average_precision(positive: Any, scores: Any) -> float:
    """Sum over thresholds of (R_n - R_{n-1}) * P_n, without interpolation (scikit-learn's
    `average_precision_score`).
    """
    from sklearn.metrics import average_precision_score

    flags, values = both_classes("average precision", positive, scores)
    return float(average_precision_score(flags, values))


def roc_auc(positive: Any, scores: Any) -> float:
    """The chance that a positive scores above a negative, ties counting one half (Mann-Whitney U / (n+ *
    n-)).
    """
    from sklearn.metrics import roc_auc_score

    flags, values = both_classes("ROC AUC", positive, scores)
    return float(roc_auc_score(flags, values))


def recall_at_fpr(positive: Any, scores: Any, max_fpr: float = 0.01) -> float:
    """The largest TP / P over thresholds whose FP / N does not exceed `max_fpr` (no interpolation between
    thresholds).
    """
    from sklearn.metrics import roc_curve

    flags, values = both_classes("recall at a false-positive rate", positive, scores)
    false_rate, true_rate, _ = roc_curve(flags, values, drop_intermediate=False)
    return float(true_rate[false_rate <= max_fpr].max())


def precision_at_k(days: Any, keys: Any, positive: Any, scores: Any, k: int) -> float:
    """Precision top-k of Le Borgne et al. (2022), chapter 4 of the book that docs/handbook.md is about.

    Per day, the k keys with the highest maximum score are investigated. The day's precision is the number of
    keys among them with at least one positive that day, over k, also where fewer than k keys are left. A key
    that was found is taken out of the days that follow. The result is the mean over days. Ties are broken by
    the key's name, which the book leaves open.
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
    """Sum over `calibration_bins` of (n_b / n) * |mean score - share of positives| (Naeini et al., AAAI
    2015), for scores that claim to be probabilities.
    """
    flags, values = numbers("calibration error", positive, scores)
    group = calibration_bins(values, bins)
    gap = np.bincount(group, weights=values) - np.bincount(group, weights=flags)
    return float(np.abs(gap).sum() / len(values))


def calibration_bins(scores: Scores, bins: int = 10) -> npt.NDArray[np.int64]:
    """The bin of each row.

    Bins hold equal numbers of rows (Nixon et al., 2019): of equal width, the first would hold nearly
    everything where positives are rare. Equal scores share a bin, that of their mean rank, so that a score
    that most rows have does not take all others into its own.
    """
    place = pd.Series(scores).rank().to_numpy() - 0.5
    return (place * bins // max(1, len(scores))).astype(np.int64)


def relative_calibration_error(positive: Any, scores: Any) -> float:
    """`expected_calibration_error` over the share of positives or the mean score, whichever is smaller.

    An absolute error says little where positives are rare: scores of 0 throughout would have one of 0.01.
    Scores that are too high, or too low, by a factor f throughout have f - 1 here, either way.
    """
    error = expected_calibration_error(positive, scores)
    scale = min(float(np.mean(np.asarray(positive, dtype=bool))), float(np.mean(scores)))
    if scale <= 0:
        raise UndefinedMetric(
            "relative calibration error", "there is no positive row, or the mean score is not above 0"
        )
    return error / scale


def value_saved(values: Any, positive: Any, caught: Any) -> float:
    """The sum of the values of the positives that were `caught` (a flag a row), in the unit of the values."""
    worth, flags = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=bool)
    if bad := int((~np.isfinite(worth)).sum()):
        raise UndefinedMetric("the value saved", f"{bad} values are not numbers")
    return float(worth[flags & np.asarray(caught, dtype=bool)].sum())


def numbers(metric: str, positive: Any, scores: Any) -> tuple[Flags, Scores]:
    """Flags and scores as arrays of one length, or `UndefinedMetric`."""
    flags, values = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if len(flags) != len(values):
        raise ValueError(f"{metric}: {len(flags):,} labels and {len(values):,} scores")
    if not len(flags):
        raise UndefinedMetric(metric, "there are no rows")
    if bad := int((~np.isfinite(values)).sum()):
        raise UndefinedMetric(metric, f"{bad:,} of {len(values):,} scores are not numbers")
    return flags, values


def both_classes(metric: str, positive: Any, scores: Any) -> tuple[Flags, Scores]:
    """As `numbers`, for metrics that need a positive and a negative."""
    flags, values = numbers(metric, positive, scores)
    positives = int(flags.sum())
    if positives in (0, len(flags)):
        raise UndefinedMetric(metric, f"{positives:,} of {len(flags):,} rows are positive")
    return flags, values
