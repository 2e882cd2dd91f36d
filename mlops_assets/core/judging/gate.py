"""Whether a candidate may serve: decided on evidence alone, and explained in sentences with figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.side_by_side import Evaluation
from mlops_assets.core.words import Words
from serving.contract.subject import Subject


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may serve, and why.

    `barred` are those of the reasons against that no person may overrule: serving would break, or the figures
    cannot be trusted.
    """

    promote: bool
    reasons: tuple[str, ...]
    barred: tuple[str, ...] = ()


def decide(
    subject: Subject,
    evaluation: Evaluation,
    gate: Gate,
    *,
    candidate_features: Sequence[str],
    champion_features: Sequence[str] | None,
    missing: Sequence[str],
    unproven: Sequence[str],
    unreproducible: str | None = None,
    objections: Sequence[str] = (),
) -> Verdict:
    """The verdict on a candidate, against the champion, or against the baseline where there is none.

    `champion_features` is the vector that the service computes now. `missing` is what serving lacks to
    compute the candidate's vector, see `servable.lacking`. `unproven` are the served days on which nothing
    proves that training and serving see the same features. `unreproducible` says why nobody could rebuild the
    candidate, `objections` why the two could not be compared as they should. A refusal gives every reason
    against, a promotion every reason for. What cannot be computed counts against.
    """
    words = Words.of(subject)
    findings = [
        *(Finding(False, objection) for objection in objections),
        *_labels(evaluation, gate, words),
        *_values(evaluation, gate, words),
        *_metrics(evaluation),
        _better(evaluation, gate, words),
        _saved(evaluation, gate, words),
        *_slices(evaluation, gate, words),
        *_calibration(evaluation, gate, words),
        _features(
            tuple(candidate_features),
            None if champion_features is None else tuple(champion_features),
            missing,
        ),
        _parity(unproven),
        _rebuild(unreproducible, gate),
    ]
    against = tuple(finding.reason for finding in findings if not finding.good)
    barred = tuple(finding.reason for finding in findings if not finding.good and finding.hard)
    return Verdict(
        promote=not against, reasons=against or tuple(finding.reason for finding in findings), barred=barred
    )


def barred_now(missing: Sequence[str], unproven: Sequence[str]) -> list[str]:
    """The answers to those of `decide`'s questions that are asked again on the day that a person promotes."""
    return [
        finding.reason for finding in (_features((), None, missing), _parity(unproven)) if not finding.good
    ]


@dataclass(frozen=True)
class Finding:
    """One answer. Where it is `hard` and not good, it is no matter of judgement: see `Verdict.barred`."""

    good: bool
    reason: str
    hard: bool = False


def _labels(evaluation: Evaluation, gate: Gate, words: Words) -> list[Finding]:
    where = (
        f"the holdout from {evaluation.first_day} to {evaluation.last_day}"
        if evaluation.rows
        else "the holdout"
    )
    positives = f"{where} has {evaluation.positives:,} {words.positives} in {evaluation.rows:,} rows"
    if evaluation.positives < gate.min_positives:
        findings = [
            Finding(False, f"{positives}: at least {gate.min_positives:,} are needed to compare two models")
        ]
    else:
        findings = [_share(f"{positives}, a share of", evaluation.positive_share, gate)]
    if evaluation.train_positive_share is not None:
        findings.append(
            _share(
                f"of {evaluation.train_rows or 0:,} training rows the share of {words.positive} is",
                evaluation.train_positive_share,
                gate,
            )
        )
    return findings


def _share(what: str, share: float, gate: Gate) -> Finding:
    good = share <= gate.max_positive_share
    believable = "believable" if good else f"at most {gate.max_positive_share:.0%} is believable"
    return Finding(good, f"{what} {share:.2%}: {believable}", hard=True)


def _values(evaluation: Evaluation, gate: Gate, words: Words) -> list[Finding]:
    factor = evaluation.value_factor
    if factor is None:
        return []
    good = factor <= gate.max_value_factor
    figures = (
        f"{words.values} are off by a factor of {factor:.2f} from what is expected (at most"
        f" {gate.max_value_factor:g} is believable)"
    )
    return [Finding(good, figures, hard=True)]


def _metrics(evaluation: Evaluation) -> list[Finding]:
    """A metric that is not a number is no detail of the report: something was not measured."""
    findings = []
    for who, metrics in evaluation.metrics.items():
        if who not in ("candidate", evaluation.reference):
            continue
        for name, value in metrics.items():
            if not math.isfinite(value):
                why = evaluation.undefined.get(f"{who}.{name}", "it came out as not a number")
                findings.append(Finding(False, f"{name} of the {who} is undefined: {why}", hard=True))
    return findings


def _better(evaluation: Evaluation, gate: Gate, words: Words) -> Finding:
    if evaluation.reference == "none":
        return Finding(
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
        return Finding(
            False, f"{figures}; of {resamples} some hold no {words.positive} at all: nothing is proven"
        )
    interval = f"at {gate.confidence:.0%} confidence it is at least {bound:+.4f}, over {resamples}"
    proven = "" if good else f": not proven to be more than {gate.min_gain:g}"
    return Finding(good, f"{figures}; {interval}{proven}", hard=not math.isfinite(bound))


def _saved(evaluation: Evaluation, gate: Gate, words: Words) -> Finding:
    own = evaluation.metrics["candidate"][words.saved]
    other = evaluation.metrics.get(evaluation.reference, {}).get(words.saved, math.nan)
    digits, unit = (2, "") if evaluation.value else (0, " cases")
    good = own >= other * (1 - gate.max_money_loss_share)  # false for NaN as well
    figures = (
        f"at {evaluation.reviews_per_day:,} reviews a day it saves {own:,.{digits}f}{unit}, the"
        f" {evaluation.reference}"
        f" {other:,.{digits}f}"
    )
    return Finding(good, figures + ("" if good else f": more than {gate.max_money_loss_share:.0%} less"))


def _slices(evaluation: Evaluation, gate: Gate, words: Words) -> list[Finding]:
    """A loss counts if its whole interval lies beyond what is tolerated: of ten slices that are no worse, one
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
        return [Finding(True, f"{figures}; the worst is {worst.name} with {worst.difference:+.4f}")]
    return [
        Finding(
            False,
            f"{one.name}, {one.positives:,} {words.positives}: average precision {one.candidate:.4f} against"
            f" {one.reference:.4f} of the {evaluation.reference}; at {gate.confidence:.0%} confidence it"
            f" loses at least {-one.bound(gate.confidence):.4f}, more than {gate.max_slice_loss:g}",
        )
        for one in losses
    ]


def _calibration(evaluation: Evaluation, gate: Gate, words: Words) -> list[Finding]:
    """An error counts if it is larger than is tolerated, and larger than a calibrated model shows by chance
    on as many positives that come in such bursts.
    """
    error, chance = (
        evaluation.metrics["candidate"]["relative_calibration_error"],
        evaluation.calibration_by_chance,
    )
    if not math.isfinite(error):
        return []  # `_metrics` has said so
    low, high = (
        float(np.quantile(chance, q)) if chance else math.nan for q in (1 - gate.confidence, gate.confidence)
    )
    figures = (
        f"its scores are off from the observed shares of {words.positive} by {error:.0%} (at most"
        f" {gate.max_calibration_error:.0%})"
    )
    found = f"{figures}; those of a calibrated model are by {low:.0%} to {high:.0%} here, by chance"
    if error <= gate.max_calibration_error:
        return [Finding(True, found)]
    if error <= high:  # false for NaN as well
        return [Finding(True, f"{found}: this may be chance")]
    return [Finding(False, f"{found}: they are no probabilities")]


def _features(candidate: tuple[str, ...], serving: tuple[str, ...] | None, missing: Sequence[str]) -> Finding:
    if missing:
        return Finding(
            False, f"the service cannot compute its features, for it has not {', '.join(missing)}", hard=True
        )
    if serving is None:
        return Finding(
            True, f"the first version sets the {len(candidate)} features that the service computes"
        )
    if candidate == serving:
        return Finding(True, f"its {len(candidate)} features are those that the service computes, in order")
    gone, extra = sorted(set(serving) - set(candidate)), sorted(set(candidate) - set(serving))
    differs = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(extra)} besides"] * bool(extra)
    how = " and ".join(differs) or "in another order"
    return Finding(
        True, f"the service can compute its {len(candidate)} features, which are the champion's {how}"
    )


def _rebuild(unreproducible: str | None, gate: Gate) -> Finding:
    if unreproducible is None:
        return Finding(True, "it can be rebuilt from its commit")
    return Finding(
        gate.allow_dirty,
        f"{unreproducible}{', which is allowed here' if gate.allow_dirty else ''}",
        hard=True,
    )


def _parity(unproven: Sequence[str]) -> Finding:
    if not unproven:
        return Finding(True, "served vectors agree with those recomputed offline")
    few = ", ".join(unproven[:3]) + (f" and {len(unproven) - 3} days more" if len(unproven) > 3 else "")
    return Finding(False, f"training and serving are not proven to see the same features: {few}", hard=True)
