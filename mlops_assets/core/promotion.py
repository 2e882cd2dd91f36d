"""Whether a candidate may serve, decided on evidence alone and explained in sentences with figures, whichever way it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlops_assets.core.evaluation import Evaluation


@dataclass(frozen=True)
class Gate:
    """The thresholds, each beside its reason."""

    min_positives: int = 50  # with fewer, the interval of average precision is wider than any honest gain, and a draw can come out without any
    confidence: float = 0.95  # one-sided: a better one that is not proven comes again tomorrow, a worse one costs money until someone sees it
    min_gain: float = 0.0  # of average precision, at that confidence: any proven gain is worth a swap, which costs nothing
    max_money_loss_share: float = 0.02  # of what the reference saves at the same reviews: a better ranking must not come from small amounts alone
    max_positive_share: float = 0.15  # card fraud is 0.1 to 1 % of transactions: beyond this the labels are wrong (30 % of them flipped gives 30 %)
    max_amount_factor: float = 5.0  # prices do not move so between trainings; units do (cents for euros: 100)


@dataclass(frozen=True)
class Verdict:
    promote: bool
    reasons: tuple[str, ...]


def decide(
    evaluation: Evaluation,
    gate: Gate,
    *,
    candidate_features: Sequence[str],
    champion_features: Sequence[str] | None,
    parity_clean: bool,
) -> Verdict:
    """Against the champion, or against the baseline where there is none. `champion_features`: the vector that the service computes now.

    A refusal gives every reason against, a promotion every reason for. What cannot be computed counts against.
    """
    findings = [
        *_labels(evaluation, gate),
        *_amounts(evaluation, gate),
        *_metrics(evaluation),
        _better(evaluation, gate),
        _money(evaluation, gate),
        _features(tuple(candidate_features), None if champion_features is None else tuple(champion_features)),
        _parity(parity_clean),
    ]
    against = tuple(reason for good, reason in findings if not good)
    return Verdict(promote=not against, reasons=against or tuple(reason for _, reason in findings))


Finding = tuple[bool, str]


def _labels(evaluation: Evaluation, gate: Gate) -> list[Finding]:
    where = f"the holdout from {evaluation.first_day} to {evaluation.last_day}" if evaluation.rows else "the holdout"
    positives = f"{where} has {evaluation.positives:,} frauds in {evaluation.rows:,} rows"
    if evaluation.positives < gate.min_positives:
        return [(False, f"{positives}: at least {gate.min_positives:,} are needed to compare two models")]
    findings = [_share(f"{positives}, a share of", evaluation.positive_share, gate)]
    if evaluation.train_positive_share is not None:
        findings.append(_share(f"of {evaluation.train_rows or 0:,} training rows the share of fraud is", evaluation.train_positive_share, gate))
    return findings


def _share(what: str, share: float, gate: Gate) -> Finding:
    good = share <= gate.max_positive_share
    return good, f"{what} {share:.2%}: " + (f"at most {gate.max_positive_share:.0%} is believable" if not good else "believable")


def _amounts(evaluation: Evaluation, gate: Gate) -> list[Finding]:
    factor = evaluation.amount_factor
    if factor is None:
        return []
    good = factor <= gate.max_amount_factor
    return [(good, f"amounts are off by a factor of {factor:.2f} from what is expected (at most {gate.max_amount_factor:g} is believable)")]


def _metrics(evaluation: Evaluation) -> list[Finding]:
    """A metric that is not a number is no detail of the report: something was not measured."""
    findings = []
    for who, metrics in evaluation.metrics.items():
        if who not in ("candidate", evaluation.reference):
            continue
        for name, value in metrics.items():
            if not math.isfinite(value):
                why = evaluation.undefined.get(f"{who}.{name}", "it came out as not a number")
                findings.append((False, f"{name} of the {who} is undefined: {why}"))
    return findings


def _better(evaluation: Evaluation, gate: Gate) -> Finding:
    if evaluation.reference == "none":
        return False, "there is neither a champion nor a baseline to compare the candidate with"
    own = evaluation.metrics["candidate"]["average_precision"]
    other = evaluation.metrics[evaluation.reference]["average_precision"]
    bound = evaluation.lower_bound(gate.confidence)
    good = bound > gate.min_gain  # false for NaN as well
    figures = f"average precision {own:.4f} against {other:.4f} of the {evaluation.reference}, a difference of {evaluation.difference:+.4f}"
    resamples = f"{len(evaluation.bootstrap)} resamples of {evaluation.customers:,} customers"
    interval = f"at {gate.confidence:.0%} confidence it is at least {bound:+.4f}, over {resamples}"
    return good, f"{figures}; {interval}" + ("" if good else f": not proven to be more than {gate.min_gain:g}")


def _money(evaluation: Evaluation, gate: Gate) -> Finding:
    own = evaluation.metrics["candidate"]["money_saved"]
    other = evaluation.metrics.get(evaluation.reference, {}).get("money_saved", math.nan)
    good = own >= other * (1 - gate.max_money_loss_share)  # false for NaN as well
    figures = f"at {evaluation.reviews_per_day:,} reviews a day it saves {own:,.2f}, the {evaluation.reference} {other:,.2f}"
    return good, figures + ("" if good else f": more than {gate.max_money_loss_share:.0%} less")


def _features(candidate: tuple[str, ...], serving: tuple[str, ...] | None) -> Finding:
    if serving is None:
        return True, f"the first version sets the {len(candidate)} features that the service computes"
    if candidate == serving:
        return True, f"its {len(candidate)} features are those that the service computes, in order"
    missing, extra = sorted(set(serving) - set(candidate)), sorted(set(candidate) - set(serving))
    differs = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(extra)} besides"] * bool(extra)
    return False, "its features are not those that the service computes: " + (" and ".join(differs) or "in another order")


def _parity(clean: bool) -> Finding:
    if clean:
        return True, "served vectors agree with those recomputed offline"
    return False, "served vectors differ from those recomputed offline without an explanation: training and serving do not see the same features"
