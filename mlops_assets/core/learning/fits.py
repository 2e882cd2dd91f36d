"""Two fits of one recipe: the evaluation fit for the holdout, and the release fit for serving."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring.bootstrap import value_of
from mlops_assets.core.judging.measuring.measures import (
    Flags,
    Scores,
    average_precision,
    expected_calibration_error,
    precision_at_k,
    recall_at_fpr,
    roc_auc,
)
from mlops_assets.core.judging.measuring.money import policy_from_costs
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.learner import Fitted, Learnable, Learner, Progress
from mlops_assets.core.learning.splits import Split, utc_days
from mlops_assets.core.words import Words
from mlops_assets.errors import PlatformError
from serving.contract.policy import Policy
from serving.contract.scorers.lightgbm import Calibrator
from serving.contract.subject import Subject

IDENTITY = Calibrator(a=1.0, b=0.0)  # The margin of a learner is a log-odds.


class TrainingError(PlatformError, ValueError):
    """Rows that no model can be trained on. The message names the problem."""


@dataclass(frozen=True)
class TrainedModel:
    """Both fits, with their calibrators and the policy.

    `calibrator` and `policy` serve with the release. They come from the holdout, the newest days that the
    evaluation fit did not see. They cannot improve the candidate on the holdout: a rising calibrator keeps
    the order of scores, and versions are compared by the order. The calibration error depends on the level of
    scores. It is measured with `evaluation_calibrator`, which comes from training days.
    """

    evaluation_text: str
    release_text: str
    rounds: int
    calibrator: Calibrator
    evaluation_calibrator: Calibrator
    policy: Policy
    features: tuple[str, ...]
    metrics: Mapping[str, float]  # of the evaluation fit on the holdout
    importance: Mapping[str, float]  # share of the release fit's total gain, largest first
    digests: Mapping[str, str]  # sha256 of the two texts
    seconds: float


def train(
    subject: Subject,
    learner: Learner,
    rows: pd.DataFrame,
    features: Sequence[str],
    split: Split,
    recipe: Recipe,
    costs: AppliedCosts,
    progress: Progress | None = None,
) -> TrainedModel:
    """Both fits of the recipe on the rows of `eligible_rows.assemble`.

    Equal rows in any order give equal bytes. The number of rounds is chosen on the last days of the training
    period. Chosen on the holdout, a version would win there by chance. `progress` takes lines of text. Raises
    `TrainingError` where no model can be trained on the rows.
    """
    started = time.perf_counter()
    say = progress or (lambda _: None)
    features = tuple(features)
    rows = rows.sort_values(subject.event.id, kind="stable").reset_index(drop=True)
    _check(subject, rows, features, split)
    known, days = learnable(subject, rows, features, recipe), utc_days(rows["event_timestamp"]).dt.date
    fit, held = (rows["fold"] == "train").to_numpy(), (rows["fold"] == "holdout").to_numpy()

    positive = Words.of(subject).positive
    first_day = _tail_from(days[fit], known.flags[fit], recipe.tail_days, positive)
    tail = fit & (days >= first_day).to_numpy()
    say(
        f"choosing the number of rounds on {int(tail.sum()):,} rows from {days[tail].min()} to"
        f" {days[tail].max()}"
    )
    chosen = learner.choose_rounds(known, fit & ~tail, tail, features, recipe, say)
    rounds = chosen.rounds
    evaluation_calibrator = platt(chosen.fitted.margins(known.matrix[tail], rounds), known.flags[tail])

    say(
        f"evaluation fit: {rounds} rounds on {int((fit & known.drawn).sum()):,} of {int(fit.sum()):,} rows to"
        f" {split.evaluation_last}"
    )
    evaluation = learner.fit(known, fit, features, recipe, rounds)
    margins, flags = evaluation.margins(known.matrix[held]), known.flags[held]
    calibrator = platt(margins, flags)
    policy = policy_from_costs(
        calibrator.apply(margins),
        value_of(subject, rows[held]),
        flags,
        days[held],
        costs,
        stops=subject.decisions.stops is not None,
    )

    say(
        f"release fit: {rounds} rounds on {int(known.drawn.sum()):,} of {len(rows):,} rows to"
        f" {split.last_mature_day}"
    )
    release = learner.fit(known, fit | held, features, recipe, rounds)
    texts = {"evaluation": evaluation.text, "release": release.text}
    return TrainedModel(
        evaluation_text=texts["evaluation"],
        release_text=texts["release"],
        rounds=rounds,
        calibrator=calibrator,
        evaluation_calibrator=evaluation_calibrator,
        policy=policy,
        features=features,
        metrics=_metrics(subject, rows[held], days[held], evaluation_calibrator.apply(margins), costs),
        importance=_importance(release, features),
        digests={name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        seconds=time.perf_counter() - started,
    )


def learnable(subject: Subject, rows: pd.DataFrame, features: tuple[str, ...], recipe: Recipe) -> Learnable:
    """The rows for a learner, from the event's id, the label and the features.

    The id and the seed decide whether a row is drawn. Every fit therefore draws the same rows, in any order.
    """
    matrix = np.ascontiguousarray(rows[list(features)].to_numpy(dtype=np.float64))
    flags = rows[subject.labels.name].to_numpy(dtype=bool)
    if recipe.legitimate_share == 1:
        return Learnable(matrix, flags, np.ones(len(rows), dtype=bool))
    lot = pd.util.hash_array(
        rows[subject.event.id].to_numpy(dtype=object), hash_key=f"{recipe.seed % 10**16:016d}"
    )
    return Learnable(matrix, flags, flags | (lot < np.uint64(recipe.legitimate_share * 2**64)))


def platt(margins: Scores, positive: Flags) -> Calibrator:
    """Platt's scaling with his smoothed targets (Probabilistic Outputs for Support Vector Machines, 1999).

    A line that does not rise would reverse the ranking. In that case the calibrator is the identity, and the
    gate judges the model.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(positive.sum())
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (len(positive) - positives + 2))
    # A soft target is a weighted row of each class.
    twice = np.concatenate([margins, margins])[:, None]
    fitted = LogisticRegression(C=1e9, tol=1e-8, max_iter=1_000).fit(
        twice, np.repeat([1, 0], len(margins)), sample_weight=np.concatenate([target, 1 - target])
    )
    a, b = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Calibrator(a=a, b=b) if a > 0 else IDENTITY


def _check(subject: Subject, rows: pd.DataFrame, features: tuple[str, ...], split: Split) -> None:
    words, name, label = Words.of(subject), subject.event.id, subject.labels.name
    value = [subject.decisions.value] if subject.decisions.value else []
    needed = (name, "event_timestamp", *value, label, "fold", *features)
    if missing := [column for column in needed if column not in rows]:
        raise TrainingError(f"the training set has no column {', '.join(missing)}")
    if not features:
        raise TrainingError("the training set has no features")
    if (twice := rows[name].duplicated()).any():
        raise TrainingError(
            f"{words.event} {rows[name][twice].iloc[0]} is in the training set more than once"
        )
    if unlabelled := int(rows[label].isna().sum()):
        raise TrainingError(f"{unlabelled:,} of {len(rows):,} rows have no verdict")
    if (strayed := rows["fold"].fillna("none") != split.label(rows["event_timestamp"]).fillna("none")).any():
        row = rows[strayed].iloc[0]
        raise TrainingError(
            f"{words.event} {row[name]} of {row['event_timestamp']} is marked {row['fold']!r},"
            f" which is not its fold as of {split.as_of}"
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
        positive = rows.loc[rows["fold"] == fold, label].astype(bool)
        what = {"train": "the training period", "holdout": "the holdout"}[fold]
        if positive.empty:
            raise TrainingError(f"{what} from {first} to {last} has no rows")
        if positive.nunique() == 1:
            only = words.positive if positive.iloc[0] else words.negative
            raise TrainingError(
                f"{what} from {first} to {last} has one class only: all {len(positive):,} rows are {only}"
            )
    values = rows[list(features)].astype(np.float64)
    if infinite := [feature for feature in features if np.isinf(values[feature]).any()]:
        raise TrainingError(f"infinite values in {', '.join(infinite)}")
    trained = values[rows["fold"] == "train"]
    if null := [feature for feature in features if trained[feature].isna().all()]:
        raise TrainingError(f"null in every row of the training period: {', '.join(null)}")


def _tail_from(days: pd.Series, flags: Flags, at_most: int, positive: str) -> date:
    """The first day of the inner tail, the days on which rounds are chosen.

    The tail is the last `at_most` days, and at most half of all days. It begins earlier where these days have
    no positive. Head and tail both have both classes. Raises `TrainingError` where that is impossible.
    """
    of_positives, of_others = days[flags], days[~flags]
    every = sorted(days.unique())
    head_needs, tail_needs = (
        max(of_positives.min(), of_others.min()),
        min(of_positives.max(), of_others.max()),
    )
    if head_needs >= tail_needs:
        raise TrainingError(
            f"the training period has {positive} from {of_positives.min()} to {of_positives.max()} only:"
            " rounds are chosen on later days with both"
        )
    start = min(every[-max(1, min(at_most, len(every) // 2))], tail_needs)
    return start if start > head_needs else next(day for day in every if day > head_needs)


def _metrics(
    subject: Subject, held: pd.DataFrame, days: pd.Series, scores: Scores, costs: AppliedCosts
) -> dict[str, float]:
    flags, inspected = held[subject.labels.name].to_numpy(dtype=bool), subject.inspected
    metrics = {
        "average_precision": average_precision(flags, scores),
        "roc_auc": roc_auc(flags, scores),
        "recall_at_1pct_fpr": recall_at_fpr(flags, scores),
        "calibration_error": expected_calibration_error(flags, scores),
        "holdout_rows": float(len(flags)),
        "holdout_positives": float(flags.sum()),
    }
    if inspected is not None and inspected.key in held and costs.reviews_per_day:
        metrics[Words.of(subject).precision_at_k] = precision_at_k(
            days, held[inspected.key], flags, scores, costs.reviews_per_day
        )
    return metrics


def _importance(fitted: Fitted, features: tuple[str, ...]) -> dict[str, float]:
    gain = fitted.gains()
    total = float(gain.sum()) or 1.0
    return dict(
        sorted(
            ((name, float(value) / total) for name, value in zip(features, gain, strict=True)),
            key=lambda pair: (-pair[1], pair[0]),
        )
    )
