"""The quality of a model in groups of events, each with its size and the certainty of its figures.

The use case declares the groups: bands of a number, and keys that the training days had or had not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops_assets.core.judging.measuring import measures as m
from mlops_assets.core.judging.measuring.bootstrap import clusters, paired_bootstrap
from mlops_assets.core.words import Words, several_of_key
from serving.contract.subject import Bands, Known, Subject


@dataclass(frozen=True)
class Slice:
    """Average precision within one group of events.

    A figure is null where the group does not define it. `bootstrap` is candidate minus reference on each
    resample of the group's clusters that has a positive.
    """

    name: str
    rows: int
    positives: int
    candidate: float | None
    reference: float | None
    bootstrap: tuple[float, ...] = ()

    @property
    def difference(self) -> float | None:
        """Candidate minus reference; None where either is undefined."""
        return None if self.candidate is None or self.reference is None else self.candidate - self.reference

    def bound(self, quantile: float) -> float:
        """The quantile of the difference (percentile bootstrap). NaN where the difference is undefined."""
        return float(np.quantile(self.bootstrap, quantile)) if self.bootstrap else math.nan


def measure_slices(
    subject: Subject,
    holdout: pd.DataFrame,
    train: pd.DataFrame | None,
    candidate: m.Scores,
    reference: m.Scores | None,
    seed: int,
    resamples: int,
) -> tuple[Slice, ...]:
    """Both models on each group of `subject.slices`, in that order.

    Groups by known keys need the rows of `train`.
    """
    flags = holdout[subject.labels.name].to_numpy(dtype=bool)
    groups: dict[str, m.Flags] = {}
    for one in subject.slices:
        if isinstance(one, Bands):
            groups |= _by_band(holdout, one)
        elif train is not None:
            groups |= _by_acquaintance(subject, holdout, train, one)
    return tuple(
        _measure(subject, name, inside, holdout, flags, candidate, reference, seed, resamples)
        for name, inside in groups.items()
    )


def _by_band(holdout: pd.DataFrame, bands: Bands) -> dict[str, m.Flags]:
    values, groups, what = (
        holdout[bands.column].to_numpy(dtype=np.float64),
        dict[str, m.Flags](),
        bands.column.replace("_", " "),
    )
    for low, high in zip((-math.inf, *bands.edges), (*bands.edges, math.inf), strict=True):
        name = (
            f"{what} under {high:g}"
            if low == -math.inf
            else f"{what} from {low:g}" + (f" to {high:g}" if high < math.inf else "")
        )
        groups[name] = (values >= low) & (values < high)
    return groups


def _by_acquaintance(
    subject: Subject, holdout: pd.DataFrame, train: pd.DataFrame, by: Known
) -> dict[str, m.Flags]:
    """A null key is neither known nor new."""
    words, keys, several = Words.of(subject), holdout[by.key], several_of_key(by.key)
    there = keys.notna().to_numpy(dtype=bool)
    known = there & keys.isin(train[by.key].unique()).to_numpy(dtype=bool)
    if not by.positives:
        return {f"known {several}": known, f"new {several}": there & ~known}
    hit = train.loc[train[subject.labels.name].astype(bool), by.key].unique()
    positive = there & keys.isin(hit).to_numpy(dtype=bool)
    return {
        f"{several} with known {words.positive}": positive,
        f"{several} without known {words.positive}": known & ~positive,
        f"new {several}": there & ~known,
    }


def _measure(
    subject: Subject,
    name: str,
    inside: m.Flags,
    holdout: pd.DataFrame,
    flags: m.Flags,
    candidate: m.Scores,
    reference: m.Scores | None,
    seed: int,
    resamples: int,
) -> Slice:
    def precision(scores: m.Scores | None) -> float | None:
        try:
            return None if scores is None else m.average_precision(flags[inside], scores[inside])
        except m.UndefinedMetric:
            return None

    own, other = precision(candidate), precision(reference)
    differences: tuple[float, ...] = ()
    if reference is not None and own is not None and other is not None:
        # Where one cluster has most of the positives, some draws have none. These draws do not compare the
        # models.
        by_key = clusters(subject, holdout[inside])
        _, drawn = paired_bootstrap(
            flags[inside], candidate[inside], reference[inside], by_key, seed, resamples
        )
        differences = tuple(drawn[np.isfinite(drawn)].tolist())
    return Slice(name, int(inside.sum()), int(flags[inside].sum()), own, other, differences)
