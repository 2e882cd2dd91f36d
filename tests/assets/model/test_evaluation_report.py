"""What an evaluation shows of a version, in the UI and beside the model in MLflow, on rows that were written
straight into the lake.
"""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from dagster import materialize
from world import ListedSource, World, checks, metadata

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.core.keys import FEATURE_VECTORS, TRAINING_SET
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.graph.pictures import pictures, reliability, saved_by_capacity
from mlops_assets.models import model_family
from mlops_assets.resources.config_sections import Model, Time, Verdicts
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.resources.lake import day_range, shift, to_table
from mlops_assets.steps.model.judge import matrix, split_of
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.scorers.lightgbm import Scorer

AS_OF, NEXT = "2025-04-10", "2025-04-11"
PICTURES = ("precision and recall", "calibration", "money saved", "feature contributions")
pytestmark = pytest.mark.slow


def small_settings(home: Path) -> Settings:
    return Settings(
        home=home,
        time=Time(date(2025, 2, 1), date(2025, 4, 30)),
        verdicts=Verdicts(maturity_days=2),
        model=Model(holdout_days=5, train_days=30),
        recipe=Recipe(
            max_rounds=40,
            num_threads=1,
            learning_rate=0.2,
            legitimate_share=1.0,
            feature_fraction=1.0,
            min_sum_hessian_in_leaf=1.0,
        ),
        gate=Gate(min_positives=15, allow_dirty=True),
    )


def vectors(settings: Settings, as_of: str, seed: int = 0, count: int = 6_000) -> pd.DataFrame:
    """Payments whose fraud shows in two features, in a way that no straight line follows; some customers pay
    in the holdout's days only.
    """
    split, random = split_of(settings, as_of), np.random.default_rng(seed)
    minutes = np.sort(random.uniform(0, 30 * 24 * 60 - 1, count))
    time = pd.Timestamp(split.train_first, tz="UTC") + pd.to_timedelta(minutes, unit="min").floor("s")
    features = feature_store_of(settings, FRAUD).plan("fraud_v1").features
    rows = pd.DataFrame({name: random.normal(size=count) for name in features})
    risk = 3.0 * rows[features[0]].abs() + 1.5 * rows[features[1]].abs()
    late = (time >= pd.Timestamp(split.holdout_first, tz="UTC")) & (random.uniform(size=count) < 0.05)
    return rows.assign(
        transaction_id=[f"{as_of}-{n:05}" for n in range(count)],
        event_timestamp=time.astype("datetime64[us, UTC]"),
        created_timestamp=time.astype("datetime64[us, UTC]"),
        customer_id=np.where(late, "n", "c") + pd.Series(random.integers(0, 400, count)).astype(str),
        merchant_id="m" + pd.Series(random.integers(0, 60, count)).astype(str),
        amount=random.lognormal(3.5, 1, count).round(2),
        is_fraud=random.uniform(size=count) < 1 / (1 + np.exp(8.5 - risk)),
        fold=split.label(pd.Series(time)).to_numpy(),
    )


def lay(world: World, as_of: str, rows: pd.DataFrame) -> None:
    """The training set of the day, as it would have been assembled.

    Nothing was paid on the days after its last mature one.
    """
    table = to_table(rows.drop(columns="created_timestamp"))
    world.lake.write(TRAINING_SET, as_of, table, validated=True)
    last = split_of(world.settings, as_of).last_mature_day.isoformat()
    for day in day_range(shift(last, 1), shift(as_of, -1)):
        world.lake.write(FEATURE_VECTORS, day, table.slice(0, 0), validated=True)


@dataclass(frozen=True)
class Prepared:
    world: World
    shown: Any  # what the first evaluation told Dagster
    unknown: float  # the money in payments without a verdict

    def copied(self, home: Path) -> World:
        shutil.copytree(self.world.settings.home, home)
        return World(small_settings(home), ListedSource())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A champion as of the first day.

    Of the holdout's days three payments were blocked and never investigated.
    """
    settings = small_settings(tmp_path_factory.mktemp("report") / "home")
    world, rows = World(settings, ListedSource()), vectors(settings, AS_OF)
    held = rows[rows["fold"] == "holdout"]
    for day, of_day in held.groupby(held["event_timestamp"].dt.strftime("%Y-%m-%d")):
        world.lake.write(
            FEATURE_VECTORS, str(day), to_table(of_day.drop(columns=["is_fraud", "fold"])), validated=True
        )
    blocked = held.index[[5, 300, 700]]
    lay(world, AS_OF, rows.drop(index=blocked))
    run = materialize(
        [world.assets[name] for name in ("recipe", "trained_model", "evaluation", "promoted_version")],
        partition_key=AS_OF,
        resources=world.resources,
    )
    (made,), (shown,) = (
        run.asset_materializations_for_node(name) for name in ("promoted_version", "evaluation")
    )
    assert metadata(made, "version") == "1"
    return Prepared(world, shown, float(held.loc[blocked, "amount"].sum()))


def artifacts(world: World, number: str) -> Path:
    """Where MLflow keeps them, by a path relative to its folder."""
    run = world.registry.client().get_run(world.registry.version(number).run_id)
    return Path(world.registry.artifact_root).parent / run.info.artifact_uri


def card(world: World, number: str) -> str:
    return (artifacts(world, number) / "card" / "README.md").read_text()


def test_the_metadata_show_every_slice_with_its_size_and_four_small_pictures(prepared: Prepared) -> None:
    slices = metadata(prepared.shown, "slices")
    assert (
        "| slice | rows | frauds | average precision | of the baseline | difference | from | to |" in slices
    )
    for name in (
        "amount from 250",
        "known customers",
        "new customers",
        "merchants with known fraud",
        "new merchants",
    ):
        assert f"| {name} |" in slices
    for name in PICTURES:
        picture = metadata(prepared.shown, name)
        assert picture.startswith(f"![{name}](data:image/png;base64,iVBORw0KGgo")
        assert 5_000 < len(picture) < 80_000


def test_what_has_no_verdict_is_counted_with_its_money(prepared: Prepared) -> None:
    measures = metadata(prepared.shown, "measures")
    assert "| unknown_rows | 3 |" in measures
    whole = json.loads((artifacts(prepared.world, "1") / "evaluation" / "evaluation.json").read_text())[
        "evaluation"
    ]
    assert (whole["unknown_rows"], whole["unknown_amount"]) == (3, pytest.approx(prepared.unknown))
    assert whole["unknown_share"] == pytest.approx(3 / (whole["rows"] + 3))


def test_mlflow_holds_the_same_pictures_the_slices_and_the_figures_of_the_version(prepared: Prepared) -> None:
    folder = artifacts(prepared.world, "1") / "evaluation"
    assert {path.name for path in folder.iterdir()} == {
        "evaluation.json",
        "slices.csv",
        *(f"{name.replace(' ', '_')}.png" for name in PICTURES),
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    whole = json.loads((folder / "evaluation.json").read_text())
    with (folder / "slices.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["slice"], int(row["rows"])) for row in rows] == [
        (one["name"], one["rows"]) for one in whole["evaluation"]["slices"]
    ]
    assert whole["verdict"]["promote"] is True
    run = prepared.world.registry.client().get_run(prepared.world.registry.version("1").run_id)
    for name in ("average_precision", "money_saved"):
        low, high = whole["evaluation"]["intervals"][f"difference.{name}"]
        assert (
            run.data.metrics[f"holdout.difference.{name}.low"],
            run.data.metrics[f"holdout.difference.{name}.high"],
        ) == (low, high)


def test_the_model_card_lies_beside_the_model_and_describes_the_version(prepared: Prepared) -> None:
    version = prepared.world.registry.version("1")
    text = card(prepared.world, "1")
    front = yaml.safe_load(text.split("---\n")[1])
    run = prepared.world.registry.client().get_run(version.run_id)
    recorded = {
        metric["type"]: metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]
    }
    assert recorded == {name: run.data.metrics[f"holdout.candidate.{name}"] for name in recorded}
    assert len(recorded) == 7
    record = prepared.world.registry.record(version)
    digests = (version.tags["training_set_digest"], version.tags["bundle_digest"], *record.models.values())
    for said in (*digests, "`mlops reproduce 1`", "may be promoted"):
        assert said in text
    described = prepared.world.registry.client().get_model_version("fraud", "1").description
    assert described.startswith("# Model card of fraud version 1")
    assert len(described) <= 5_000
    assert metadata(prepared.shown, "model card").startswith("# Model card of fraud version 1")


def test_features_that_have_become_garbage_are_refused_and_the_champion_stays(
    prepared: Prepared, tmp_path: Path
) -> None:
    world = prepared.copied(tmp_path / "home")
    settings = world.settings
    rows, features = (
        vectors(settings, NEXT, seed=1),
        list(feature_store_of(settings, FRAUD).plan("fraud_v1").features),
    )
    training = rows["fold"] == "train"
    noise = np.random.default_rng(2).normal(5, 3, size=(int(training.sum()), len(features)))
    rows.loc[training, features] = noise
    lay(world, NEXT, rows)
    for name in ("recipe", "trained_model"):
        world.make(name, NEXT)
    outcome = world.make("evaluation", NEXT)
    check = checks(outcome)["gate"]
    assert not check.passed
    assert "of the champion, a difference of -" in metadata(check, "reasons")
    assert "not proven to be more than 0" in metadata(check, "reasons")
    assert world.make("promoted_version", NEXT) == []
    champion = world.registry.champion()
    assert champion is not None
    assert champion.version == "1"
    assert "| metric | this version | champion, version 1 | difference |" in metadata(outcome, "model card")
    assert card(world, "2").endswith(metadata(outcome, "model card"))
    assert "the gate: it **is refused**" in card(world, "2")

    tolerant = replace(
        settings.gate,
        min_gain=-1.0,
        max_money_loss_share=1.0,
        max_slice_loss=1.0,
        max_calibration_error=100.0,
    )
    lenient = World(replace(settings, gate=tolerant), ListedSource())
    assert checks(lenient.make("evaluation", NEXT))["gate"].passed
    assert "the gate: it **may be promoted**" in card(world, "2"), (
        "an evaluation that is made again replaces what the first one said"
    )


# The pictures' own figures.


def test_a_bin_of_the_reliability_diagram_holds_as_many_frauds_as_any_other_is_expected_to() -> None:
    random = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-random.normal(-6, 2.5, 20_000)))
    fraud = random.uniform(size=20_000) < scores
    mean, rows, frauds = reliability(fraud, scores)
    assert len(mean) == 8
    assert rows.sum() == 20_000
    assert frauds.sum() == fraud.sum()
    assert mean * rows == pytest.approx(np.full(8, scores.sum() / 8), rel=0.02)
    assert frauds == pytest.approx(mean * rows, rel=0.35)
    assert np.all(np.diff(mean) > 0)
    mean, rows, frauds = reliability(fraud, np.zeros(20_000))
    assert (mean.tolist(), rows.tolist(), frauds.tolist()) == ([0.0], [20_000], [fraud.sum()])


def test_money_by_capacity_is_what_the_evaluation_measures_at_each_of_them(prepared: Prepared) -> None:
    rows = vectors(prepared.world.settings, AS_OF)
    held = rows[rows["fold"] == "holdout"]
    scores, fraud = np.random.default_rng(3).uniform(size=len(held)).round(2), held["is_fraud"].to_numpy()
    curve = saved_by_capacity(held["event_timestamp"], fraud, held["amount"].to_numpy(), scores, 300)
    assert len(curve) == 301
    for reviews in (0, 1, 50, 299):
        costs = replace(AppliedCosts.of(FRAUD, prepared.world.settings.costs), reviews_per_day=reviews)
        measured = evaluate(FRAUD, held, scores, None, None, costs, k=5, seed=0, resamples=2)
        assert curve[reviews] == pytest.approx(measured.metrics["candidate"]["money_saved"])


def test_what_a_version_leans_on_adds_up_to_its_margin(prepared: Prepared) -> None:
    fit = prepared.world.registry.evaluation_fit(prepared.world.registry.version("1"))
    rows = matrix(vectors(prepared.world.settings, AS_OF).head(50), fit.features)
    scorer = Scorer(fit.model_text, fit.calibrator)
    constant = np.asarray(scorer.booster.predict(rows, pred_contrib=True))[:, -1]
    assert model_family().contributions(fit, rows).sum(axis=1) + constant == pytest.approx(
        scorer.margins(rows), abs=1e-9
    )


def test_a_holdout_without_fraud_or_scores_that_are_no_numbers_has_no_pictures(prepared: Prepared) -> None:
    fit = prepared.world.registry.evaluation_fit(prepared.world.registry.version("1"))
    rows = vectors(prepared.world.settings, AS_OF).head(100)
    explained = matrix(rows, fit.features)
    pushed = model_family().contributions(fit, explained)
    given = (AppliedCosts.of(FRAUD, prepared.world.settings.costs), fit.features, explained, pushed)
    assert pictures(FRAUD, rows.assign(is_fraud=False), {"candidate": np.full(100, 0.5)}, *given) == {}
    assert pictures(FRAUD, rows.assign(is_fraud=True), {"candidate": np.full(100, np.nan)}, *given) == {}
    assert set(pictures(FRAUD, rows.assign(is_fraud=True), {"candidate": np.full(100, 0.5)}, *given)) == set(
        PICTURES
    )
