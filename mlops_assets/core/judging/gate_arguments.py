"""The questions that the gate asks, each answered by a sentence with figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.words import Words


@dataclass(frozen=True)
class Argument:
    """One reason for the candidate (`good`) or against it.

    No person may overrule a `hard` reason against, see `Verdict.barred`.
    """

    good: bool
    reason: str
    hard: bool = False


def about_labels(evaluation: Evaluation, gate: Gate, words: Words) -> list[Argument]:
    """Whether the holdout has enough positives, and whether the shares of positives are believable."""
    where = (
        f"the holdout from {evaluation.first_day} to {evaluation.last_day}"
        if evaluation.rows
        else "the holdout"
    )
    positives = f"{where} has {evaluation.positives:,} {words.positives} in {evaluation.rows:,} rows"
    if evaluation.positives < gate.min_positives:
        arguments = [
            Argument(False, f"{positives}: at least {gate.min_positives:,} are needed to compare two models")
        ]
    else:
        arguments = [_share(f"{positives}, a share of", evaluation.positive_share, gate)]
    if evaluation.train_positive_share is not None:
        arguments.append(
            _share(
                f"of {evaluation.train_rows or 0:,} training rows the share of {words.positive} is",
                evaluation.train_positive_share,
                gate,
            )
        )
    return arguments


def _share(what: str, share: float, gate: Gate) -> Argument:
    good = share <= gate.max_positive_share
    believable = "believable" if good else f"at most {gate.max_positive_share:.0%} is believable"
    return Argument(good, f"{what} {share:.2%}: {believable}", hard=True)


def about_values(evaluation: Evaluation, gate: Gate, words: Words) -> list[Argument]:
    """Whether the values have the size that is expected. Empty where nothing is expected."""
    factor = evaluation.value_factor
    if factor is None:
        return []
    good = factor <= gate.max_value_factor
    figures = (
        f"{words.values} are off by a factor of {factor:.2f} from what is expected (at most"
        f" {gate.max_value_factor:g} is believable)"
    )
    return [Argument(good, figures, hard=True)]


def about_metrics(evaluation: Evaluation) -> list[Argument]:
    """The metrics without a value. Such a metric was not measured."""
    arguments = []
    for who, metrics in evaluation.metrics.items():
        if who not in ("candidate", evaluation.reference):
            continue
        for name, value in metrics.items():
            if not math.isfinite(value):
                why = evaluation.undefined.get(f"{who}.{name}", "its value is not a number")
                arguments.append(Argument(False, f"{name} of the {who} is undefined: {why}", hard=True))
    return arguments


def about_better(evaluation: Evaluation, gate: Gate, words: Words) -> Argument:
    """Whether the candidate is proven to rank better than the reference."""
    if evaluation.reference == "none":
        return Argument(
            False, "there is neither a champion nor a baseline to compare the candidate with", hard=True
        )
    own = evaluation.metrics["candidate"]["average_precision"]
    other = evaluation.metrics[evaluation.reference]["average_precision"]
    bound = evaluation.lower_bound(gate.confidence)
    good = bound > gate.min_gain  # false for NaN as well
    figures = (
        f"average precision {own:.4f} against {other:.4f} of the {evaluation.reference}, a difference of"
        f" {evaluation.difference:+.4f}"
    )
    count = evaluation.clusters[evaluation.resampled]
    resamples = f"{len(evaluation.bootstrap)} resamples of {count:,} {evaluation.resampled}"
    if math.isnan(bound) and math.isfinite(evaluation.difference):
        return Argument(
            False, f"{figures}; some of {resamples} have no {words.positive} at all: nothing is proven"
        )
    interval = f"at {gate.confidence:.0%} confidence it is at least {bound:+.4f}, over {resamples}"
    proven = "" if good else f": not proven to be more than {gate.min_gain:g}"
    return Argument(good, f"{figures}; {interval}{proven}", hard=not math.isfinite(bound))


def about_saved(evaluation: Evaluation, gate: Gate, words: Words) -> Argument:
    """Whether the candidate saves as much as the reference with the same number of reviews."""
    own = evaluation.metrics["candidate"][words.saved]
    other = evaluation.metrics.get(evaluation.reference, {}).get(words.saved, math.nan)
    digits, unit = (2, "") if evaluation.value else (0, " cases")
    good = own >= other * (1 - gate.max_money_loss_share)  # false for NaN as well
    figures = (
        f"at {evaluation.reviews_per_day:,} reviews a day it saves {own:,.{digits}f}{unit}, the"
        f" {evaluation.reference} {other:,.{digits}f}"
    )
    return Argument(good, figures + ("" if good else f": more than {gate.max_money_loss_share:.0%} less"))


def about_slices(evaluation: Evaluation, gate: Gate, words: Words) -> list[Argument]:
    """The slices that are proven to lose too much, or one answer where there is none.

    A loss counts if its whole interval lies beyond the tolerated loss. Of ten slices without a loss, one
    looks worse by chance.
    """
    judged = [one for one in evaluation.slices if one.positives >= gate.min_slice_positives and one.bootstrap]
    if not judged:
        return []
    losses = [one for one in judged if one.bound(gate.confidence) < -gate.max_slice_loss]
    if not losses:
        several = (
            f"slices with {gate.min_slice_positives:,} {words.positives} or more, {len(judged)} in number"
        )
        figures = (
            f"none of the {several}, is proven to lose more than {gate.max_slice_loss:g} of average precision"
        )
        worst = min(judged, key=lambda one: one.difference or 0.0)
        return [Argument(True, f"{figures}; the worst is {worst.name} with {worst.difference:+.4f}")]
    return [
        Argument(
            False,
            f"{one.name}, {one.positives:,} {words.positives}: average precision {one.candidate:.4f} against"
            f" {one.reference:.4f} of the {evaluation.reference}; at {gate.confidence:.0%} confidence it"
            f" loses at least {-one.bound(gate.confidence):.4f}, more than {gate.max_slice_loss:g}",
        )
        for one in losses
    ]


def about_calibration(evaluation: Evaluation, gate: Gate, words: Words) -> list[Argument]:
    """Whether the scores are probabilities.

    An error counts if it exceeds the tolerated error and also exceeds what a calibrated model shows by
    chance on as many positives in such bursts.
    """
    error, chance = (
        evaluation.metrics["candidate"]["relative_calibration_error"],
        evaluation.calibration_by_chance,
    )
    if not math.isfinite(error):
        return []  # `about_metrics` reports it.
    low, high = (
        float(np.quantile(chance, q)) if chance else math.nan for q in (1 - gate.confidence, gate.confidence)
    )
    figures = (
        f"its scores are off from the observed shares of {words.positive} by {error:.0%} (at most"
        f" {gate.max_calibration_error:.0%})"
    )
    found = f"{figures}; scores of a calibrated model are off by {low:.0%} to {high:.0%} by chance"
    if error <= gate.max_calibration_error:
        return [Argument(True, found)]
    if error <= high:  # false for NaN as well
        return [Argument(True, f"{found}: this may be chance")]
    return [Argument(False, f"{found}: the scores are no probabilities")]


def about_features(
    candidate: tuple[str, ...], serving: tuple[str, ...] | None, missing: Sequence[str]
) -> Argument:
    """Whether the service can compute the features of the candidate."""
    if missing:
        return Argument(
            False, f"the service cannot compute its features: it lacks {', '.join(missing)}", hard=True
        )
    if serving is None:
        return Argument(
            True, f"the first version sets the {len(candidate)} features that the service computes"
        )
    if candidate == serving:
        return Argument(True, f"its {len(candidate)} features are those that the service computes, in order")
    gone, extra = sorted(set(serving) - set(candidate)), sorted(set(candidate) - set(serving))
    differs = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(extra)} besides"] * bool(extra)
    how = " and ".join(differs) or "in another order"
    return Argument(
        True, f"the service can compute its {len(candidate)} features, which are the champion's {how}"
    )


def about_rebuild(unreproducible: str | None, gate: Gate) -> Argument:
    """Whether anybody can rebuild the candidate."""
    if unreproducible is None:
        return Argument(True, "it can be rebuilt from its commit")
    return Argument(
        gate.allow_dirty,
        f"{unreproducible}{', which is allowed here' if gate.allow_dirty else ''}",
        hard=True,
    )


def about_parity(unproven: Sequence[str]) -> Argument:
    """Whether training and serving are proven to see the same features."""
    if not unproven:
        return Argument(True, "served vectors agree with those recomputed offline")
    few = ", ".join(unproven[:3]) + (f" and {len(unproven) - 3} days more" if len(unproven) > 3 else "")
    return Argument(False, f"training and serving are not proven to see the same features: {few}", hard=True)
