"""As-of days, the gate and promotion, on a small bank trained for real."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity, ExecuteInProcessResult
from world import ListedSource, World, checks, metadata

from feature_repo.engine.plan import FeaturePlan
from feature_repo.errors import MissingPartitions
from feature_repo.lake.datasets import Lake
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.measuring.measures import UndefinedMetric
from mlops_assets.core.learning.fits import TrainingError
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.splits import NothingToLearn
from mlops_assets.resources.config_sections import Model, Time, Verdicts
from mlops_assets.resources.decision_history import History
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource, feature_store_of
from mlops_assets.resources.lake import NotValidated, day_range, shift, to_frame
from mlops_assets.resources.promotion import Lifecycle, NotPromotable
from mlops_assets.resources.registry_records import RegistryError, Version
from mlops_assets.sources.source_kinds import open_source
from mlops_assets.steps.model.judge import matrix, unproven_days
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.bounds import Bounds
from serving.contract.scorers.lightgbm import Scorer

START, AS_OF, NEXT, END = "2025-03-01", "2025-04-10", "2025-04-11", "2025-04-13"
pytestmark = pytest.mark.slow


def bank_settings(home: Path) -> Settings:
    return Settings(
        home=home,
        time=Time(date(2025, 3, 1), date(2025, 4, 30)),
        source={
            "kind": "simulator",
            "start": date(2025, 3, 1),
            "customers": 1000,
            "merchants": 500,
            "seed": 3,
            "label_median_hours": 14.0,
        },
        verdicts=Verdicts(maturity_days=2),
        model=Model(holdout_days=5, train_days=30, warm_up_days=0),
        recipe=Recipe(
            max_rounds=60,
            num_threads=1,
            legitimate_share=1.0,
            min_sum_hessian_in_leaf=1.0,
            lambda_l2=5.0,
            feature_fraction=0.7,
        ),
        gate=Gate(min_positives=15, allow_dirty=True),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with six weeks ingested and their features, which tests copy."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    settings = bank_settings(home)
    world = World(settings, open_source(FRAUD, settings.source, Path.cwd()))
    world.ingest(START, END)
    world.features(START, END)
    return home


@pytest.fixture
def world(prepared: Path, tmp_path: Path) -> World:
    settings = bank_settings(tmp_path / "home")
    shutil.copytree(prepared, settings.home)
    return World(settings, open_source(FRAUD, settings.source, Path.cwd()))


def gate(run: ExecuteInProcessResult) -> AssetCheckEvaluation:
    (found,) = [check for check in run.get_asset_check_evaluations() if check.check_name == "gate"]
    return found


def test_the_first_version_is_measured_against_the_baseline_and_promoted(world: World) -> None:
    run = world.train(AS_OF)
    assert run.success
    assert gate(run).passed, gate(run).metadata["reasons"].value
    champion = world.registry.champion()
    assert champion is not None
    assert (
        run.asset_materializations_for_node("promoted_version")[0].metadata["version"].value
        == champion.version
    )
    assert champion.as_of == AS_OF
    assert champion.tags["last_day"] == "2025-04-07"
    (row,) = world.history.entries()
    assert {name: row[name] for name in ("kind", "as_of", "version", "champion", "by", "run")} == {
        "kind": "promoted",
        "as_of": AS_OF,
        "version": champion.version,
        "champion": None,
        "by": "gate",
        "run": run.run_id,
    }


def test_a_candidate_that_is_not_better_is_refused_and_nothing_else_changes(world: World) -> None:
    world.train(AS_OF)
    champion = world.registry.champion()
    run = world.train(shift(AS_OF, 1))
    assert run.success
    assert not gate(run).passed
    assert gate(run).severity == AssetCheckSeverity.WARN
    assert run.asset_materializations_for_node("promoted_version") == []
    assert world.registry.champion() == champion
    assert [entry["kind"] for entry in world.history.entries()] == ["promoted", "refused"]
    assert world.history.entries()[1]["reasons"]
    assert world.lake.manifest("promoted_version", shift(AS_OF, 1)) is None


def test_nothing_known_later_than_the_as_of_day_is_in_the_training_set(world: World) -> None:
    """The future is poisoned: every verdict and every vector that arrives from the as-of day on is turned
    around.
    """
    world.make("training_set", AS_OF)
    clean = world.digests(AS_OF, AS_OF, "training_set")
    rows = world.rows("training_set", AS_OF)
    assert max(row["event_timestamp"] for row in rows).date() <= date(2025, 4, 7)
    for day in (AS_OF, "2025-04-11", "2025-04-12", "2025-04-13"):
        verdicts = world.lake.read("verdicts", [day])
        flipped = pa.array([not fraud for fraud in verdicts.column("is_fraud").to_pylist()])
        world.lake.write(
            "verdicts",
            day,
            verdicts.set_column(verdicts.column_names.index("is_fraud"), "is_fraud", flipped),
            validated=True,
        )
        vectors = world.lake.read("feature_vectors", [day])
        noise = pa.array([1e9] * vectors.num_rows)
        world.lake.write(
            "feature_vectors",
            day,
            vectors.set_column(vectors.column_names.index("txn_amount"), "txn_amount", noise),
            validated=True,
        )
    world.make("training_set", AS_OF)
    assert world.digests(AS_OF, AS_OF, "training_set") == clean
    assert world.digests(AS_OF, AS_OF, "training_set")["training_set"]


def test_a_verdict_that_arrives_before_the_as_of_day_does_count(world: World) -> None:
    world.make("training_set", AS_OF)
    clean = world.digests(AS_OF, AS_OF, "training_set")
    day = shift(AS_OF, -1)
    verdicts = world.lake.read("verdicts", [day])
    flipped = pa.array([not fraud for fraud in verdicts.column("is_fraud").to_pylist()])
    world.lake.write(
        "verdicts",
        day,
        verdicts.set_column(verdicts.column_names.index("is_fraud"), "is_fraud", flipped),
        validated=True,
    )
    world.make("training_set", AS_OF)
    assert world.digests(AS_OF, AS_OF, "training_set") != clean


def test_too_few_frauds_fail_the_blocking_check_and_training_refuses_the_set(world: World) -> None:
    strict = World(replace(world.settings, gate=Gate(min_positives=100_000, allow_dirty=True)), world.source)
    outcome = strict.make("training_set", AS_OF)
    check = checks(outcome)["enough_positives"]
    assert not check.passed
    assert check.severity == AssetCheckSeverity.ERROR
    with pytest.raises(NotValidated, match=AS_OF):
        strict.make("trained_model", AS_OF)
    assert not strict.train(AS_OF).success
    assert strict.lake.manifest("trained_model", AS_OF) is None


def test_an_as_of_day_without_the_days_before_it_names_what_is_missing(world: World) -> None:
    with pytest.raises(
        MissingPartitions, match=r"feature_vectors: nothing materialized for 2025-04-14"
    ) as missing:
        world.make("training_set", "2025-04-20")
    assert str(missing.value).endswith(
        "`mlops backfill --from 2025-04-14 --to 2025-04-19` makes the missing days"
    )


def test_an_as_of_day_without_a_training_day_says_which_is_the_first_one(world: World) -> None:
    with pytest.raises(
        NothingToLearn,
        match=("as of 2025-03-05: nothing to learn from; the lake has arrival days 2025-03-01 to 2025-03-04"),
    ):
        world.make("training_set", "2025-03-05")


def test_the_same_inputs_make_the_same_model_to_the_byte_with_the_bounds_of_the_configuration(
    world: World,
) -> None:
    bounds = Bounds(highest={"amount": 2_000_000.0}, lateness_days=14)
    world = World(replace(world.settings, bounds=bounds), world.source)
    world.train(AS_OF)
    world.train(AS_OF)
    one, other = (world.registry.release(world.registry.version(number)) for number in ("1", "2"))
    assert one.model_text == other.model_text
    assert (one.calibrator, one.policy, one.golden) == (other.calibrator, other.policy, other.golden)
    assert one.bounds == other.bounds == bounds


def test_a_failed_training_is_failed_in_mlflow_however_it_was_launched(world: World) -> None:
    import mlflow

    world.make("training_set", AS_OF)
    world.make("recipe", AS_OF)
    table = world.lake.read("training_set", [AS_OF])
    honest = pa.array([False] * table.num_rows)
    world.lake.write(
        "training_set",
        AS_OF,
        table.set_column(table.column_names.index("is_fraud"), "is_fraud", honest),
        validated=True,
    )
    with pytest.raises(TrainingError, match="one class only"):
        world.make("trained_model", AS_OF)
    (run,) = mlflow.MlflowClient(world.settings.tracking_uri).search_runs(["1"])
    assert run.info.status == "FAILED"
    assert "one class only" in run.data.tags["error"]
    assert mlflow.active_run() is None


def test_a_promotion_that_was_overtaken_fails_its_run_and_moves_nothing(world: World) -> None:
    for name in ("training_set", "recipe"):
        world.make(name, AS_OF)
    for _ in range(2):
        for name in ("trained_model", "evaluation"):
            world.make(name, AS_OF)
    Lifecycle(world.registry, world.history).follow_the_gate("1", datetime.now(UTC), "another run")
    with pytest.raises(RegistryError, match="the champion is 1, no longer None that 2 was measured against"):
        world.make("promoted_version", AS_OF)
    assert world.registry.champion() == world.registry.version("1")
    assert len(world.history.entries()) == 1


@pytest.mark.parametrize("step", ["the history", "the lake"])
def test_a_promotion_that_a_crash_cut_short_is_finished_by_doing_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write = Lake.write

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def crash_on_record(self: Lake, dataset: str, *rest: object, **more: object) -> object:
        return crash() if dataset == "promoted_version" else write(self, dataset, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(
            *((History, "append", crash) if step == "the history" else (Lake, "write", crash_on_record))
        )
        assert not world.train(AS_OF).success
    assert (world.registry.champion() is None) == (step == "the history")
    assert len(world.history.entries()) == (0 if step == "the history" else 1)
    assert world.lake.manifest("promoted_version", AS_OF) is None
    for _ in range(2):
        (made,) = world.make("promoted_version", AS_OF)
        champion = world.registry.champion()
        assert champion is not None
        assert metadata(made, "version") == champion.version == "1"
        assert [(entry["version"], entry["kind"], entry["as_of"]) for entry in world.history.entries()] == [
            ("1", "promoted", AS_OF)
        ]
        assert world.rows("promoted_version", AS_OF) == [{"version": "1", "replaced": None}]


def test_a_refusal_that_is_materialized_again_is_recorded_once(world: World) -> None:
    world.train(AS_OF)
    world.train(shift(AS_OF, 1))
    assert world.make("promoted_version", shift(AS_OF, 1)) == []
    assert [entry["kind"] for entry in world.history.entries()] == ["promoted", "refused"]


def test_a_backtest_of_an_older_day_never_replaces_a_newer_champion(world: World) -> None:
    world.train(AS_OF)
    champion = world.registry.champion()
    assert world.train(shift(AS_OF, -3)).success
    assert world.registry.champion() == champion
    assert "walk-forward" in world.history.entries()[-1]["reasons"][0]


def test_parity_that_is_not_clean_blocks_promotion(world: World) -> None:
    served(world, shift(AS_OF, -1), parity=False)
    run = world.train(AS_OF)
    assert run.success
    assert "recomputed offline without an explanation" in gate(run).metadata["reasons"].value
    assert world.registry.champion() is None


def served(world: World, day: str, parity: bool | None, rows: int = 1) -> None:
    world.lake.write("prediction_log", day, pa.table({"x": [1] * rows}), validated=True)
    if parity is not None:
        world.lake.write("feature_parity", day, pa.table({"x": [1]}), validated=parity)


def test_every_served_day_since_the_champion_needs_its_proof_and_a_later_clean_one_does_not_make_up_for_it(
    world: World,
) -> None:
    champion = Version("1", "r", {"as_of": "2025-04-05"})

    def unproven(of: Version | None = champion) -> list[str]:
        return unproven_days(world.lake, world.settings, AS_OF, of)

    assert unproven() == unproven(None) == []  # nothing was served
    served(world, "2025-04-09", parity=True)
    served(world, AS_OF, parity=False)  # not before the as-of day
    served(world, "2025-04-01", parity=False)  # before the holdout
    served(world, "2025-04-06", parity=None, rows=0)  # nothing was asked
    assert unproven() == []
    served(world, "2025-04-04", parity=False)  # in the holdout, by the champion before this one
    assert unproven() == []
    assert len(unproven(None)) == 1
    served(world, "2025-04-07", parity=False)
    served(world, "2025-04-08", parity=None)
    assert unproven() == [
        "vectors served on 2025-04-07 differ from those recomputed offline without an explanation",
        "2025-04-08 was served and not recomputed offline",
    ]


def test_a_champion_that_has_seen_the_holdout_is_not_measured_on_it(world: World) -> None:
    import mlflow

    world.train(AS_OF)
    client = mlflow.MlflowClient(world.settings.tracking_uri)
    for tag in ("last_day", "evaluation_last_day"):
        client.set_model_version_tag("fraud", "1", tag, "2025-04-05")
    run = world.train(shift(AS_OF, 1))
    assert run.success
    assert (
        gate(run)
        .metadata["reasons"]
        .value.startswith(
            "the champion was trained to 2025-04-05 even for its evaluation, and the holdout begins on"
            " 2025-04-04: it has seen the answers"
        )
    )
    champion = world.registry.champion()
    assert champion is not None
    assert champion.version == "1"


def test_a_version_is_not_judged_on_another_training_set_than_its_own(world: World) -> None:
    world.train(AS_OF)
    table = world.lake.read("training_set", [AS_OF])
    world.lake.write("training_set", AS_OF, table.slice(1), validated=True)
    with pytest.raises(
        RegistryError,
        match=r"version 1 was trained on the training set \w{64}, and the one as of 2025-04-10 is now \w{64}",
    ):
        world.make("evaluation", AS_OF)


LENIENT = Gate(
    min_positives=15, min_gain=-1.0, max_money_loss_share=1.0, max_calibration_error=100.0, allow_dirty=True
)


def without(plan: FeaturePlan, *features: str, view: str = "") -> FeaturePlan:
    """The plan without some features, or without a view and what is computed from it."""
    of_view = {a.name for v in plan.views if v.name == view for a in v.aggregates}
    kept = tuple(o for o in plan.on_demand if not of_view & set(o.inputs))
    gone = {*features, *of_view, *(name for o in plan.on_demand if o not in kept for name in o.outputs)}
    left = tuple(f for f in plan.features if f not in gone)
    return replace(plan, views=tuple(v for v in plan.views if v.name != view), on_demand=kept, features=left)


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[FeaturePlan], None]:
    """Let the declarations be those of another plan from now on."""
    return lambda plan: monkeypatch.setattr(FeatureStoreResource, "plan", lambda self, service: plan)


def test_a_candidate_with_one_more_feature_is_promotable(
    world: World, serve_with: Callable[[FeaturePlan], None]
) -> None:
    lenient = World(replace(world.settings, gate=LENIENT), world.source)
    whole = feature_store_of(world.settings, FRAUD).plan("fraud_v1")
    serve_with(without(whole, "is_night"))
    assert gate(lenient.train(AS_OF)).passed
    serve_with(whole)
    run = lenient.train(shift(AS_OF, 1))
    assert gate(run).passed, gate(run).metadata["reasons"].value
    assert "with is_night besides" in gate(run).metadata["reasons"].value
    champion = world.registry.champion()
    assert champion is not None
    assert champion.version == "2"


def test_a_candidate_on_a_stream_that_serving_does_not_have_is_refused(
    world: World, serve_with: Callable[[FeaturePlan], None]
) -> None:
    lenient = World(replace(world.settings, gate=LENIENT), world.source)
    whole = feature_store_of(world.settings, FRAUD).plan("fraud_v1")
    serve_with(without(whole, view="merchant_stats"))
    assert gate(lenient.train(AS_OF)).passed
    serve_with(whole)
    run = lenient.train(shift(AS_OF, 1))
    assert (
        gate(run).metadata["reasons"].value
        == "the service cannot compute its features: it lacks the stream verdicts (for merchant_stats)"
    )


def test_a_champion_whose_features_are_gone_is_not_replaced_unseen(
    world: World, serve_with: Callable[[FeaturePlan], None]
) -> None:
    lenient = World(replace(world.settings, gate=LENIENT), world.source)
    whole = feature_store_of(world.settings, FRAUD).plan("fraud_v1")
    assert gate(lenient.train(AS_OF)).passed
    serve_with(without(whole, "is_night"))
    run = lenient.train(shift(AS_OF, 1))
    assert run.success
    assert (
        gate(run).metadata["reasons"].value
        == "the champion needs is_night, which the training set no longer has"
    )


def test_the_evaluation_shows_its_slices_and_a_picture(world: World) -> None:
    run = world.train(AS_OF)
    (shown,) = run.asset_materializations_for_node("evaluation")
    slices, picture = shown.metadata["slices"].value, shown.metadata["precision and recall"].value
    assert "| slice | rows | frauds | average precision | of the baseline |" in slices
    assert "| amount from 250 |" in slices
    assert picture.startswith("![precision and recall](data:image/png;base64,")
    assert len(picture) < 50_000


def test_a_bundle_that_was_swapped_as_a_whole_is_refused(world: World) -> None:
    world.train(AS_OF)
    version = world.registry.version("1")
    bundle, other = (next(iter(world.settings.home.rglob(name))) for name in ("bundle", "evaluation_fit"))
    shutil.rmtree(bundle)
    shutil.copytree(other, bundle)
    with pytest.raises(
        RegistryError, match=f"version 1: its bundle has the digest {version.tags['evaluation_fit_digest']}"
    ):
        world.registry.release(version)
    assert world.registry.evaluation_fit(version).use_case == "fraud"


def test_the_bundle_and_mlflow_hold_what_a_rebuild_needs(world: World) -> None:
    world.train(AS_OF)
    version = world.registry.version("1")
    for tag in (
        "as_of",
        "last_day",
        "training_set_digest",
        "plan_digest",
        "git_commit",
        "git_dirty",
        "config_digest",
        "lock_digest",
        "code_digest",
        "bundle_digest",
        "evaluation_fit_digest",
    ):
        assert version.tags[tag], tag
    import mlflow

    run = mlflow.MlflowClient(world.settings.tracking_uri).get_run(version.run_id)
    (logged,) = run.inputs.dataset_inputs
    assert version.tags["training_set_digest"].startswith(logged.dataset.digest)
    files = {path.name for path in world.settings.home.rglob("bundle/*")}
    assert files == {"model.onnx", "model.txt", "release.json", "reference.parquet", "digests.json"}
    assert not [
        path for path in world.settings.home.rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib")
    ]


def test_a_day_whose_feed_did_not_pass_is_left_out_and_freezes_no_training(world: World) -> None:
    day = "2025-04-01"
    world.lake.write("transactions", day, world.lake.read("transactions", [day]), validated=False)
    for dataset in ("feature_vectors", "verdicts"):
        shutil.rmtree(world.settings.home / "lake" / dataset / day)
    outcome = world.make("training_set", AS_OF)
    assert metadata(outcome, "days left out") == day
    left = [
        row for row in world.rows("training_set", AS_OF) if row["event_timestamp"].date().isoformat() == day
    ]
    assert len(left) < 20, "only what arrived late is of that day"


def test_a_version_serves_the_days_after_its_training_without_drift_of_its_scores(settled: World) -> None:
    """The first of them is in its reference: a distance there can only come from another fit."""
    champion = settled.registry.champion()
    assert champion is not None
    release = settled.registry.release(champion)
    scorer, distances = Scorer(release.model_text, release.calibrator), {}
    for day in ("2025-04-08", AS_OF):
        vectors = to_frame(settled.lake.read("feature_vectors", [day]))
        asked = (
            vectors[list(release.features)]
            .astype(object)
            .where(vectors[list(release.features)].notna(), None)
        )
        log = {
            "features": [json.dumps(row) for row in asked.to_dict("records")],
            "fraud_score": scorer.score(matrix(vectors, release.features)),
            "model_version": ["1"] * len(vectors),
        }
        settled.lake.write("prediction_log", day, pa.table(log), validated=True)
        for name in ("prediction_drift_report", "data_drift_report"):
            assert all(check.passed for check in checks(settled.make(name, day)).values()), (day, name)
        distances[day] = settled.rows("prediction_drift_report", day)[0]["value"]
    assert max(distances.values()) < 0.05, distances
    days = [
        row["event_timestamp"].date() for row in settled.rows("feature_vectors", "2025-04-08", "2025-04-09")
    ]
    unseen = sum(day > date(2025, 4, 7) for day in days)
    assert release.facts["reference"] == {
        "fit": "release",
        "first": "2025-04-08",
        "last": "2025-04-09",
        "rows": unseen,
    }
    assert settled.registry.evaluation_fit(champion).reference_fit == "evaluation"


def test_the_days_that_a_reference_came_from_are_on_record(settled: World) -> None:
    record = settled.registry.record(settled.registry.version("1"))
    days = record.partitions["feature_vectors"]
    for day in ("2025-04-08", "2025-04-09"):
        assert list(days[day]) == [
            file.sha256 for file in settled.lake.manifests("feature_vectors", [day])[0].files
        ]


# Bad days: each refused with its reason where a person looks, on record once, and the champion stays.


@pytest.fixture(scope="module")
def championed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion as of the day before, and training set and recipe of the day."""
    home = tmp_path_factory.mktemp("championed") / "home"
    shutil.copytree(prepared, home)
    world = World(bank_settings(home), ListedSource())
    assert world.train(AS_OF).success
    for name in ("training_set", "recipe"):
        world.make(name, NEXT)
    return home


@pytest.fixture
def settled(championed: Path, tmp_path: Path) -> World:
    settings = bank_settings(tmp_path / "home")
    shutil.copytree(championed, settings.home)
    return World(settings, ListedSource())


def respoil(world: World, spoil: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = world.lake.read("training_set", [NEXT])
    spoilt = pa.Table.from_pandas(spoil(table.to_pandas()), schema=table.schema, preserve_index=False)
    world.lake.write("training_set", NEXT, spoilt, validated=True)


def judged_again(world: World) -> tuple[str, str]:
    """Train, evaluate and decide on the training set as it lies there: what the check says, and the one line
    of history.
    """
    world.make("trained_model", NEXT)
    check = checks(world.make("evaluation", NEXT))["gate"]
    assert not check.passed
    assert world.make("promoted_version", NEXT) == []
    _, row = world.history.entries()
    assert (row["kind"], row["version"], row["by"]) == ("refused", "2", "gate")
    champion = world.registry.champion()
    assert champion is not None
    assert champion.version == "1"
    with pytest.raises(NotPromotable, match="cannot be promoted, whoever asks"):
        Lifecycle(world.registry, world.history).approve("2", datetime.now(UTC), "anna", "I must")
    return metadata(check, "reasons"), "; ".join(row["reasons"])


def amounts_times_a_hundred(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(amount=rows["amount"] * 100, txn_amount=rows["txn_amount"] * 100)


def thirty_percent_flipped(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(is_fraud=rows["is_fraud"] ^ (np.random.default_rng(9).uniform(size=len(rows)) < 0.3))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (amounts_times_a_hundred, "amounts are off by a factor of"),
        (thirty_percent_flipped, "the share of fraud is 3"),
    ],
)
def test_garbage_is_refused_and_not_even_a_person_promotes_it(
    settled: World, spoil: Callable[[pd.DataFrame], pd.DataFrame], named: str
) -> None:
    respoil(settled, spoil)
    shown, recorded = judged_again(settled)
    assert named in shown
    assert "is believable" in shown
    assert recorded == shown


def test_a_metric_that_is_no_number_is_refused_and_not_even_a_person_promotes_it(
    settled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(*_: object) -> float:
        raise UndefinedMetric("recall", "its scores are not numbers")

    monkeypatch.setattr("mlops_assets.core.judging.measuring.measures.recall_at_fpr", undefined)
    shown, recorded = judged_again(settled)
    assert "recall_at_1pct_fpr of the candidate is undefined: its scores are not numbers" in shown
    assert recorded == shown


@pytest.mark.parametrize("left", ["one class", "nothing mature"])
def test_one_class_or_an_empty_window_stops_before_there_is_a_version(settled: World, left: str) -> None:
    for day in day_range(START, AS_OF):
        table = settled.lake.read("verdicts", [day])
        legitimate = table.set_column(
            table.column_names.index("is_fraud"), "is_fraud", pa.array([False] * table.num_rows)
        )
        settled.lake.write(
            "verdicts", day, legitimate if left == "one class" else table.slice(0, 0), validated=True
        )
    run = settled.train(NEXT)
    assert not run.success
    (check,) = [
        found for found in run.get_asset_check_evaluations() if found.check_name == "enough_positives"
    ]
    assert not check.passed
    assert (
        check.metadata["train"].value,
        check.metadata["holdout"].value,
        check.metadata["required"].value,
    ) == (0, 0, 15)
    champion = settled.registry.champion()
    assert champion is not None
    assert champion.version == "1"
    assert [row["kind"] for row in settled.history.entries()] == ["promoted"]


def test_what_was_rolled_back_is_not_promoted_when_it_is_judged_or_trained_again_and_the_verdict_names_it(
    settled: World,
) -> None:
    lenient = World(replace(settled.settings, gate=LENIENT), ListedSource())
    for name in ("trained_model", "evaluation"):
        lenient.make(name, NEXT)
    assert len(lenient.make("promoted_version", NEXT)) == 1
    lifecycle = Lifecycle(lenient.registry, lenient.history)
    lifecycle.roll_back(datetime.now(UTC), "anna", "too many alarms")
    check = checks(lenient.make("evaluation", NEXT))["gate"]
    assert not check.passed
    assert "it was rolled back by anna at " in metadata(check, "reasons")
    assert lenient.make("promoted_version", NEXT) == []
    for name in ("trained_model", "evaluation"):
        lenient.make(name, NEXT)
    assert lenient.make("promoted_version", NEXT) == [], "the same model under another number"
    assert [(row["kind"], row["version"]) for row in lenient.history.entries()[1:]] == [
        ("promoted", "2"),
        ("rolled_back", "2"),
        ("refused", "2"),
        ("refused", "3"),
    ]
    champion = lenient.registry.champion()
    assert champion is not None
    assert champion.version == "1"


def test_where_a_person_has_to_approve_a_promotion_the_asset_waits_and_is_there_after_it(
    settled: World,
) -> None:
    careful = World(replace(settled.settings, gate=replace(LENIENT, approval="person")), ListedSource())
    for name in ("trained_model", "evaluation"):
        careful.make(name, NEXT)
    assert careful.make("promoted_version", NEXT) == []
    assert careful.lake.manifest("promoted_version", NEXT) is None
    Lifecycle(careful.registry, careful.history).approve("2", datetime.now(UTC), "anna", "I looked")
    (made,) = careful.make("promoted_version", NEXT)
    assert (metadata(made, "version"), metadata(made, "by"), metadata(made, "replaced")) == ("2", "anna", "1")
    assert [row["kind"] for row in careful.history.entries()[1:]] == ["awaiting", "promoted"]
