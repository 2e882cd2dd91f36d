"""A model card says what is on record, in Hugging Face's format, whatever the names in it are."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict
from mlops_assets.core.judging.reporting.model_card import body, model_card, shortened
from mlops_assets.core.judging.reporting.version_facts import Facts
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.use_cases.fraud.case import FRAUD

DIGEST = "ab" * 32
FACTS = Facts(
    subject=FRAUD.subject,
    library="lightgbm",
    made_by="gradient-boosted trees (LightGBM)",
    description="Card transactions, scored for fraud.",
    owner="team:fraud-ml",
    version="7",
    run_id="a1b2",
    champion="5",
    tags={
        "as_of": "2024-02-01",
        "last_day": "2024-01-24",
        "evaluation_last_day": "2024-01-17",
        "training_set_digest": DIGEST,
        "feature_service": "fraud_v1",
        "plan_digest": "cd" * 32,
        "git_commit": "0123456789",
        "git_dirty": "false",
        "config_digest": "12" * 32,
        "lock_digest": "34" * 32,
        "bundle_digest": "56" * 32,
    },
    record={
        "recipe": {"learning_rate": 0.05, "seed": 7, "rounds": 97},
        "partitions": {"raw_transactions": {"2023-11-01": [], "2024-01-31": []}},
        "models": {"evaluation": "78" * 32, "release": "9a" * 32},
        "runtime": {"python": "3.11.2", "lightgbm": "4.7.0"},
    },
    features=("txn_amount", "num_txns_7d"),
    review=0.125,
    block=0.9,
)
REFUSED = Verdict(promote=False, reasons=("average precision 0.5 against 0.6 of the champion",))


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    random = np.random.default_rng(0)
    holdout = pd.DataFrame(
        {
            "amount": random.lognormal(3, 1, 1_000).round(2),
            "is_fraud": random.uniform(size=1_000) < 0.1,
            "customer_id": random.integers(0, 100, 1_000).astype(str),
            "merchant_id": "m",
            "event_timestamp": pd.Timestamp("2024-01-18", tz="UTC")
            + pd.to_timedelta(random.integers(0, 7 * 24, 1_000), unit="h"),
        }
    )
    own, other = (
        np.clip(0.3 * holdout["is_fraud"] + random.uniform(0, width, 1_000), 0, 1).to_numpy()
        for width in (0.3, 0.6)
    )
    return evaluate(
        FRAUD,
        holdout,
        own,
        other,
        None,
        AppliedCosts(),
        k=20,
        seed=0,
        train=holdout,
        unknown_values=[10.0, 20.5],
    )


def front(card: str) -> Any:
    opened, text, _ = card.split("---\n", 2)
    assert opened == ""
    return yaml.safe_load(text)


def test_the_front_matter_is_what_hugging_face_asks_for(measured: Evaluation) -> None:
    read = front(model_card(FACTS, measured, REFUSED))
    assert {name: read[name] for name in ("license", "library_name", "pipeline_tag")} == {
        "license": "apache-2.0",
        "library_name": "lightgbm",
        "pipeline_tag": "tabular-classification",
    }
    (model,) = read["model-index"]
    (result,) = model["results"]
    assert model["name"] == "fraud version 7"
    assert result["task"]["type"] == "tabular-classification"
    assert (result["dataset"]["type"], result["dataset"]["revision"]) == ("fraud", DIGEST)
    assert result["dataset"]["name"] == "fraud from 2024-01-18 to 2024-01-24"
    assert all(set(metric) == {"type", "name", "value"} for metric in result["metrics"])


def test_its_figures_are_those_of_the_evaluation_to_the_last_digit(measured: Evaluation) -> None:
    (model,) = front(model_card(FACTS, measured, REFUSED))["model-index"]
    assert {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]} == measured.metrics[
        "candidate"
    ]


def test_a_metric_that_is_not_defined_has_no_value_and_its_reason_is_in_the_text(
    measured: Evaluation,
) -> None:
    metrics = {**measured.metrics, "candidate": {**measured.metrics["candidate"], "roc_auc": float("nan")}}
    card = model_card(
        FACTS,
        replace(measured, metrics=metrics, undefined={"candidate.roc_auc": "0 of 9 rows are positive"}),
        REFUSED,
    )
    assert "roc_auc" not in [
        metric["type"] for metric in front(card)["model-index"][0]["results"][0]["metrics"]
    ]
    assert "| ROC AUC | undefined: 0 of 9 rows are positive |" in card
    nothing = {"candidate": dict.fromkeys(metrics["candidate"], float("nan"))}
    assert "model-index" not in front(model_card(FACTS, replace(measured, metrics=nothing), REFUSED)), (
        "Hugging Face takes no results without metrics"
    )


def test_the_card_has_its_sections_the_verdict_and_how_to_make_the_version_again(
    measured: Evaluation,
) -> None:
    text = body(FACTS, measured, REFUSED)
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert sections == [
        "## Model details",
        "## Uses",
        "## Bias, risks and limitations",
        "## How to get started with the model",
        "## Training details",
        "## Evaluation",
        "## Technical specifications",
    ]
    for said in (
        "the gate: it **is refused**",
        "- average precision 0.5 against 0.6 of the champion",
        "champion, version 5",
        "`mlops reproduce 7`",
        "2 transactions of the holdout's days (0.20%), worth 30.50, were blocked and never investigated",
        "from 2023-11-01 to 2024-01-31",
        "| rounds | `97` |",
        "commit `0123456789`\n",
        "sends higher scores to review, and blocks from 0.9000",
        *(f"`{digest}`" for digest in FACTS.tags.values() if len(digest) == 64),
        *(f"`{digest}`" for digest in FACTS.record["models"].values()),
    ):
        assert said in text, said
    assert "with changes that are not recorded" in body(
        replace(FACTS, tags={**FACTS.tags, "git_dirty": "true"}), measured, REFUSED
    )


HOSTILE = "a: \"b'\n---\n# c | d: [e]\t{f}\u2028- `g` <script>"


@settings(max_examples=50)
@given(
    st.one_of(st.just(HOSTILE), st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text))
)
def test_no_name_breaks_out_of_its_place(measured: Evaluation, name: str) -> None:
    facts = replace(
        FACTS,
        library=name,
        made_by=name,
        description=name,
        owner=name,
        features=(name,),
        tags={**FACTS.tags, "feature_service": name},
    )
    card = model_card(facts, measured, Verdict(True, (name,)))
    read = front(card)
    assert read["library_name"] == read["tags"][1] == name
    assert read["model-index"][0]["name"] == "fraud version 7"
    plain = model_card(FACTS, measured, Verdict(True, ("x",)))

    def outline(text: str) -> list[str]:
        return [
            line.split(" ", 1)[0]
            for line in text.split("\n---\n\n", 1)[1].split("\n")
            if line.startswith(("#", "|", "```"))
        ]

    assert outline(card) == outline(plain)


def test_a_shortened_card_ends_with_a_whole_section_and_says_where_the_rest_is(measured: Evaluation) -> None:
    card = model_card(FACTS, measured, REFUSED)
    whole = body(FACTS, measured, REFUSED)
    assert shortened(card, len(whole), "the rest is elsewhere") == whole
    for limit in range(900, len(whole), 97):
        short = shortened(card, limit, "the rest is elsewhere")
        assert len(short) <= limit
        kept = short.removesuffix("\n\nthe rest is elsewhere")
        assert whole.startswith(kept + "\n\n## ")


def test_the_figures_behind_the_card_are_plain_json(measured: Evaluation) -> None:
    plain = measured.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["unknown_share"] == pytest.approx(2 / 1_002)
