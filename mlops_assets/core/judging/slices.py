"""Where a model is good and where it is not: groups of payments that a risk analyst asks about, each with its
size and how sure its figures are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlops_assets.core.judging import measures as m
from mlops_assets.core.judging.bootstrap import clusters, paired_bootstrap

BANDS = (
    10.0,
    50.0,
    100.0,
    250.0,
)  # of the amount; where money is lost is another question than where frauds are many


@dataclass(frozen=True)
class Slice:
    """Average precision within one group of payments.

    A figure is null where the group does not define it: read the sizes first.
    """

    name: str
    rows: int
    positives: int
    candidate: float | None
    reference: float | None
    bootstrap: tuple[
        float, ...
    ] = ()  # candidate minus reference on each resample of the group's customers, or merchants, that holds a fraud

    @property
    def difference(self) -> float | None:
        return None if self.candidate is None or self.reference is None else self.candidate - self.reference

    def bound(self, quantile: float) -> float:
        """Below which the difference lies with that chance (percentile bootstrap); NaN where it is undefined."""
        return float(np.quantile(self.bootstrap, quantile)) if self.bootstrap else math.nan


def measure_slices(
    holdout: pd.DataFrame,
    train: pd.DataFrame | None,
    candidate: m.Scores,
    reference: m.Scores | None,
    seed: int,
    resamples: int,
    bands: Sequence[float] = BANDS,
) -> tuple[Slice, ...]:
    """Bands of the amount; with the training rows, also customers and merchants by what those rows know of
    them.
    """
    flags = holdout["is_fraud"].to_numpy(dtype=bool)
    groups = {**_by_amount(holdout, bands), **({} if train is None else _by_acquaintance(holdout, train))}
    return tuple(
        _measure(name, inside, holdout, flags, candidate, reference, seed, resamples)
        for name, inside in groups.items()
    )


def _by_amount(holdout: pd.DataFrame, bands: Sequence[float]) -> dict[str, m.Flags]:
    amounts, groups = holdout["amount"].to_numpy(dtype=np.float64), {}
    for low, high in zip((-math.inf, *bands), (*bands, math.inf), strict=True):
        name = (
            f"amount under {high:g}"
            if low == -math.inf
            else f"amount from {low:g}" + (f" to {high:g}" if high < math.inf else "")
        )
        groups[name] = (amounts >= low) & (amounts < high)
    return groups


def _by_acquaintance(holdout: pd.DataFrame, train: pd.DataFrame) -> dict[str, m.Flags]:
    customer = holdout["customer_id"].isin(train["customer_id"].unique()).to_numpy(dtype=bool)
    merchant = holdout["merchant_id"].isin(train["merchant_id"].unique()).to_numpy(dtype=bool)
    defrauded = (
        holdout["merchant_id"]
        .isin(train.loc[train["is_fraud"].astype(bool), "merchant_id"].unique())
        .to_numpy(dtype=bool)
    )
    return {
        "known customers": customer,
        "new customers": ~customer,
        "merchants with known fraud": defrauded,
        "merchants without known fraud": merchant & ~defrauded,
        "new merchants": ~merchant,
    }


def _measure(
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
        # Where one customer or merchant had most of the frauds, some draws are without any, which says
        # nothing of the models.
        _, drawn = paired_bootstrap(
            flags[inside], candidate[inside], reference[inside], clusters(holdout[inside]), seed, resamples
        )
        differences = tuple(drawn[np.isfinite(drawn)].tolist())
    return Slice(name, int(inside.sum()), int(flags[inside].sum()), own, other, differences)
