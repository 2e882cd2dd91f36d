"""Candidate, champion and baseline on the same mature rows, with intervals for the effect of chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.measuring import measures as m
from mlops_assets.core.judging.measuring.bootstrap import (
    Codes,
    Drawn,
    calibration_by_chance,
    clusters,
    interval,
    most_varied,
    resample,
    value_of,
    weighted_average_precision,
    weighted_value_saved,
)
from mlops_assets.core.judging.measuring.money import reviewed_at_capacity
from mlops_assets.core.judging.measuring.slices import measure_slices
from mlops_assets.core.learning.splits import utc_days
from mlops_assets.core.words import Words
from serving.contract.subject import Subject


def evaluate(
    subject: Subject,
    holdout: pd.DataFrame,
    candidate: m.Scores,
    champion: m.Scores | None,
    baseline: m.Scores | None,
    costs: AppliedCosts,
    k: int,
    seed: int,
    resamples: int = 200,
    *,
    train: pd.DataFrame | None = None,
    expected_values: npt.ArrayLike | None = None,
    unknown_values: npt.ArrayLike | None = None,
) -> Evaluation:
    """Measure the scores on the mature rows `holdout`. Scores are in the order of the rows.

    `holdout` has the event's keys, the columns of slices and value, event_timestamp and the label. `train`
    has the same columns, for the rows that the candidate's evaluation fit was trained on. `expected_values`
    are believable values, such as those of the champion's holdout. They show whether labels and values are
    believable, which no comparison of two models on the same bad rows can show. `value_factor` is the largest
    ratio, in either direction, of the mean or the median of the values of `holdout` or `train` to the
    expected one. Without expected values it compares `holdout` with `train`. `unknown_values` are the values
    of the events of the same days without a verdict. Raises `ValueError` where scores and rows differ in
    number.
    """
    flags, values_of_rows = holdout[subject.labels.name].to_numpy(dtype=bool), value_of(subject, holdout)
    days, saved = utc_days(holdout["event_timestamp"]).dt.strftime("%Y-%m-%d"), Words.of(subject).saved
    given = {"candidate": candidate, "champion": champion, "baseline": baseline}
    scores = {
        name: np.asarray(values, dtype=np.float64) for name, values in given.items() if values is not None
    }
    for name, values in scores.items():
        if len(values) != len(holdout):
            raise ValueError(f"{name}: {len(values):,} scores for {len(holdout):,} rows of the holdout")

    undefined: dict[str, str] = {}
    measured = {
        name: _measure(subject, name, flags, values, holdout, days, costs, k, undefined)
        for name, values in scores.items()
    }
    reference = next((name for name in ("champion", "baseline") if name in scores), "none")
    compared = {
        name: measured[name]["average_precision"] for name in ("candidate", reference) if name in measured
    }
    usable = len(compared) == 2 and all(math.isfinite(value) for value in compared.values())
    groups = clusters(subject, holdout)
    unknown = None if unknown_values is None else np.asarray(unknown_values, dtype=np.float64)
    counted = subject.decisions.value is None

    sure = [name for name in compared if math.isfinite(compared[name])]
    resampled = {
        by: _resample(saved, sure, flags, values_of_rows, scores, days, costs, codes, seed, resamples)
        for by, codes in (groups.items() if sure else ())
    }
    by, drawn = _most_varied(resampled, saved, sure, reference if usable else None)
    by = by or next(iter(groups))

    return Evaluation(
        rows=len(holdout),
        positives=int(flags.sum()),
        clusters={name: int(codes.max()) + 1 if len(codes) else 0 for name, codes in groups.items()},
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
            subject, holdout, train, scores["candidate"], scores.get(reference), seed, resamples
        ),
        calibration_by_chance=calibration_by_chance(flags, scores["candidate"], groups.values(), seed)
        if math.isfinite(measured["candidate"]["relative_calibration_error"])
        else (),
        unknown_rows=None if unknown is None else len(unknown),
        unknown_value=None if unknown is None or counted else math.fsum(unknown),
        train_rows=None if train is None else len(train),
        train_positive_share=None if train is None else _share(train[subject.labels.name]),
        value_factor=None
        if counted
        else _value_factor(
            values_of_rows, None if train is None else value_of(subject, train), expected_values
        ),
        value=subject.decisions.value,
    )


def _share(labels: pd.Series) -> float:
    return float(labels.mean()) if len(labels) else math.nan


def _most_varied(
    resampled: Mapping[str, dict[str, Drawn]], saved: str, sure: Sequence[str], reference: str | None
) -> tuple[str, dict[str, Drawn]]:
    """The clusters by which the judged figure varies most, and their resamples. Empty without resamples.

    With a reference, the differences are added to the resamples, and the difference is the judged figure.
    """
    if not sure:
        return "", {}
    for drawn in resampled.values() if reference else ():
        for metric in ("average_precision", saved):
            drawn[f"difference.{metric}"] = drawn[f"candidate.{metric}"] - drawn[f"{reference}.{metric}"]
    judged = "difference" if reference else sure[0]
    by = most_varied(resampled, f"{judged}.average_precision")
    return by, resampled[by]


def _resample(
    saved: str,
    names: Sequence[str],
    flags: m.Flags,
    values: m.Scores,
    scores: Mapping[str, m.Scores],
    days: pd.Series,
    costs: AppliedCosts,
    codes: Codes,
    seed: int,
    resamples: int,
) -> dict[str, Drawn]:
    statistics = {
        f"{name}.average_precision": weighted_average_precision(flags, scores[name], codes) for name in names
    }
    statistics |= {
        f"{name}.{saved}": weighted_value_saved(values, flags, scores[name], days, costs, codes)
        for name in names
    }
    return resample(statistics, codes, seed, resamples)


def _measure(
    subject: Subject,
    who: str,
    flags: m.Flags,
    scores: m.Scores,
    holdout: pd.DataFrame,
    days: pd.Series,
    costs: AppliedCosts,
    k: int,
    undefined: dict[str, str],
) -> dict[str, float]:
    words, inspected = Words.of(subject), subject.inspected

    def saved() -> float:
        m.numbers(words.saved.replace("_", " "), flags, scores)
        reviewed = reviewed_at_capacity(scores, days, costs.reviews_per_day)
        return costs.missed_share * m.value_saved(value_of(subject, holdout), flags, reviewed)

    questions: dict[str, Callable[[], float]] = {
        "average_precision": lambda: m.average_precision(flags, scores),
        "roc_auc": lambda: m.roc_auc(flags, scores),
        words.precision_at_k: lambda: m.precision_at_k(
            days, holdout[inspected.key if inspected else subject.event.id], flags, scores, k
        ),
        "recall_at_1pct_fpr": lambda: m.recall_at_fpr(flags, scores, 0.01),
        words.saved: saved,
        "calibration_error": lambda: m.expected_calibration_error(flags, scores),
        "relative_calibration_error": lambda: m.relative_calibration_error(flags, scores),
    }
    if inspected is None:
        del questions[words.precision_at_k]
    answers = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except m.UndefinedMetric as error:
            answers[name] = math.nan
            undefined[f"{who}.{name}"] = error.why
    return answers


def _value_factor(values: m.Scores, train: m.Scores | None, expected: npt.ArrayLike | None) -> float | None:
    parts = [values] + ([] if train is None else [train])
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
