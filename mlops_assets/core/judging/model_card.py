"""The model card of a version, in Hugging Face's format: Markdown with YAML in front, from recorded facts
alone.

The format: https://huggingface.co/docs/hub/model-cards. Nothing here is written by hand for a version, so
that nothing in it can be out of date.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.markdown import bullets, code, escaped, number, share, table
from mlops_assets.core.words import Words
from serving.contract.subject import Subject

LICENSE = "apache-2.0"  # that of the project
TASK = {"type": "tabular-classification", "name": "Tabular Classification"}


@dataclass(frozen=True)
class Facts:
    """What is on record of a version.

    `tags` are the registered version's, `record` is what it was made from, by the names of `provenance.json`.
    `library` is that of the model family, `made_by` its description, such as "gradient-boosted trees
    (LightGBM)".
    """

    subject: Subject
    library: str
    made_by: str
    description: str
    owner: str
    version: str
    run_id: str
    champion: str | None  # the version that serves now
    tags: Mapping[str, str]
    record: Mapping[str, Any]
    features: tuple[str, ...]
    review: float  # the policy's thresholds
    block: float

    @property
    def use_case(self) -> str:
        """The name of the use case."""
        return self.subject.name

    @property
    def name(self) -> str:
        """The version with its use case."""
        return f"{self.use_case} version {self.version}"

    @property
    def words(self) -> Words:
        """The use case's words."""
        return Words.of(self.subject)


def model_card(facts: Facts, evaluation: Evaluation, verdict: Verdict) -> str:
    """The whole card, as it lies beside the model under the name README.md."""
    import yaml

    front = yaml.safe_dump(
        front_matter(facts, evaluation), sort_keys=False, allow_unicode=True, width=math.inf
    )
    return f"---\n{front}---\n\n{body(facts, evaluation, verdict)}"


def front_matter(facts: Facts, evaluation: Evaluation) -> dict[str, Any]:
    """What Hugging Face reads.

    A metric that is not defined has no value, and stands in the card's text alone.
    """
    named = _named(evaluation, facts.words)
    metrics = [
        {"type": kind, "name": named[kind], "value": float(value)}
        for kind, value in evaluation.metrics["candidate"].items()
        if kind in named and math.isfinite(value)
    ]
    dataset = {
        "type": facts.use_case,
        "name": f"{facts.use_case} from {evaluation.first_day} to {evaluation.last_day}",
        "split": "holdout",
        "revision": facts.tags["training_set_digest"],
    }
    results = [{"task": TASK, "dataset": dataset, "metrics": metrics}]
    front = {
        "license": LICENSE,
        "library_name": facts.library,
        "pipeline_tag": TASK["type"],
        "tags": [facts.use_case, facts.library, TASK["type"]],
    }
    return {**front, **({"model-index": [{"name": facts.name, "results": results}]} if metrics else {})}


def body(facts: Facts, evaluation: Evaluation, verdict: Verdict) -> str:
    """The card's sections, in the order of Hugging Face's template."""
    tags, record, reference = facts.tags, facts.record, _reference(facts, evaluation)
    words = facts.words
    decided = "may be promoted" if verdict.promote else "is refused"
    days = [day for of_dataset in record["partitions"].values() for day in of_dataset]
    dirty = {"false": "", "true": ", with changes that are not recorded"}.get(
        tags["git_dirty"], ", and whether there were changes is not known"
    )
    sections = [
        f"# Model card of {escaped(facts.name)}",
        escaped(facts.description),
        "## Model details",
        bullets(
            f"Owner: {escaped(facts.owner)}",
            f"Model: {escaped(facts.made_by)}, with Platt's scaling, so that a score is a probability of"
            f" {escaped(words.positive)}",
            f"Made as of {tags['as_of']}: of nothing that was known later",
            f"License: {LICENSE}",
            f"Verdict of the gate: it **{decided}**",
        ),
        "## Uses",
        "### Direct use",
        (
            f"Scores for: {escaped(facts.description)} The version's policy allows what scores below"
            f" {facts.review:.4f}"
            + (
                f", sends to review what scores from there on, and blocks from {facts.block:.4f}."
                if facts.subject.decisions.stops
                else ", and sends to review what scores from there on."
            )
        ),
        "### Out-of-scope use",
        (
            f"Features computed otherwise than by the feature service {escaped(tags['feature_service'])} (plan"
            f" {code(tags['plan_digest'])}), and {words.events} unlike those from {evaluation.first_day} to"
            f" {evaluation.last_day}: the drift reports say when that is so."
        ),
        "## Bias, risks and limitations",
        _unknown(evaluation, facts.subject),
        (
            f"Average precision by group of {words.events}, on the holdout. Of small groups it says"
            f" little.\n\n{_slices(evaluation, reference, words)}"
        ),
        "## How to get started with the model",
        f"The artifact `bundle` of the MLflow run {code(facts.run_id)} needs neither MLflow nor Dagster:",
        _LOADING,
        "## Training details",
        "### Training data",
        bullets(
            f"{words.events.capitalize()} up to {tags['last_day']}, each with the latest verdict that was"
            f" known before {tags['as_of']}; training set {code(tags['training_set_digest'])}",
            (
                f"Made of what had arrived from {min(days)} to {max(days)}; SHA-256 of every file is in"
                " `provenance.json`"
                if days
                else ""
            ),
            f"For the evaluation: up to {tags['evaluation_last_day']}, {evaluation.train_rows or 0:,} rows, "
            f"{share(evaluation.train_positive_share)} of them {escaped(words.positive)}",
            f"{len(facts.features)} features: {', '.join(code(name) for name in facts.features)}",
        ),
        "### Training procedure",
        table(
            ("setting", "value"), sorted((escaped(str(k)), code(str(v))) for k, v in record["recipe"].items())
        ),
        "## Evaluation",
        (
            f"On {evaluation.rows:,} {words.events}{_of_groups(evaluation)} from {evaluation.first_day} to"
            f" {evaluation.last_day}, {evaluation.positives:,} of them {escaped(words.positive)}"
            f" ({share(evaluation.positive_share)}), which no fit that is compared here was trained on."
            f" Intervals hold 90 % of {len(evaluation.bootstrap)} resamples of {evaluation.resampled}."
        ),
        _results(evaluation, reference, words),
        f"### Verdict\n\nThe version {decided}:",
        bullets(*(escaped(reason) for reason in verdict.reasons)),
        "## Technical specifications",
        bullets(
            f"Code: commit {code(tags['git_commit'])}{dirty}",
            f"Lock file: {code(tags['lock_digest'])}; configuration: {code(tags['config_digest'])}",
            f"Bundle: {code(tags['bundle_digest'])}",
            *(
                f"Model text of the {escaped(kind)} fit: {code(digest)}"
                for kind, digest in record["models"].items()
            ),
            "Computed with"
            f" {', '.join(f'{escaped(name)} {escaped(number)}' for name, number in record['runtime'].items())}",
            f"To make it again and compare: `mlops reproduce {facts.version}`",
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def shortened(card: str, limit: int, whole: str) -> str:
    """The card without its YAML, cut before the first section that would go beyond `limit` characters.

    `whole` is the sentence at its end that says where the rest is.
    """
    text = card.split("\n---\n\n", 1)[1]
    if len(text) <= limit:
        return text
    room = limit - len(whole) - 2
    cut = text.rfind("\n\n## ", 0, room + 5)
    return f"{text[: cut if cut > 0 else room]}\n\n{whole}"


_LOADING = """```python
from pathlib import Path

from serving.contract.bundle import load_release
from serving.contract.scorers.lightgbm import Scorer

release = load_release(Path("bundle"))  # verifies every digest first
# matrix: float64, columns as in release.features, NaN for null
scores = Scorer(release.model_text, release.calibrator).score(matrix)
```"""


def _of_groups(evaluation: Evaluation) -> str:
    """The number of groups by the first of the clusters, as in " of 1,200 routes"."""
    name, count = next(iter(evaluation.clusters.items()))
    return f" of {count:,} {name}"


def _named(evaluation: Evaluation, words: Words) -> dict[str, str]:
    return {
        "average_precision": "Average precision",
        "roc_auc": "ROC AUC",
        words.precision_at_k: f"{words.inspected.capitalize()} precision at {evaluation.k}",
        "recall_at_1pct_fpr": "Recall at 1 % false positives",
        words.saved: f"{words.worth.capitalize()} saved at {evaluation.reviews_per_day:,} reviews a day",
        "calibration_error": "Calibration error",
        "relative_calibration_error": f"Calibration error, relative to the share of {words.positive}",
    }


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
        for kind, name in _named(evaluation, words).items()
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
