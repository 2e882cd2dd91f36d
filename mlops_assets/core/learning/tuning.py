"""A search for a better recipe by seeded Optuna trials, on training days only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.core.judging.measuring.measures import Flags
from mlops_assets.core.learning.fits import learnable
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.learner import Learnable, Learner, Range
from mlops_assets.core.learning.search_budget import Tuning, TuningError
from mlops_assets.core.learning.splits import Split, utc_days
from mlops_assets.core.words import Words
from serving.contract.subject import Subject

Report = Callable[["Trial", "Trial"], None]  # takes the last trial and the best trial so far


@dataclass(frozen=True)
class Fold:
    """The days of one measurement, both included. The measured fit has learnt from the days before them."""

    first: date
    last: date


@dataclass(frozen=True)
class Trial:
    """One recipe, measured.

    `losses` are its log losses on the folds, the earliest fold first. A trial that was `given_up` has fewer
    losses than there are folds. `searched` are the values that the search chose, by name.
    """

    number: int
    recipe: Recipe
    losses: tuple[float, ...]
    given_up: bool
    searched: Mapping[str, float]

    @property
    def loss(self) -> float:
        """The mean log loss over the measured folds."""
        return float(np.mean(self.losses))


@dataclass(frozen=True)
class Study:
    """All trials in order. The first trial has the configured recipe."""

    folds: tuple[Fold, ...]
    trials: tuple[Trial, ...]

    @property
    def configured(self) -> Trial:
        """The trial of the configured recipe."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The trial with the lowest loss among those with all folds.

        Among equal trials it is the first one. Only a better recipe replaces the configured recipe.
        """
        return _best(self.trials)


def search(
    subject: Subject,
    learner: Learner,
    rows: pd.DataFrame,
    features: tuple[str, ...],
    split: Split,
    recipe: Recipe,
    tuning: Tuning,
    report: Report = lambda trial, best: None,
) -> Study:
    """Measure `tuning.trials` recipes on the training rows, seeded by the recipe.

    `rows` are those of `fits.train`, in any order. The holdout is not used, because versions are compared on
    it. The measure of a trial is the mean of its best log loss on each fold. The log loss rewards
    probabilities, which the policy needs. It changes with each row, while average precision jumps with each
    of a few hundred positives. From the sixth trial on, a trial is given up if its mean is worse than the
    median of the others after as many folds. Raises `TuningError`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = rows[rows["fold"] == "train"].sort_values(subject.event.id, kind="stable", ignore_index=True)
    folds = folds_of(split, tuning)
    known, days = (
        learnable(subject, rows, features, recipe),
        utc_days(rows["event_timestamp"]).dt.date.to_numpy(),
    )
    parts = [_part(known, days, fold, Words.of(subject)) for fold in folds]
    space = _space(learner, recipe)
    done: list[Trial] = []

    def measure(trial: optuna.Trial) -> float:
        chosen: dict[str, Any] = {name: _suggest(trial, name, within) for name, within in space.items()}
        candidate = replace(recipe, **chosen)
        losses: list[float] = []
        for number, (head, measured) in enumerate(parts):
            losses.append(learner.choose_rounds(known, head, measured, features, candidate).loss)
            trial.report(float(np.mean(losses)), number)
            if trial.should_prune() and number < len(parts) - 1:
                break
        given_up = len(losses) < len(parts)
        done.append(Trial(trial.number, candidate, tuple(losses), given_up, chosen))
        report(done[-1], _best(done))
        if done[-1].given_up:
            raise optuna.TrialPruned
        return done[-1].loss

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=recipe.seed % 2**32),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    study.enqueue_trial({name: getattr(recipe, name) for name in space})
    study.optimize(measure, n_trials=tuning.trials)
    return Study(folds, tuple(done))


def folds_of(split: Split, tuning: Tuning) -> tuple[Fold, ...]:
    """The last blocks of the training days, the earliest first.

    At least as many days as in a fold lie before the first block. Raises `TuningError` for too few days.
    """
    there, needed = (
        (split.evaluation_last - split.train_first).days + 1,
        (tuning.folds + 1) * tuning.fold_days,
    )
    if there < needed:
        raise TuningError(
            f"as of {split.as_of} there are {max(0, there)} training days; {tuning.folds} folds of"
            f" {tuning.fold_days} days, and as many days before the first fold, need {needed}: set fewer or"
            " shorter folds in [tuning], or trials = 0"
        )
    after = split.evaluation_last + timedelta(days=1)
    starts = [after - timedelta(days=tuning.fold_days * n) for n in range(tuning.folds, 0, -1)]
    return tuple(Fold(start, start + timedelta(days=tuning.fold_days - 1)) for start in starts)


def _part(known: Learnable, days: Any, fold: Fold, words: Words) -> tuple[Flags, Flags]:
    """The rows to learn from, and the rows to measure on, as boolean masks."""
    head, measured = days < fold.first, (days >= fold.first) & (days <= fold.last)
    for rows, what in (
        (head, f"the training days before {fold.first}"),
        (measured, f"the days from {fold.first} to {fold.last}"),
    ):
        if (positives := int(known.flags[rows].sum())) in (0, int(rows.sum())):
            raise TuningError(
                f"{what} have {positives} {words.positives} in {int(rows.sum())} rows: set longer or"
                " fewer folds in [tuning], or for trials = 0"
            )
    return head, measured


def _space(learner: Learner, recipe: Recipe) -> dict[str, Range]:
    """The learner's ranges, widened to include the configured values of the first trial."""
    space = {}
    for name, within in learner.space.items():
        value = getattr(recipe, name)
        if within.log and not value > 0:
            raise TuningError(
                f"{name} of {value!r} in the recipe: it is searched on a logarithmic scale, which needs a"
                " value above 0"
            )
        space[name] = replace(within, low=min(within.low, value), high=max(within.high, value))
    return space


def _suggest(trial: Any, name: str, within: Range) -> float:
    if within.whole:
        return int(trial.suggest_int(name, int(within.low), int(within.high), log=within.log))
    return float(trial.suggest_float(name, within.low, within.high, log=within.log))


def _best(trials: list[Trial] | tuple[Trial, ...]) -> Trial:
    return min((trial for trial in trials if not trial.given_up), key=lambda trial: trial.loss)
