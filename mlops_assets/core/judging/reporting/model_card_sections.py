"""The sections of a model card, in the order of Hugging Face's template."""

from __future__ import annotations

import math

from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.reporting.markdown import bullets, code, escaped, number, share, table
from mlops_assets.core.judging.reporting.version_facts import Facts
from mlops_assets.core.words import Words
from serving.contract.subject import Subject

LICENSE = "apache-2.0"  # the license of the project
_LOADING = """```python
from pathlib import Path

from serving.contract.bundle import load_release
from serving.contract.scorers.lightgbm import Scorer

release = load_release(Path("bundle"))  # verifies every digest first
# matrix: float64, columns as in release.features, NaN for null
scores = Scorer(release.model_text, release.calibrator).score(matrix)
```"""


def model_details(facts: Facts, verdict: Verdict) -> list[str]:
    """The owner, the kind of model, the as-of day and the verdict."""
    return [
        "## Model details",
        bullets(
            f"Owner: {escaped(facts.owner)}",
            f"Model: {escaped(facts.made_by)}, with Platt's scaling, so that a score is a probability of"
            f" {escaped(facts.words.positive)}",
            f"Made as of {facts.tags['as_of']}, from nothing that became known later",
            f"License: {LICENSE}",
            f"Verdict of the gate: it **{decided(verdict)}**",
        ),
    ]


def uses(facts: Facts, evaluation: Evaluation) -> list[str]:
    """What the scores are for, and what they are not for."""
    stops = f", and blocks from {facts.block:.4f}" if facts.subject.decisions.stops else ""
    asks = f"{',' if stops else ', and'} sends higher scores to review"
    return [
        "## Uses",
        "### Direct use",
        f"Scores for: {escaped(facts.description)} The policy of the version allows scores below"
        f" {facts.review:.4f}{asks}{stops}.",
        "### Out-of-scope use",
        "Features that the feature service"
        f" {escaped(facts.tags['feature_service'])} (plan {code(facts.tags['plan_digest'])}) did not compute,"
        f" and {facts.words.events} unlike those from {evaluation.first_day} to {evaluation.last_day}. The"
        " drift reports show such a difference.",
    ]


def limitations(facts: Facts, evaluation: Evaluation) -> list[str]:
    """The events without a verdict, and the quality by slice."""
    events = facts.words.events
    return [
        "## Bias, risks and limitations",
        _unknown(evaluation, facts.subject),
        f"Average precision by group of {events}, on the holdout. It is uncertain for small groups.\n\n"
        + _slices(evaluation, _reference(facts, evaluation), facts.words),
    ]


def first_steps(facts: Facts) -> list[str]:
    """How to load the model."""
    return [
        "## How to get started with the model",
        f"The artifact `bundle` of the MLflow run {code(facts.run_id)} needs neither MLflow nor Dagster:",
        _LOADING,
    ]


def training(facts: Facts, evaluation: Evaluation) -> list[str]:
    """The training data and the recipe."""
    tags, record, words = facts.tags, facts.record, facts.words
    days = [day for of_dataset in record["partitions"].values() for day in of_dataset]
    recipe = sorted((escaped(str(key)), code(str(value))) for key, value in record["recipe"].items())
    return [
        "## Training details",
        "### Training data",
        bullets(
            f"{words.events.capitalize()} up to {tags['last_day']}, each with the latest verdict that was"
            f" known before {tags['as_of']}; training set {code(tags['training_set_digest'])}",
            f"Made from data that arrived from {min(days)} to {max(days)}; SHA-256 of every file is in"
            " `provenance.json`"
            if days
            else "",
            f"For the evaluation: up to {tags['evaluation_last_day']}, {evaluation.train_rows or 0:,} rows, "
            f"{share(evaluation.train_positive_share)} of them {escaped(words.positive)}",
            f"{len(facts.features)} features: {', '.join(code(name) for name in facts.features)}",
        ),
        "### Training procedure",
        table(("setting", "value"), recipe),
    ]


def measured(facts: Facts, evaluation: Evaluation, verdict: Verdict) -> list[str]:
    """The figures on the holdout, and the reasons of the gate."""
    words = facts.words
    return [
        "## Evaluation",
        f"On {evaluation.rows:,} {words.events}{_of_groups(evaluation)} from {evaluation.first_day} to"
        f" {evaluation.last_day}, {evaluation.positives:,} of them {escaped(words.positive)}"
        f" ({share(evaluation.positive_share)}). No compared fit was trained on them. Intervals hold 90 % of"
        f" {len(evaluation.bootstrap)} resamples of {evaluation.resampled}.",
        _results(evaluation, _reference(facts, evaluation), words),
        f"### Verdict\n\nThe version {decided(verdict)}:",
        bullets(*(escaped(reason) for reason in verdict.reasons)),
    ]


def specifications(facts: Facts) -> list[str]:
    """The code, the libraries and the digests of the version."""
    tags, record = facts.tags, facts.record
    dirty = {"false": "", "true": ", with changes that are not recorded"}.get(
        tags["git_dirty"], ", and whether there were changes is unknown"
    )
    models = record["models"].items()
    runtime = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in record["runtime"].items())
    return [
        "## Technical specifications",
        bullets(
            f"Code: commit {code(tags['git_commit'])}{dirty}",
            f"Lock file: {code(tags['lock_digest'])}; configuration: {code(tags['config_digest'])}",
            f"Bundle: {code(tags['bundle_digest'])}",
            *(f"Model text of the {escaped(kind)} fit: {code(digest)}" for kind, digest in models),
            f"Computed with {runtime}",
            f"Rebuild and compare it with `mlops reproduce {facts.version}`",
        ),
    ]


def decided(verdict: Verdict) -> str:
    """The verdict in words."""
    return "may be promoted" if verdict.promote else "is refused"


def named_metrics(evaluation: Evaluation, words: Words) -> dict[str, str]:
    """The title of each metric, by its stored name."""
    return {
        "average_precision": "Average precision",
        "roc_auc": "ROC AUC",
        words.precision_at_k: f"{words.inspected.capitalize()} precision at {evaluation.k}",
        "recall_at_1pct_fpr": "Recall at 1 % false positives",
        words.saved: f"{words.worth.capitalize()} saved at {evaluation.reviews_per_day:,} reviews a day",
        "calibration_error": "Calibration error",
        "relative_calibration_error": f"Calibration error, relative to the share of {words.positive}",
    }


def _of_groups(evaluation: Evaluation) -> str:
    """The number of groups of the first clusters, such as " of 1,200 routes"."""
    name, count = next(iter(evaluation.clusters.items()))
    return f" of {count:,} {name}"


def _reference(facts: Facts, evaluation: Evaluation) -> str:
    return (
        f"champion, version {facts.champion}" if evaluation.reference == "champion" else evaluation.reference
    )


def _results(evaluation: Evaluation, reference: str, words: Words) -> str:
    def shown(who: str, kind: str) -> str:
        value = evaluation.metrics.get(who, {}).get(kind, math.nan)
        if not math.isfinite(value):
            return (
                f"undefined: {escaped(evaluation.undefined[f'{who}.{kind}'])}"
                if f"{who}.{kind}" in evaluation.undefined
                else "none"
            )
        return number(value) + between(who, kind)

    def between(who: str, kind: str) -> str:
        bounds = evaluation.intervals.get(f"{who}.{kind}")
        return f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else ""

    def gain(kind: str) -> str:
        own, other = (
            evaluation.metrics.get(who, {}).get(kind, math.nan) for who in ("candidate", evaluation.reference)
        )
        return (
            f"{number(own - other, '+')}{between('difference', kind)}" if math.isfinite(own - other) else ""
        )

    rows = [
        (name, shown("candidate", kind), shown(evaluation.reference, kind), gain(kind))
        for kind, name in named_metrics(evaluation, words).items()
        if kind in evaluation.metrics["candidate"]
    ]
    return table(("metric", "this version", escaped(reference), "difference"), rows)


def _slices(evaluation: Evaluation, reference: str, words: Words) -> str:
    rows = [
        (
            escaped(one.name),
            f"{one.rows:,}",
            f"{one.positives:,}",
            *("undefined" if v is None else f"{v:.4f}" for v in (one.candidate, one.reference)),
        )
        for one in evaluation.slices
    ]
    return table((words.events, "rows", words.positives, "this version", escaped(reference)), rows)


def _unknown(evaluation: Evaluation, subject: Subject) -> str:
    if evaluation.unknown_rows is None:
        return ""
    worth = f", worth {evaluation.unknown_value or 0.0:,.2f}," if evaluation.value else ""
    why = "were blocked and never investigated" if subject.labels.withheld_by else "never got a label"
    return (
        f"Unknown: {evaluation.unknown_rows:,} {Words.of(subject).events} of the holdout's days"
        f" ({share(evaluation.unknown_share)}){worth} {why}. No figure here is about them."
    )
