"""The model card of a version in Hugging Face's format: Markdown with YAML in front.

The format: https://huggingface.co/docs/hub/model-cards. The card is written from
recorded facts. No text is written by hand, so no text can be out of date.
"""

from __future__ import annotations

import math
from typing import Any

from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.reporting import model_card_sections as sections
from mlops_assets.core.judging.reporting.markdown import escaped
from mlops_assets.core.judging.reporting.version_facts import Facts

TASK = {"type": "tabular-classification", "name": "Tabular Classification"}


def model_card(facts: Facts, evaluation: Evaluation, verdict: Verdict) -> str:
    """The text of README.md, the whole card."""
    import yaml

    front = yaml.safe_dump(
        front_matter(facts, evaluation), sort_keys=False, allow_unicode=True, width=math.inf
    )
    return f"---\n{front}---\n\n{body(facts, evaluation, verdict)}"


def front_matter(facts: Facts, evaluation: Evaluation) -> dict[str, Any]:
    """The metadata that Hugging Face reads. An undefined metric is only in the text of the card."""
    named = sections.named_metrics(evaluation, facts.words)
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
        "license": sections.LICENSE,
        "library_name": facts.library,
        "pipeline_tag": TASK["type"],
        "tags": [facts.use_case, facts.library, TASK["type"]],
    }
    return {**front, **({"model-index": [{"name": facts.name, "results": results}]} if metrics else {})}


def body(facts: Facts, evaluation: Evaluation, verdict: Verdict) -> str:
    """The Markdown of the card, without its YAML."""
    parts = [
        f"# Model card of {escaped(facts.name)}",
        escaped(facts.description),
        *sections.model_details(facts, verdict),
        *sections.uses(facts, evaluation),
        *sections.limitations(facts, evaluation),
        *sections.first_steps(facts),
        *sections.training(facts, evaluation),
        *sections.measured(facts, evaluation, verdict),
        *sections.specifications(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shortened(card: str, limit: int, whole: str) -> str:
    """The card without its YAML, cut before the first section that would go beyond `limit` characters.

    `whole` is the sentence at its end that names the place of the whole card.
    """
    text = card.split("\n---\n\n", 1)[1]
    if len(text) <= limit:
        return text
    room = limit - len(whole) - 2
    cut = text.rfind("\n\n## ", 0, room + 5)
    return f"{text[: cut if cut > 0 else room]}\n\n{whole}"
