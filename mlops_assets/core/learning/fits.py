"""Two fits of one recipe: the evaluation fit, which never saw the holdout, and the release fit, which is what
would serve.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging.measures import (
    Flags,
    Scores,
    average_precision,
    card_precision_at_k,
    expected_calibration_error,
    recall_at_fpr,
    roc_auc,
)
from mlops_assets.core.judging.money import Costs, policy_from_costs
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.splits import Split, utc_days
from mlops_assets.errors import PlatformError
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator

Matrix = npt.NDArray[np.float64]
Progress = Callable[[str], None]
IDENTITY = Calibrator(a=1.0, b=0.0)  # LightGBM's margin is a log-odds already


class TrainingError(PlatformError, ValueError):
    """Rows that no model can be trained on; the message names what is wrong with them."""


@dataclass(frozen=True)
class TrainedModel:
    """Both fits, with what turns their margins into decisions.

    `calibrator` and `policy` come from the holdout E, the freshest days that a fit of ours did not see: they
    go with the release. They cannot make the candidate look better on E, because a calibrator that rises
    keeps the order, and versions are compared by their order. What looks at the level of the scores
    (calibration error) is measured with `evaluation_calibrator`, which never saw E.
    """

    evaluation_text: str
    release_text: str
    rounds: int
    calibrator: Calibrator
    evaluation_calibrator: Calibrator
    policy: Policy
    features: tuple[str, ...]
    metrics: Mapping[str, float]  # of the evaluation fit on E
    importance: Mapping[str, float]  # share of the release fit's total gain, largest first
    digests: Mapping[str, str]  # sha256 of the two texts
    seconds: float


def train(
    rows: pd.DataFrame,
    features: Sequence[str],
    split: Split,
    recipe: Recipe,
    costs: Costs,
    progress: Progress | None = None,
) -> TrainedModel:
    """`rows`: transaction_id, event_timestamp, amount, is_fraud, fold ("train" or "holdout"), the features,
    null as NaN; and customer_id, if card precision is wanted.

    The order of the rows does not matter: equal rows give equal bytes.

    The number of rounds is chosen on the last days of the training period, not on the holdout: the holdout
    compares versions, and who chose on it would win there by luck.
    """
    started = time.perf_counter()
    say = progress or (lambda _: None)
    features = tuple(features)
    rows = rows.sort_values("transaction_id", kind="stable").reset_index(drop=True)
    _check(rows, features, split)
    known, days = learnable(rows, features, recipe), utc_days(rows["event_timestamp"]).dt.date
    fit, held = (rows["fold"] == "train").to_numpy(), (rows["fold"] == "holdout").to_numpy()

    tail = fit & (days >= _tail_from(days[fit], known.flags[fit], recipe.tail_days)).to_numpy()
    say(
        f"choosing the number of rounds on {int(tail.sum()):,} rows from {days[tail].min()} to"
        f" {days[tail].max()}"
    )
    first, rounds, _ = choose_rounds(known, fit & ~tail, tail, features, recipe, say)
    evaluation_calibrator = platt(_margins(first, known.matrix[tail], rounds), known.flags[tail])

    say(
        f"evaluation fit: {rounds} rounds on {int((fit & known.drawn).sum()):,} of {int(fit.sum()):,} rows to"
        f" {split.evaluation_last}"
    )
    evaluation = fit_rounds(known, fit, features, recipe, rounds)
    margins, flags = _margins(evaluation, known.matrix[held]), known.flags[held]
    calibrator = platt(margins, flags)
    policy = policy_from_costs(calibrator.apply(margins), rows["amount"][held], flags, days[held], costs)

    say(
        f"release fit: {rounds} rounds on {int(known.drawn.sum()):,} of {len(rows):,} rows to"
        f" {split.last_mature_day}"
    )
    release = fit_rounds(known, fit | held, features, recipe, rounds)
    texts = {
        "evaluation": evaluation.model_to_string(num_iteration=-1),
        "release": release.model_to_string(num_iteration=-1),
    }
    return TrainedModel(
        evaluation_text=texts["evaluation"],
        release_text=texts["release"],
        rounds=rounds,
        calibrator=calibrator,
        evaluation_calibrator=evaluation_calibrator,
        policy=policy,
        features=features,
        metrics=_metrics(rows[held], days[held], evaluation_calibrator.apply(margins), costs),
        importance=_importance(release, features),
        digests={name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class Learnable:
    """Rows as LightGBM takes them.

    `drawn`: every fraud, and the legitimate rows that the recipe's share takes.
    """

    matrix: Matrix  # null is NaN
    flags: Flags
    drawn: Flags


def learnable(rows: pd.DataFrame, features: tuple[str, ...], recipe: Recipe) -> Learnable:
    """`rows`: transaction_id, is_fraud and the features.

    Who is drawn hangs on the id and the seed alone: the same row in every fit, in any order.
    """
    matrix = np.ascontiguousarray(rows[list(features)].to_numpy(dtype=np.float64))
    flags = rows["is_fraud"].to_numpy(dtype=bool)
    if recipe.legitimate_share == 1:
        return Learnable(matrix, flags, np.ones(len(rows), dtype=bool))
    lot = pd.util.hash_array(
        rows["transaction_id"].to_numpy(dtype=object), hash_key=f"{recipe.seed % 10**16:016d}"
    )
    return Learnable(matrix, flags, flags | (lot < np.uint64(recipe.legitimate_share * 2**64)))


def choose_rounds(
    rows: Learnable,
    head: Flags,
    tail: Flags,
    features: tuple[str, ...],
    recipe: Recipe,
    progress: Progress | None = None,
) -> tuple[Any, int, float]:
    """Train on `head`, watch the log loss on every row of `tail`: the booster, the fewest rounds within the
    recipe's tolerance of the best, and that best log loss.
    """
    import lightgbm

    def report(env: Any) -> None:
        if progress and (env.iteration + 1) % 50 == 0:
            progress(f"round {env.iteration + 1}: log loss {env.evaluation_result_list[0][2]:.5f}")

    learn = _dataset(rows, head, features, recipe)
    measured = lightgbm.Dataset(rows.matrix[tail], label=rows.flags[tail].astype(np.float64), reference=learn)
    losses: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        recipe.parameters(),
        learn,
        num_boost_round=recipe.max_rounds,
        valid_sets=[measured],
        callbacks=[
            lightgbm.early_stopping(recipe.patience, verbose=False),
            lightgbm.record_evaluation(losses),
            report,
        ],
    )
    curve = np.array(losses["valid_0"]["binary_logloss"])
    return (
        booster,
        int(np.flatnonzero(curve <= curve.min() * (1 + recipe.tolerance))[0]) + 1,
        float(curve.min()),
    )


def fit_rounds(rows: Learnable, chosen: Flags, features: tuple[str, ...], recipe: Recipe, rounds: int) -> Any:
    """The recipe on the `chosen` rows that were drawn."""
    import lightgbm

    return lightgbm.train(
        recipe.parameters(), _dataset(rows, chosen, features, recipe), num_boost_round=rounds
    )


def platt(margins: Scores, is_fraud: Flags) -> Calibrator:
    """Platt's scaling with his smoothed targets (Probabilistic Outputs for Support Vector Machines, 1999).

    Where the fitted line does not rise, it would turn the ranking round: the margin's own log-odds stay, and
    the gate will judge the model.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(is_fraud.sum())
    target = np.where(is_fraud, (positives + 1) / (positives + 2), 1 / (len(is_fraud) - positives + 2))
    # A soft target is a row of each class, weighted.
    twice = np.concatenate([margins, margins])[:, None]
    fitted = LogisticRegression(C=1e9, tol=1e-8, max_iter=1_000).fit(
        twice, np.repeat([1, 0], len(margins)), sample_weight=np.concatenate([target, 1 - target])
    )
    a, b = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Calibrator(a=a, b=b) if a > 0 else IDENTITY


def _check(rows: pd.DataFrame, features: tuple[str, ...], split: Split) -> None:
    if missing := [
        name
        for name in ("transaction_id", "event_timestamp", "amount", "is_fraud", "fold", *features)
        if name not in rows
    ]:
        raise TrainingError(f"the training set has no column {', '.join(missing)}")
    if not features:
        raise TrainingError("the training set has no features")
    if (twice := rows["transaction_id"].duplicated()).any():
        raise TrainingError(
            f"transaction {rows['transaction_id'][twice].iloc[0]} is in the training set more than once"
        )
    if unlabelled := int(rows["is_fraud"].isna().sum()):
        raise TrainingError(f"{unlabelled:,} of {len(rows):,} rows have no verdict")
    if (strayed := rows["fold"].fillna("none") != split.label(rows["event_timestamp"]).fillna("none")).any():
        row = rows[strayed].iloc[0]
        raise TrainingError(
            f"transaction {row['transaction_id']} of {row['event_timestamp']} is marked {row['fold']!r}: not"
            f" as of {split.as_of}"
        )
    if outside := int(rows["fold"].isna().sum()):
        raise TrainingError(
            f"{outside:,} rows are neither for training nor for the holdout as of {split.as_of}"
        )
    periods = (
        ("train", split.train_first, split.evaluation_last),
        ("holdout", split.holdout_first, split.holdout_last),
    )
    for fold, first, last in periods:
        fraud = rows.loc[rows["fold"] == fold, "is_fraud"].astype(bool)
        what = {"train": "the training period", "holdout": "the holdout"}[fold]
        if fraud.empty:
            raise TrainingError(f"{what} from {first} to {last} has no rows")
        if fraud.nunique() == 1:
            only = "fraud" if fraud.iloc[0] else "legitimate"
            raise TrainingError(
                f"{what} from {first} to {last} has one class only: all {len(fraud):,} rows are {only}"
            )
    values = rows[list(features)].astype(np.float64)
    if infinite := [name for name in features if np.isinf(values[name]).any()]:
        raise TrainingError(f"infinite values in {', '.join(infinite)}")
    if null := [name for name in features if values.loc[rows["fold"] == "train", name].isna().all()]:
        raise TrainingError(f"null in every row of the training period: {', '.join(null)}")


def _tail_from(days: pd.Series, flags: Flags, at_most: int) -> date:
    """The first day of the inner tail: the last `at_most` days and no more than half of them, more where
    those hold no fraud; both sides with both classes.
    """
    of_fraud, of_others = days[flags], days[~flags]
    every = sorted(days.unique())
    head_needs, tail_needs = max(of_fraud.min(), of_others.min()), min(of_fraud.max(), of_others.max())
    if head_needs >= tail_needs:
        raise TrainingError(
            f"the training period has fraud from {of_fraud.min()} to {of_fraud.max()} only: rounds are chosen"
            " on later days with both"
        )
    start = min(every[-max(1, min(at_most, len(every) // 2))], tail_needs)
    return start if start > head_needs else next(day for day in every if day > head_needs)


def _dataset(rows: Learnable, chosen: Flags, features: tuple[str, ...], recipe: Recipe) -> Any:
    import lightgbm

    learnt = chosen & rows.drawn
    weight = (
        np.where(rows.flags[learnt], 1.0, 1 / recipe.legitimate_share)
        if recipe.legitimate_share < 1
        else None
    )
    label = rows.flags[learnt].astype(np.float64)
    return lightgbm.Dataset(
        rows.matrix[learnt],
        label=label,
        weight=weight,
        feature_name=list(features),
        params=recipe.parameters(),
    )


def _margins(booster: Any, matrix: Matrix, rounds: int | None = None) -> Scores:
    return np.asarray(booster.predict(matrix, raw_score=True, num_iteration=rounds), dtype=np.float64)


def _metrics(held: pd.DataFrame, days: pd.Series, scores: Scores, costs: Costs) -> dict[str, float]:
    flags = held["is_fraud"].to_numpy(dtype=bool)
    metrics = {
        "average_precision": average_precision(flags, scores),
        "roc_auc": roc_auc(flags, scores),
        "recall_at_1pct_fpr": recall_at_fpr(flags, scores),
        "calibration_error": expected_calibration_error(flags, scores),
        "holdout_rows": float(len(flags)),
        "holdout_positives": float(flags.sum()),
    }
    if "customer_id" in held and costs.reviews_per_day:
        metrics["card_precision_at_k"] = card_precision_at_k(
            days, held["customer_id"], flags, scores, costs.reviews_per_day
        )
    return metrics


def _importance(booster: Any, features: tuple[str, ...]) -> dict[str, float]:
    gain = booster.feature_importance(importance_type="gain")
    total = float(gain.sum()) or 1.0
    return dict(
        sorted(
            ((name, float(value) / total) for name, value in zip(features, gain, strict=True)),
            key=lambda pair: (-pair[1], pair[0]),
        )
    )
