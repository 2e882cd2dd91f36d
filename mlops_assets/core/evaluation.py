"""Candidate, champion and baseline on the same mature rows, with an interval that says how much of a difference is luck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core import metrics as m
from mlops_assets.core.money import Costs, reviewed_at_capacity
from mlops_assets.core.splits import utc_days

BANDS = (10.0, 50.0, 100.0, 250.0)  # of the amount; where money is lost is another question than where frauds are many
TIME_BOUND_ROWS = 100_000  # a logistic regression of a dozen features gains nothing from more


@dataclass(frozen=True)
class Slice:
    """One band of amounts. A metric is null where the band does not define it: read the sizes first."""

    name: str
    rows: int
    positives: int
    candidate: float | None
    reference: float | None


@dataclass(frozen=True)
class Evaluation:
    """What the gate decides on. An undefined metric is NaN here, with its reason in `undefined`, and a NaN is a refusal."""

    rows: int
    positives: int
    customers: int
    first_day: str
    last_day: str
    k: int
    reviews_per_day: int
    reference: str  # "champion", "baseline" where there is none, or "none"
    metrics: Mapping[str, Mapping[str, float]]  # of "candidate", "champion", "baseline", as far as given
    undefined: Mapping[str, str]
    difference: float  # average precision, candidate minus reference
    bootstrap: tuple[float, ...]  # the same on each resample of customers
    slices: tuple[Slice, ...]
    train_rows: int | None = None
    train_positive_share: float | None = None
    amount_factor: float | None = None  # how many times larger, or smaller, than expected amounts are; see `evaluate`

    def lower_bound(self, confidence: float) -> float:
        """Below which the true difference lies with a chance of at most 1 - confidence (percentile bootstrap, one-sided); NaN if undefined."""
        return float(np.quantile(self.bootstrap, 1 - confidence)) if self.bootstrap else math.nan

    @property
    def positive_share(self) -> float:
        return self.positives / self.rows if self.rows else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as null, the resamples as their quantiles."""
        plain = asdict(self)
        plain["bootstrap"] = {
            "resamples": len(self.bootstrap),
            **{f"q{round(100 * q):02d}": float(np.quantile(self.bootstrap, q)) if self.bootstrap else None for q in (0.05, 0.1, 0.5, 0.9, 0.95)},
        }
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
    bands: Sequence[float] = BANDS,
) -> Evaluation:
    """`holdout`: amount, is_fraud, customer_id, merchant_id, event_timestamp of the mature rows of E; the scores in the same order.

    `train` (amount, is_fraud) is what the candidate's evaluation fit was trained on, `expected_amounts` what amounts are known to look like,
    such as the champion's drift reference: with them the evaluation says whether labels and amounts are believable, which no comparison
    of two models on the same spoilt rows can say. `amount_factor` is the largest ratio, either way, of the mean or the median of the amounts in E
    or in `train` to the expected one (to `train`'s, where nothing else is expected).
    """
    flags, amounts = holdout["is_fraud"].to_numpy(dtype=bool), holdout["amount"].to_numpy(dtype=np.float64)
    days, cards = utc_days(holdout["event_timestamp"]).dt.strftime("%Y-%m-%d"), holdout["customer_id"]
    given = {"candidate": candidate, "champion": champion, "baseline": baseline}
    scores = {name: np.asarray(values, dtype=np.float64) for name, values in given.items() if values is not None}
    for name, values in scores.items():
        if len(values) != len(holdout):
            raise ValueError(f"{name}: {len(values):,} scores for {len(holdout):,} rows of the holdout")

    undefined: dict[str, str] = {}
    measured = {name: _measure(name, flags, values, amounts, days, cards, costs, k, undefined) for name, values in scores.items()}
    reference = next((name for name in ("champion", "baseline") if name in scores), "none")
    compared = {name: measured[name]["average_precision"] for name in ("candidate", reference) if name in measured}
    usable = len(compared) == 2 and all(math.isfinite(value) for value in compared.values())
    groups = pd.factorize(cards, use_na_sentinel=False)[0]
    return Evaluation(
        rows=len(holdout),
        positives=int(flags.sum()),
        customers=int(groups.max()) + 1 if len(groups) else 0,
        first_day=str(days.min()) if len(days) else "",
        last_day=str(days.max()) if len(days) else "",
        k=k,
        reviews_per_day=costs.reviews_per_day,
        reference=reference,
        metrics=measured,
        undefined=undefined,
        difference=compared["candidate"] - compared[reference] if usable else math.nan,
        bootstrap=paired_bootstrap(flags, scores["candidate"], scores[reference], groups, seed, resamples) if usable else (),
        slices=_slices(flags, amounts, scores["candidate"], scores.get(reference), bands),
        train_rows=None if train is None else len(train),
        train_positive_share=None if train is None else float(train["is_fraud"].mean()) if len(train) else math.nan,
        amount_factor=_amount_factor(amounts, train, expected_amounts),
    )


def paired_bootstrap(is_fraud: m.Flags, one: m.Scores, other: m.Scores, groups: npt.NDArray[Any], seed: int, resamples: int) -> tuple[float, ...]:
    """Differences of average precision (one minus other) over resamples of whole groups, both models on the same draw.

    Groups, here customers, because the transactions of a card are not independent: a stolen card makes a burst of frauds. `groups`: codes
    from 0. A draw without any fraud gives NaN.
    """
    random = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    weighted = [_weighted_average_precision(is_fraud, scores, groups) for scores in (one, other)]
    differences = []
    for _ in range(resamples):
        times_drawn = np.bincount(random.integers(0, count, size=count), minlength=count)
        differences.append(weighted[0](times_drawn) - weighted[1](times_drawn))
    return tuple(differences)


def baseline_scores(train: pd.DataFrame, holdout: pd.DataFrame, features: Sequence[str], seed: int) -> m.Scores:
    """A logistic regression on imputed (median) and standardized features: what the first version has to beat.

    Trained on at most 100,000 rows, drawn by `seed`. Raises `UndefinedMetric` where they hold one class only.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train) > TIME_BOUND_ROWS:
        train = train.iloc[np.sort(np.random.default_rng(seed).choice(len(train), TIME_BOUND_ROWS, replace=False))]
    matrices = [part[list(features)].to_numpy(dtype=np.float64) for part in (train, holdout)]
    flags, _ = m.both_classes("the baseline", train["is_fraud"], np.zeros(len(train)))
    model = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1_000))
    return np.asarray(model.fit(matrices[0], flags).predict_proba(matrices[1])[:, 1], dtype=np.float64) if len(holdout) else np.empty(0)


def _measure(
    who: str, flags: m.Flags, scores: m.Scores, amounts: m.Scores, days: pd.Series, cards: pd.Series, costs: Costs, k: int, undefined: dict[str, str]
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
    }
    answers = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except m.UndefinedMetric as error:
            answers[name] = math.nan
            undefined[f"{who}.{name}"] = error.why
    return answers


def _weighted_average_precision(is_fraud: m.Flags, scores: m.Scores, groups: npt.NDArray[Any]) -> Callable[[npt.NDArray[Any]], float]:
    """Average precision as a function of the groups' weights: sorted once, then two cumulative sums for each draw."""
    order = np.argsort(-scores, kind="stable")
    ranked, codes, frauds = scores[order], groups[order], np.flatnonzero(is_fraud[order])
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    fraud_codes = codes[frauds]
    # Precision matters only at thresholds that catch another fraud: the end of the run of equal scores that holds it.
    at = ends[np.searchsorted(ends, frauds)]
    last_caught = np.searchsorted(frauds, at, side="right") - 1

    def weigh(times_drawn: npt.NDArray[Any]) -> float:
        alarms = np.cumsum(times_drawn[codes])[at]
        weights = times_drawn[fraud_codes]
        caught = np.cumsum(weights)[last_caught]
        if not caught[-1]:
            return math.nan
        return float(np.sum(weights * caught / np.maximum(alarms, 1)) / caught[-1])

    return weigh


def _slices(flags: m.Flags, amounts: m.Scores, candidate: m.Scores, reference: m.Scores | None, bands: Sequence[float]) -> tuple[Slice, ...]:
    def precision(inside: m.Flags, scores: m.Scores | None) -> float | None:
        try:
            return None if scores is None else m.average_precision(flags[inside], scores[inside])
        except m.UndefinedMetric:
            return None

    slices = []
    for low, high in zip((-math.inf, *bands), (*bands, math.inf), strict=True):
        inside = (amounts >= low) & (amounts < high)
        name = f"amount under {high:g}" if low == -math.inf else f"amount from {low:g}" + (f" to {high:g}" if high < math.inf else "")
        slices.append(Slice(name, int(inside.sum()), int(flags[inside].sum()), precision(inside, candidate), precision(inside, reference)))
    return tuple(slices)


def _amount_factor(amounts: m.Scores, train: pd.DataFrame | None, expected: npt.ArrayLike | None) -> float | None:
    parts = [amounts] + ([] if train is None else [train["amount"].to_numpy(dtype=np.float64)])
    known = parts.pop() if expected is None and train is not None else expected
    if known is None:
        return None
    known = np.asarray(known, dtype=np.float64)
    if not len(known) or not all(len(part) for part in parts):
        return math.nan
    ratios = [float(middle(part) / middle(known)) if middle(known) > 0 else math.nan for part in parts for middle in (np.mean, np.median)]
    return max(max(ratio, 1 / ratio) if ratio > 0 else math.inf if ratio == 0 else math.nan for ratio in ratios)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
