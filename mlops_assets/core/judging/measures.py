"""What "good" means, each number by its published definition; what is undefined is an error here, never a 0.0
that looks like a result.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def average_precision(is_fraud: Any, scores: Any) -> float:
    """Sum over thresholds of (R_n - R_{n-1}) * P_n, without interpolation (scikit-learn's
    `average_precision_score`).
    """
    from sklearn.metrics import average_precision_score

    flags, values = both_classes("average precision", is_fraud, scores)
    return float(average_precision_score(flags, values))


def roc_auc(is_fraud: Any, scores: Any) -> float:
    """The chance that a fraud scores above a legitimate transaction, ties counting one half (Mann-Whitney U /
    (n+ * n-)).
    """
    from sklearn.metrics import roc_auc_score

    flags, values = both_classes("ROC AUC", is_fraud, scores)
    return float(roc_auc_score(flags, values))


def recall_at_fpr(is_fraud: Any, scores: Any, max_fpr: float = 0.01) -> float:
    """The largest TP / P over thresholds whose FP / N does not exceed `max_fpr` (no interpolation between
    thresholds).
    """
    from sklearn.metrics import roc_curve

    flags, values = both_classes("recall at a false-positive rate", is_fraud, scores)
    false_rate, true_rate, _ = roc_curve(flags, values, drop_intermediate=False)
    return float(true_rate[false_rate <= max_fpr].max())


def card_precision_at_k(days: Any, cards: Any, is_fraud: Any, scores: Any, k: int) -> float:
    """Card precision top-k of Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection
    (2022), chapter 4.

    Per day, the k cards with the highest maximum score are investigated; the day's precision is the number of
    compromised cards among them (with at least one fraud that day) over k, also where fewer than k cards are
    left. A card that was found compromised is taken out of the days that follow. The result is the mean over
    days. Ties are broken by the card's name, which the book leaves open.
    """
    flags, values = both_classes("card precision", is_fraud, scores)
    if k < 1:
        raise UndefinedMetric("card precision", f"k is {k}")
    frame = pd.DataFrame(
        {"day": np.asarray(days), "card": np.asarray(cards), "fraud": flags, "score": values}
    )
    worst = frame.groupby(["day", "card"], sort=True, as_index=False)[["fraud", "score"]].max()
    worst = worst.sort_values(["day", "score", "card"], ascending=[True, False, True], kind="stable")
    found: set[object] = set()
    precisions = []
    for _, day in worst.groupby("day", sort=True):
        top = day[~day["card"].isin(found)].head(k)
        hits = top.loc[top["fraud"], "card"]
        precisions.append(len(hits) / k)
        found.update(hits)
    return float(np.mean(precisions))


def expected_calibration_error(is_fraud: Any, scores: Any, bins: int = 10) -> float:
    """Sum over `calibration_bins` of (n_b / n) * |mean score - share of fraud| (Naeini et al., AAAI 2015),
    for scores that claim to be probabilities.
    """
    flags, values = numbers("calibration error", is_fraud, scores)
    group = calibration_bins(values, bins)
    gap = np.bincount(group, weights=values) - np.bincount(group, weights=flags)
    return float(np.abs(gap).sum() / len(values))


def calibration_bins(scores: Scores, bins: int = 10) -> npt.NDArray[np.int64]:
    """The bin of each row.

    Bins hold equal numbers of rows (Nixon et al., 2019): of equal width, the first would hold nearly
    everything where fraud is rare. Equal scores share a bin, that of their mean rank, so that a score that
    most rows have does not take all others into its own.
    """
    place = pd.Series(scores).rank().to_numpy() - 0.5
    return (place * bins // max(1, len(scores))).astype(np.int64)


def relative_calibration_error(is_fraud: Any, scores: Any) -> float:
    """`expected_calibration_error` over the share of fraud or the mean score, whichever is smaller.

    An absolute error says little where fraud is rare: scores of 0 throughout would have one of 0.01. Scores
    that are too high, or too low, by a factor f throughout have f - 1 here, either way.
    """
    error = expected_calibration_error(is_fraud, scores)
    scale = min(float(np.mean(np.asarray(is_fraud, dtype=bool))), float(np.mean(scores)))
    if scale <= 0:
        raise UndefinedMetric(
            "relative calibration error", "there is no fraud, or the mean score is not above 0"
        )
    return error / scale


def money_saved(amounts: Any, is_fraud: Any, decisions: Sequence[str] | npt.NDArray[Any]) -> float:
    """The money of the frauds that were not simply allowed: sum of `amount` where fraud and the decision is
    REVIEW or BLOCK.
    """
    money, flags = np.asarray(amounts, dtype=np.float64), np.asarray(is_fraud, dtype=bool)
    if not np.isfinite(money).all():
        raise UndefinedMetric("money saved", f"{int((~np.isfinite(money)).sum())} amounts are not numbers")
    return float(money[flags & (np.asarray(decisions) != "ALLOW")].sum())


def numbers(metric: str, is_fraud: Any, scores: Any) -> tuple[Flags, Scores]:
    """Flags and scores as arrays of one length, or `UndefinedMetric`."""
    flags, values = np.asarray(is_fraud, dtype=bool), np.asarray(scores, dtype=np.float64)
    if len(flags) != len(values):
        raise ValueError(f"{metric}: {len(flags):,} labels and {len(values):,} scores")
    if not len(flags):
        raise UndefinedMetric(metric, "there are no rows")
    if bad := int((~np.isfinite(values)).sum()):
        raise UndefinedMetric(metric, f"{bad:,} of {len(values):,} scores are not numbers")
    return flags, values


def both_classes(metric: str, is_fraud: Any, scores: Any) -> tuple[Flags, Scores]:
    """As `numbers`, for metrics that need a positive and a negative."""
    flags, values = numbers(metric, is_fraud, scores)
    positives = int(flags.sum())
    if positives in (0, len(flags)):
        raise UndefinedMetric(metric, f"{positives:,} of {len(flags):,} rows are positive")
    return flags, values
