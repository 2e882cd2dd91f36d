"""Two fits of one recipe: the evaluation fit, which never saw the holdout, and the release fit, which is what would serve."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.metrics import (
    Flags,
    Scores,
    average_precision,
    card_precision_at_k,
    expected_calibration_error,
    recall_at_fpr,
    roc_auc,
)
from mlops_assets.core.money import Costs, policy_from_costs
from mlops_assets.core.splits import Split, utc_days
from serving.contract.policy import Policy
from serving.contract.scoring import Calibrator

Matrix = npt.NDArray[np.float64]
Progress = Callable[[str], None]
IDENTITY = Calibrator(a=1.0, b=0.0)  # LightGBM's margin is a log-odds already


class TrainingError(ValueError):
    """Rows that no model can be trained on; the message names what is wrong with them."""


@dataclass(frozen=True)
class Recipe:
    """How a model is made. Everything that changes its bytes is here or in the rows."""

    learning_rate: float = 0.05
    num_leaves: int = 31
    min_data_in_leaf: int = 50  # frauds come by the hundred, not by the ten thousand: smaller leaves remember single cards
    feature_fraction: float = 0.7  # the windows of one aggregate say nearly the same: each tree makes do with some of them
    lambda_l2: float = 5.0
    max_bin: int = 255
    max_rounds: int = 600
    patience: int = 50  # rounds without a better log loss on the inner tail
    tail_share: float = 0.2  # of the training days, the last ones: rounds are chosen on days that come later, as the model will be used
    num_threads: int = 2  # part of the recipe: another number may sum in another order, and the bytes differ
    seed: int = 20180401

    def parameters(self) -> dict[str, Any]:
        """For LightGBM. No class weights and no resampling: they distort probabilities and do not change the ranking for the better."""
        own = {"max_rounds", "patience", "tail_share"}
        return {
            **{name: value for name, value in asdict(self).items() if name not in own},
            "objective": "binary",
            "metric": "binary_logloss",
            "deterministic": True,
            "force_row_wise": True,  # else LightGBM times both layouts and takes the faster, which is not always the same one
            "verbosity": -1,
        }


@dataclass(frozen=True)
class TrainedModel:
    """Both fits, with what turns their margins into decisions.

    `calibrator` and `policy` come from the holdout E, the freshest days that a fit of ours did not see: they go with the release. They cannot
    make the candidate look better on E, because a calibrator that rises keeps the order, and versions are compared by their order. What looks
    at the level of the scores (calibration error) is measured with `evaluation_calibrator`, which never saw E.
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


def train(rows: pd.DataFrame, features: Sequence[str], split: Split, recipe: Recipe, costs: Costs, progress: Progress | None = None) -> TrainedModel:
    """`rows`: transaction_id, event_timestamp, amount, is_fraud, fold ("train" or "holdout"), the features, null as NaN; and customer_id,
    if card precision is wanted. The order of the rows does not matter: equal rows give equal bytes.

    The number of rounds is chosen by early stopping on the last days of the training period, not on the holdout: the holdout compares
    versions, and who chose on it would win there by luck.
    """
    started = time.perf_counter()
    say = progress or (lambda _: None)
    features = tuple(features)
    rows = rows.sort_values("transaction_id", kind="stable").reset_index(drop=True)
    _check(rows, features, split)
    matrix, flags, days = _matrix(rows, features), rows["is_fraud"].to_numpy(dtype=bool), utc_days(rows["event_timestamp"]).dt.date
    fit, held = (rows["fold"] == "train").to_numpy(), (rows["fold"] == "holdout").to_numpy()

    tail = fit & (days >= _tail_from(days[fit], flags[fit], recipe.tail_share)).to_numpy()
    say(f"choosing the number of rounds on {int(tail.sum()):,} rows from {days[tail].min()} to {days[tail].max()}")
    first, rounds = _choose_rounds(matrix[fit & ~tail], flags[fit & ~tail], matrix[tail], flags[tail], features, recipe, say)
    evaluation_calibrator = platt(_margins(first, matrix[tail]), flags[tail])

    say(f"evaluation fit: {rounds} rounds on {int(fit.sum()):,} rows to {split.evaluation_last}")
    evaluation = _fit(matrix[fit], flags[fit], features, recipe, rounds)
    margins = _margins(evaluation, matrix[held])
    calibrator = platt(margins, flags[held])
    policy = policy_from_costs(calibrator.apply(margins), rows["amount"][held], flags[held], days[held], costs)

    say(f"release fit: {rounds} rounds on {len(rows):,} rows to {split.last_mature_day}")
    release = _fit(matrix, flags, features, recipe, rounds)
    texts = {"evaluation": evaluation.model_to_string(num_iteration=-1), "release": release.model_to_string(num_iteration=-1)}
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


def platt(margins: Scores, is_fraud: Flags) -> Calibrator:
    """Platt's scaling with his smoothed targets (Probabilistic Outputs for Support Vector Machines, 1999).

    Where the fitted line does not rise, it would turn the ranking round: the margin's own log-odds stay, and the gate will judge the model.
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
    if missing := [name for name in ("transaction_id", "event_timestamp", "amount", "is_fraud", "fold", *features) if name not in rows]:
        raise TrainingError(f"the training set has no column {', '.join(missing)}")
    if not features:
        raise TrainingError("the training set has no features")
    if (twice := rows["transaction_id"].duplicated()).any():
        raise TrainingError(f"transaction {rows['transaction_id'][twice].iloc[0]} is in the training set more than once")
    if unlabelled := int(rows["is_fraud"].isna().sum()):
        raise TrainingError(f"{unlabelled:,} of {len(rows):,} rows have no verdict")
    if (strayed := rows["fold"].fillna("none") != split.label(rows["event_timestamp"]).fillna("none")).any():
        row = rows[strayed].iloc[0]
        raise TrainingError(f"transaction {row['transaction_id']} of {row['event_timestamp']} is marked {row['fold']!r}: not as of {split.as_of}")
    if outside := int(rows["fold"].isna().sum()):
        raise TrainingError(f"{outside:,} rows are neither for training nor for the holdout as of {split.as_of}")
    periods = (("train", split.train_first, split.evaluation_last), ("holdout", split.holdout_first, split.holdout_last))
    for fold, first, last in periods:
        fraud = rows.loc[rows["fold"] == fold, "is_fraud"].astype(bool)
        what = {"train": "the training period", "holdout": "the holdout"}[fold]
        if fraud.empty:
            raise TrainingError(f"{what} from {first} to {last} has no rows")
        if fraud.nunique() == 1:
            only = "fraud" if fraud.iloc[0] else "legitimate"
            raise TrainingError(f"{what} from {first} to {last} has one class only: all {len(fraud):,} rows are {only}")
    values = rows[list(features)].astype(np.float64)
    if infinite := [name for name in features if np.isinf(values[name]).any()]:
        raise TrainingError(f"infinite values in {', '.join(infinite)}")
    if null := [name for name in features if values.loc[rows["fold"] == "train", name].isna().all()]:
        raise TrainingError(f"null in every row of the training period: {', '.join(null)}")


def _matrix(rows: pd.DataFrame, features: tuple[str, ...]) -> Matrix:
    return np.ascontiguousarray(rows[list(features)].to_numpy(dtype=np.float64))


def _tail_from(days: pd.Series, flags: Flags, share: float) -> date:
    """The first day of the inner tail: `share` of the days, more where those hold no fraud, both sides with both classes."""
    of_fraud, of_others = days[flags], days[~flags]
    every = sorted(days.unique())
    head_needs, tail_needs = max(of_fraud.min(), of_others.min()), min(of_fraud.max(), of_others.max())
    if head_needs >= tail_needs:
        raise TrainingError(
            f"the training period has fraud from {of_fraud.min()} to {of_fraud.max()} only: rounds are chosen on later days with both"
        )
    start = min(every[-max(1, round(share * len(every)))], tail_needs)
    return start if start > head_needs else next(day for day in every if day > head_needs)


def _dataset(matrix: Matrix, flags: Flags, features: tuple[str, ...], recipe: Recipe, reference: Any = None) -> Any:
    import lightgbm

    return lightgbm.Dataset(matrix, label=flags.astype(np.float64), feature_name=list(features), params=recipe.parameters(), reference=reference)


def _choose_rounds(
    head: Matrix, head_flags: Flags, tail: Matrix, tail_flags: Flags, features: tuple[str, ...], recipe: Recipe, say: Progress
) -> tuple[Any, int]:
    import lightgbm

    def report(env: Any) -> None:
        if (env.iteration + 1) % 50 == 0:
            say(f"round {env.iteration + 1}: log loss {env.evaluation_result_list[0][2]:.5f}")

    learn = _dataset(head, head_flags, features, recipe)
    booster = lightgbm.train(
        recipe.parameters(),
        learn,
        num_boost_round=recipe.max_rounds,
        valid_sets=[_dataset(tail, tail_flags, features, recipe, reference=learn)],
        callbacks=[lightgbm.early_stopping(recipe.patience, verbose=False), report],
    )
    return booster, max(1, booster.best_iteration)


def _fit(matrix: Matrix, flags: Flags, features: tuple[str, ...], recipe: Recipe, rounds: int) -> Any:
    import lightgbm

    return lightgbm.train(recipe.parameters(), _dataset(matrix, flags, features, recipe), num_boost_round=rounds)


def _margins(booster: Any, matrix: Matrix) -> Scores:
    return np.asarray(booster.predict(matrix, raw_score=True), dtype=np.float64)


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
        metrics["card_precision_at_k"] = card_precision_at_k(days, held["customer_id"], flags, scores, costs.reviews_per_day)
    return metrics


def _importance(booster: Any, features: tuple[str, ...]) -> dict[str, float]:
    gain = booster.feature_importance(importance_type="gain")
    total = float(gain.sum()) or 1.0
    return dict(sorted(((name, float(value) / total) for name, value in zip(features, gain, strict=True)), key=lambda pair: (-pair[1], pair[0])))
