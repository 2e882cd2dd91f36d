"""Candidate, champion and baseline on the same mature rows, with an interval that says how much of a
difference is luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging import measures as m
from mlops_assets.core.judging.bootstrap import (
    Codes,
    Drawn,
    calibration_by_chance,
    clusters,
    interval,
    most_varied,
    resample,
    weighted_average_precision,
    weighted_money_saved,
)
from mlops_assets.core.judging.money import Costs, reviewed_at_capacity
from mlops_assets.core.judging.slices import BANDS, Slice, measure_slices
from mlops_assets.core.learning.splits import utc_days

TIME_BOUND_ROWS = 100_000  # a logistic regression of a dozen features gains nothing from more


@dataclass(frozen=True)
class Evaluation:
    """What the gate decides on.

    An undefined metric is NaN here, with its reason in `undefined`, and a NaN is a refusal.
    """

    rows: int
    positives: int
    customers: int
    merchants: int
    resampled: str  # "customers" or "merchants": those by which the difference varies most
    first_day: str
    last_day: str
    k: int
    reviews_per_day: int
    reference: str  # "champion", "baseline" where there is none, or "none"
    metrics: Mapping[str, Mapping[str, float]]  # of "candidate", "champion", "baseline", as far as given
    undefined: Mapping[str, str]
    difference: float  # average precision, candidate minus reference
    bootstrap: tuple[float, ...]  # the same on each resample
    intervals: Mapping[
        str, tuple[float, float]
    ]  # 90 %, of the two's average precision and money saved, and of the difference of each
    slices: tuple[Slice, ...]
    calibration_by_chance: tuple[
        float, ...
    ] = ()  # the candidate's relative calibration error, were its scores right, on each draw of labels
    # payments of the same days without a verdict: no figure here is about them
    unknown_rows: int | None = None
    unknown_amount: float | None = None  # the money in them
    train_rows: int | None = None
    train_positive_share: float | None = None
    # how many times larger, or smaller, than expected amounts are; see `evaluate`
    amount_factor: float | None = None

    def lower_bound(self, confidence: float) -> float:
        """Below which the true difference lies with a chance of at most 1 - confidence (percentile bootstrap,
        one-sided); NaN if undefined.
        """
        return float(np.quantile(self.bootstrap, 1 - confidence)) if self.bootstrap else math.nan

    @property
    def positive_share(self) -> float:
        return self.positives / self.rows if self.rows else math.nan

    @property
    def unknown_share(self) -> float | None:
        """Of the payments of the holdout's days, those without a verdict."""
        total = self.rows + (self.unknown_rows or 0)
        return None if self.unknown_rows is None or not total else self.unknown_rows / total

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as null, the resamples as their quantiles."""
        plain = {**asdict(self), "unknown_share": self.unknown_share}
        plain |= {name: _quantiles(getattr(self, name)) for name in ("bootstrap", "calibration_by_chance")}
        plain["slices"] = [
            {**asdict(one), "difference": one.difference, "bootstrap": _quantiles(one.bootstrap)}
            for one in self.slices
        ]
        return _without_nan(plain)


def evaluate(
    holdout: pd.DataFrame,
    candidate: m.Scores,
    champion: m.Scores | None,
    baseline: m.Scores | None,
    costs: Costs,
    k: int,
    seed: int,
    resamples: int = 200,
    *,
    train: pd.DataFrame | None = None,
    expected_amounts: npt.ArrayLike | None = None,
    unknown_amounts: npt.ArrayLike | None = None,
    bands: Sequence[float] = BANDS,
) -> Evaluation:
    """`holdout`: amount, is_fraud, customer_id, merchant_id, event_timestamp of the mature rows of E; the
    scores in the same order.

    `train` (the same columns) is what the candidate's evaluation fit was trained on, `expected_amounts` what
    amounts are known to look like, such as those of the champion's holdout: with them the evaluation says
    whether labels and amounts are believable, which no comparison of two models on the same spoilt rows can
    say. `amount_factor` is the largest ratio, either way, of the mean or the median of the amounts in E or in
    `train` to the expected one (to `train`'s, where nothing else is expected). `unknown_amounts`: of the
    payments of the same days that have no verdict.
    """
    flags, amounts = holdout["is_fraud"].to_numpy(dtype=bool), holdout["amount"].to_numpy(dtype=np.float64)
    days, cards = utc_days(holdout["event_timestamp"]).dt.strftime("%Y-%m-%d"), holdout["customer_id"]
    given = {"candidate": candidate, "champion": champion, "baseline": baseline}
    scores = {
        name: np.asarray(values, dtype=np.float64) for name, values in given.items() if values is not None
    }
    for name, values in scores.items():
        if len(values) != len(holdout):
            raise ValueError(f"{name}: {len(values):,} scores for {len(holdout):,} rows of the holdout")

    undefined: dict[str, str] = {}
    measured = {
        name: _measure(name, flags, values, amounts, days, cards, costs, k, undefined)
        for name, values in scores.items()
    }
    reference = next((name for name in ("champion", "baseline") if name in scores), "none")
    compared = {
        name: measured[name]["average_precision"] for name in ("candidate", reference) if name in measured
    }
    usable = len(compared) == 2 and all(math.isfinite(value) for value in compared.values())
    groups = clusters(holdout)
    unknown = None if unknown_amounts is None else np.asarray(unknown_amounts, dtype=np.float64)

    sure = [name for name in compared if math.isfinite(compared[name])]
    resampled = (
        {
            by: _resample(sure, flags, amounts, scores, days, costs, codes, seed, resamples)
            for by, codes in groups.items()
        }
        if sure
        else {}
    )
    for drawn in resampled.values() if usable else ():
        for metric in ("average_precision", "money_saved"):
            drawn[f"difference.{metric}"] = drawn[f"candidate.{metric}"] - drawn[f"{reference}.{metric}"]
    judged = "difference" if usable else sure[0] if sure else ""
    by = most_varied(resampled, f"{judged}.average_precision") if sure else next(iter(groups))
    drawn = resampled.get(by, {})

    return Evaluation(
        rows=len(holdout),
        positives=int(flags.sum()),
        **{name: int(codes.max()) + 1 if len(codes) else 0 for name, codes in groups.items()},
        resampled=by,
        first_day=str(days.min()) if len(days) else "",
        last_day=str(days.max()) if len(days) else "",
        k=k,
        reviews_per_day=costs.reviews_per_day,
        reference=reference,
        metrics=measured,
        undefined=undefined,
        difference=compared["candidate"] - compared[reference] if usable else math.nan,
        bootstrap=tuple(drawn["difference.average_precision"].tolist()) if usable else (),
        intervals={name: interval(values) for name, values in drawn.items()},
        slices=measure_slices(
            holdout, train, scores["candidate"], scores.get(reference), seed, resamples, bands
        ),
        calibration_by_chance=calibration_by_chance(flags, scores["candidate"], groups.values(), seed)
        if math.isfinite(measured["candidate"]["relative_calibration_error"])
        else (),
        unknown_rows=None if unknown is None else len(unknown),
        unknown_amount=None if unknown is None else math.fsum(unknown),
        train_rows=None if train is None else len(train),
        train_positive_share=None
        if train is None
        else float(train["is_fraud"].mean())
        if len(train)
        else math.nan,
        amount_factor=_amount_factor(amounts, train, expected_amounts),
    )


def _resample(
    names: Sequence[str],
    flags: m.Flags,
    amounts: m.Scores,
    scores: Mapping[str, m.Scores],
    days: pd.Series,
    costs: Costs,
    codes: Codes,
    seed: int,
    resamples: int,
) -> dict[str, Drawn]:
    statistics = {
        f"{name}.average_precision": weighted_average_precision(flags, scores[name], codes) for name in names
    }
    statistics |= {
        f"{name}.money_saved": weighted_money_saved(amounts, flags, scores[name], days, costs, codes)
        for name in names
    }
    return resample(statistics, codes, seed, resamples)


def baseline_scores(
    train: pd.DataFrame, holdout: pd.DataFrame, features: Sequence[str], seed: int
) -> m.Scores:
    """A logistic regression on imputed (median) and standardized features: what the first version has to
    beat.

    Trained on at most 100,000 rows, drawn by `seed`. Raises `UndefinedMetric` where they hold one class only.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train) > TIME_BOUND_ROWS:
        train = train.iloc[
            np.sort(np.random.default_rng(seed).choice(len(train), TIME_BOUND_ROWS, replace=False))
        ]
    matrices = [part[list(features)].to_numpy(dtype=np.float64) for part in (train, holdout)]
    flags, _ = m.both_classes("the baseline", train["is_fraud"], np.zeros(len(train)))
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=1_000),
    )
    return (
        np.asarray(model.fit(matrices[0], flags).predict_proba(matrices[1])[:, 1], dtype=np.float64)
        if len(holdout)
        else np.empty(0)
    )


def _measure(
    who: str,
    flags: m.Flags,
    scores: m.Scores,
    amounts: m.Scores,
    days: pd.Series,
    cards: pd.Series,
    costs: Costs,
    k: int,
    undefined: dict[str, str],
) -> dict[str, float]:
    def saved() -> float:
        m.numbers("money saved", flags, scores)
        reviewed = reviewed_at_capacity(scores, days, costs.reviews_per_day)
        return costs.missed_fraud_share * m.money_saved(amounts, flags, np.where(reviewed, "REVIEW", "ALLOW"))

    questions: dict[str, Callable[[], float]] = {
        "average_precision": lambda: m.average_precision(flags, scores),
        "roc_auc": lambda: m.roc_auc(flags, scores),
        "card_precision_at_k": lambda: m.card_precision_at_k(days, cards, flags, scores, k),
        "recall_at_1pct_fpr": lambda: m.recall_at_fpr(flags, scores, 0.01),
        "money_saved": saved,
        "calibration_error": lambda: m.expected_calibration_error(flags, scores),
        "relative_calibration_error": lambda: m.relative_calibration_error(flags, scores),
    }
    answers = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except m.UndefinedMetric as error:
            answers[name] = math.nan
            undefined[f"{who}.{name}"] = error.why
    return answers


def _amount_factor(
    amounts: m.Scores, train: pd.DataFrame | None, expected: npt.ArrayLike | None
) -> float | None:
    parts = [amounts] + ([] if train is None else [train["amount"].to_numpy(dtype=np.float64)])
    known = parts.pop() if expected is None and train is not None else expected
    if known is None:
        return None
    known = np.asarray(known, dtype=np.float64)
    if not len(known) or not all(len(part) for part in parts):
        return math.nan
    ratios = [
        float(middle(part) / middle(known)) if middle(known) > 0 else math.nan
        for part in parts
        for middle in (np.mean, np.median)
    ]
    return max(
        max(ratio, 1 / ratio) if ratio > 0 else math.inf if ratio == 0 else math.nan for ratio in ratios
    )


def _quantiles(resamples: Sequence[float]) -> dict[str, float | None]:
    shown = (0.05, 0.1, 0.5, 0.9, 0.95)
    values: Sequence[float | None] = (
        np.quantile(resamples, shown).tolist() if len(resamples) else [None] * len(shown)
    )
    return {
        "resamples": len(resamples),
        **{f"q{round(100 * q):02d}": value for q, value in zip(shown, values, strict=True)},
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
