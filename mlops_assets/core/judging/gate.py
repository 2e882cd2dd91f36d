"""Whether a candidate may serve. Evidence alone decides, and sentences with figures explain the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate_arguments import (
    Argument,
    about_better,
    about_calibration,
    about_features,
    about_labels,
    about_metrics,
    about_parity,
    about_rebuild,
    about_saved,
    about_slices,
    about_values,
)
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.words import Words
from serving.contract.subject import Subject


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may serve, and why.

    `barred` are the reasons against that no person may overrule: serving would break, or the figures cannot
    be trusted.
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
    """The verdict on a candidate against the champion, or against the baseline where there is no champion.

    `champion_features` are the features that the service computes now, in order. `missing` is what serving
    lacks to compute the candidate's features, see `servable.lacking`. `unproven` are the served days without
    a proof that training and serving see the same features. `unreproducible` says why nobody can rebuild the
    candidate. `objections` say why the comparison with the champion is not valid. A refusal has every reason
    against, a promotion every reason for. A figure that cannot be computed counts against the candidate.
    """
    words = Words.of(subject)
    arguments = [
        *(Argument(False, objection) for objection in objections),
        *about_labels(evaluation, gate, words),
        *about_values(evaluation, gate, words),
        *about_metrics(evaluation),
        about_better(evaluation, gate, words),
        about_saved(evaluation, gate, words),
        *about_slices(evaluation, gate, words),
        *about_calibration(evaluation, gate, words),
        about_features(
            tuple(candidate_features),
            None if champion_features is None else tuple(champion_features),
            missing,
        ),
        about_parity(unproven),
        about_rebuild(unreproducible, gate),
    ]
    against = tuple(one.reason for one in arguments if not one.good)
    barred = tuple(one.reason for one in arguments if not one.good and one.hard)
    return Verdict(
        promote=not against, reasons=against or tuple(one.reason for one in arguments), barred=barred
    )


def barred_now(missing: Sequence[str], unproven: Sequence[str]) -> list[str]:
    """The reasons against a promotion by a person today.

    They answer the questions of `decide` whose answers change after the evaluation.
    """
    return [one.reason for one in (about_features((), None, missing), about_parity(unproven)) if not one.good]
