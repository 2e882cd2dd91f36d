"""The model group, as of a day: training set, trained version, its evaluation, and promotion behind the gate.

Nothing here runs by itself: a sensor, a person or a backfill asks for it. What a step hands on is an exact version, never "the latest".
"""

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)
from dagster._core.errors import DagsterInvalidPropertyError

from feature_repo.engine.lake import Lake, digest_of, encode
from feature_repo.engine.plan import FeaturePlan
from mlops_assets.assets.judging import check_same_data, flat, judge, matrix, split_of, unproven_days
from mlops_assets.checks import blocking, content, markdown_table, result, warning
from mlops_assets.core.lifecycle import GATE, kind, moved_to
from mlops_assets.core.training import TrainedModel, train
from mlops_assets.core.training_set import assemble
from mlops_assets.core.use_case import UseCase
from mlops_assets.keys import (
    DATA_DRIFT,
    EVALUATION,
    FEATURE_PARITY,
    FEATURE_VECTORS,
    MODEL,
    PREDICTION_DRIFT,
    PROMOTED_VERSION,
    TRAINED_MODEL,
    TRAINING_SET,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.partitions import as_of_days, before_as_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.history import History
from mlops_assets.resources.lake import LakeResource, day_range, read_validated, shift, to_frame, to_table
from mlops_assets.resources.lifecycle import Lifecycle
from mlops_assets.resources.provenance import CONFIGURATION, RECORD, RECORD_DIGEST, Record, base_folder, inputs, provenance, runtime
from mlops_assets.resources.registry import BUNDLE, EVALUATION_FIT, ModelRegistry, digest_tag
from serving.contract.bundle import Release, write_release
from serving.contract.scoring import Calibrator, Scorer

REFERENCE_ROWS = 5_000  # rows that drift is measured against: a PSI over ten bins is stable from a few thousand
GOLDEN_ROWS = 20  # rows whose exact scores travel with the model


def model_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    return [_training_set(case, settings), _trained_model(case, settings), _evaluation(case, settings), _promoted_version(case, settings)]


def _training_set(case: UseCase, settings: Settings) -> AssetsDefinition:
    enough = blocking(TRAINING_SET, "enough_positives", "Both folds hold enough frauds to learn from and to measure on.")
    reach = settings.model.train_days + settings.verdicts.maturity_days + 1
    inputs = [AssetDep(name, partition_mapping=before_as_of(reach)) for name in (FEATURE_VECTORS, VERDICTS)]
    # Dependencies without arguments: a retraining stands downstream of the reports that asked for it.
    lineage = [AssetDep(name, partition_mapping=before_as_of(1)) for name in (DATA_DRIFT, PREDICTION_DRIFT, FEATURE_PARITY)]

    @asset(
        name=TRAINING_SET,
        description="Mature transactions with their latest verdict as of the day, in a training fold and a holdout of the last mature days.",
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[*inputs, *lineage],
        check_specs=[enough],
    )
    def training_set(context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        features = feature_store.plan(case.feature_service).features
        rows = training_rows(opened, settings, as_of, features)
        positives = {fold: int(rows.loc[rows["fold"] == fold, "is_fraud"].sum()) for fold in ("train", "holdout")}
        passed = min(positives.values()) >= settings.gate.min_positives
        written = opened.write(TRAINING_SET, as_of, to_table(rows), validated=passed)
        per_day = rows.groupby(rows["event_timestamp"].dt.strftime("%Y-%m-%d"))["is_fraud"].agg(["size", "sum"])
        return MaterializeResult(
            metadata={
                **content([written]),
                "train rows": int((rows["fold"] == "train").sum()),
                "days left out": ", ".join(broken_days(opened, split_of(settings, as_of).train_first.isoformat(), shift(as_of, -1))) or "none",
                "holdout rows": int((rows["fold"] == "holdout").sum()),
                "by day": markdown_table(["day", "transactions", "frauds"], [(day, int(n), int(f)) for day, (n, f) in per_day.tail(14).iterrows()]),
            },
            check_results=[result(enough, passed, {**positives, "required": settings.gate.min_positives})],
        )

    return training_set


def _trained_model(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=TRAINED_MODEL,
        description="One registered version: the fit that is measured on the holdout, and the release fit that is served, with its policy.",
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"lightgbm", "mlflow"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINING_SET],
    )
    def trained_model(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource, registry: ModelRegistry
    ) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        plan = feature_store.plan(case.feature_service)
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        split = split_of(settings, as_of)
        data_digest = opened.manifests(TRAINING_SET, [as_of])[0].digest
        tags = {
            "as_of": as_of,
            "last_day": split.last_mature_day.isoformat(),
            "evaluation_last_day": split.evaluation_last.isoformat(),
            "training_set_digest": data_digest,
            "feature_service": case.feature_service,
            "plan_digest": plan.digest,
            **(code := provenance(settings)),
        }
        trained_from = max(split.train_first.isoformat(), settings.time.start.isoformat())
        came_in, unvalidated = inputs(opened, as_of, trained_from, [view.name for view in case.views])
        params = {**vars(settings.recipe), **{f"model.{k}": v for k, v in vars(settings.model).items()}, "rows": len(rows)}
        run = registry.training_run(f"{case.name} as of {as_of}", _run_id(context), context.log, params, tags)
        with run as mlflow, tempfile.TemporaryDirectory() as folder:
            registry.log_training_set(f"{TRAINING_SET} as of {as_of}", data_digest, opened.files(TRAINING_SET, [as_of])[0])
            model = train(rows, plan.features, split, settings.recipe, settings.costs, context.log.info)
            mlflow.log_metrics({f"fit.{name}": value for name, value in model.metrics.items()})
            bundle, evaluation_fit = Path(folder, "bundle"), Path(folder, "evaluation_fit")
            facts: dict[str, object] = {**tags, "rounds": model.rounds, "metrics": dict(model.metrics)}
            reference = _reference(rows, model, plan)
            served = _release(case, settings, plan, model, model.release_text, model.calibrator, rows, facts)
            measured = _release(case, settings, plan, model, model.evaluation_text, model.evaluation_calibrator, rows, facts)
            digest = write_release(served, bundle, reference)
            made_from = Record(
                use_case=case.name,
                as_of=as_of,
                code=code,
                config=settings.config_text,
                config_base=base_folder(settings),
                runtime=runtime(),
                feature_service=case.feature_service,
                plan_digest=plan.digest,
                recipe={**params, "rounds": model.rounds},
                partitions=came_in,
                unvalidated=unvalidated,
                training_set=data_digest,
                models=model.digests,
            )
            mlflow.log_text(made_from.to_json(), RECORD)
            mlflow.log_text(settings.config_text, CONFIGURATION)
            digests = {digest_tag(BUNDLE): digest, digest_tag(EVALUATION_FIT): write_release(measured, evaluation_fit, reference)}
            digests[RECORD_DIGEST] = made_from.digest
            example = rows.loc[:, list(plan.features)].head(5).to_numpy("float64")
            version = registry.register(mlflow, model.release_text, bundle, evaluation_fit, {**tags, **digests}, example)
        record = opened.write(
            TRAINED_MODEL, as_of, pa.table({"version": [version.version], "run_id": [version.run_id], "bundle_digest": [digest]}), validated=True
        )
        leans = sorted(model.importance.items(), key=lambda item: -item[1])[:15]
        return MaterializeResult(
            metadata={
                "version": version.version,
                "mlflow_run": version.run_id,
                "bundle_digest": digest,
                "record": record.digest,
                "rounds": model.rounds,
                "leans on": markdown_table(["feature", "share of gain"], leans),
                **{name: float(value) for name, value in model.metrics.items()},
            }
        )

    return trained_model


def _evaluation(case: UseCase, settings: Settings) -> AssetsDefinition:
    gate = warning(EVALUATION, "gate", "The verdict on this exact version, with its reasons; a refusal is a result, and the champion stays.")

    @asset(
        name=EVALUATION,
        description="Candidate and champion on the same held-out days, neither on what it was trained on, and the verdict of the gate.",
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"python"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINED_MODEL, TRAINING_SET],
        check_specs=[gate],
    )
    def evaluation(context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        candidate = registry.version(trained_version(opened, as_of))
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        check_same_data(candidate, opened.manifests(TRAINING_SET, [as_of])[0].digest)
        champion = registry.champion()
        unproven = unproven_days(opened, settings, as_of, champion)
        measured, verdict, scores = judge(case, settings, rows, candidate, champion, registry, unproven)
        metrics = {f"holdout.{k}": v for k, v in flat(measured).items()}
        outcome = {**asdict(verdict), "champion": champion.version if champion else None}
        registry.log_evaluation(candidate, metrics, outcome)
        opened.write(
            EVALUATION,
            as_of,
            pa.table(
                {
                    "version": [candidate.version],
                    "champion": pa.array([champion.version if champion else None], pa.string()),
                    "promote": [verdict.promote],
                    "reasons": pa.array([list(verdict.reasons)], pa.list_(pa.string())),
                }
            ),
            validated=True,
        )
        return MaterializeResult(
            metadata={
                "version": candidate.version,
                "champion": champion.version if champion else "none",
                "measures": markdown_table(["measure", "value"], sorted(flat(measured).items())),
                "slices": markdown_table(
                    ["slice", "rows", "frauds", "average precision", f"of the {measured.reference}"],
                    [(s.name, s.rows, s.positives, *("undefined" if v is None else v for v in (s.candidate, s.reference))) for s in measured.slices],
                ),
                "precision and recall": _picture(rows.loc[rows["fold"] == "holdout", "is_fraud"].to_numpy(bool), scores),
                "reasons": MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
            },
            check_results=[result(gate, verdict.promote, {"version": candidate.version, "reasons": "; ".join(verdict.reasons)})],
        )

    return evaluation


def _promoted_version(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=PROMOTED_VERSION,
        description="The version that became champion as of the day. Where the gate refused, there is none: the run succeeds and the champion stays.",
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"mlflow"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[EVALUATION],
        output_required=False,
    )
    def promoted_version(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry, history: History
    ) -> Iterator[MaterializeResult]:
        as_of = context.partition_key
        opened = lake.open()
        number = opened.read(EVALUATION, [as_of]).column("version")[0].as_py()
        row = Lifecycle(registry, history).follow_the_gate(number, datetime.now(UTC), _run_id(context), settings.gate.approval)
        context.log.info(f"version {number} is {kind(row)}, by {row.get('by', GATE)}: {'; '.join(row['reasons'])}")
        if moved_to(row) != number:
            return
        opened.write(PROMOTED_VERSION, as_of, pa.table({"version": [number], "replaced": pa.array([row["champion"]], pa.string())}), validated=True)
        yield MaterializeResult(
            metadata={
                "version": number,
                "replaced": row["champion"] or "none",
                "by": row.get("by", GATE),
                "reasons": MetadataValue.md("\n".join(f"- {r}" for r in row["reasons"])),
            }
        )

    return promoted_version


def training_rows(lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]) -> pd.DataFrame:
    """Read what had arrived before `as_of` and assemble it; a day that was never materialized is `MissingPartitions`.

    A day whose feed did not pass validation is left out, as its features and verdicts were not made: it freezes no training.
    """
    split = split_of(settings, as_of)
    first = max(split.train_first.isoformat(), settings.time.start.isoformat())
    broken = set(broken_days(lake, first, shift(as_of, -1)))
    days = [day for day in day_range(first, shift(as_of, -1)) if day not in broken]
    columns = ["transaction_id", "event_timestamp", "created_timestamp", "customer_id", "merchant_id", "amount"]
    vectors = read_validated(lake, FEATURE_VECTORS, days, list(dict.fromkeys([*columns, *features])))
    verdicts = read_validated(lake, VERDICTS, days)
    return assemble(to_frame(vectors), to_frame(verdicts), split, features)


def broken_days(lake: Lake, first: str, last: str) -> list[str]:
    """The days whose transactions are there and did not pass validation."""
    return sorted(set(lake.between(TRANSACTIONS, first, last)) - set(lake.between(TRANSACTIONS, first, last, validated=True)))


def training_set_digest(lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]) -> str:
    """The digest that the training set of the day has on the lake as it stands."""
    return digest_of([encode(to_table(training_rows(lake, settings, as_of, features)))[1]])


def trained_version(lake: Lake, as_of: str) -> str:
    """The exact version that was trained as of the day."""
    return str(lake.read(TRAINED_MODEL, [as_of]).column("version")[0].as_py())


def _run_id(context: AssetExecutionContext) -> str:
    """The id of the Dagster run; an asset that is called as a function has none."""
    try:
        return context.run.run_id
    except DagsterInvalidPropertyError:
        return "none"


def _picture(is_fraud: npt.NDArray[np.bool_], scores: Mapping[str, npt.NDArray[np.float64]]) -> MetadataValue:
    """Precision over recall on the holdout, small enough for the UI."""
    if not is_fraud.any() or not all(np.isfinite(values).all() for values in scores.values()):
        return MetadataValue.md("undefined on this holdout")
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(4.5, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name, values in scores.items():
        precision, recall, _ = precision_recall_curve(is_fraud, values)
        axes.plot(recall, precision, label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    figure.savefig(image := io.BytesIO(), format="png")
    return MetadataValue.md(f"![precision and recall](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})")


def _release(
    case: UseCase,
    settings: Settings,
    plan: FeaturePlan,
    model: TrainedModel,
    text: str,
    calibrator: Calibrator,
    rows: pd.DataFrame,
    facts: dict[str, object],
) -> Release:
    vectors = matrix(rows.iloc[:: max(1, len(rows) // GOLDEN_ROWS)].head(GOLDEN_ROWS), plan.features)
    golden = [[None if v != v else float(v) for v in vector] for vector in vectors]
    scores = [float(s) for s in Scorer(text, calibrator).score(vectors)]
    return Release(case.name, plan, plan.features, text, calibrator, model.policy, settings.verdicts.maturity_days, facts, (golden, scores))


def _reference(rows: pd.DataFrame, model: TrainedModel, plan: FeaturePlan) -> pa.Table:
    """Evenly spread rows of the holdout, with the scores of the fit that did not see them: what the version takes as normal."""
    newest = rows[rows["fold"] == "holdout"].sort_values("event_timestamp", kind="stable")
    sample = newest.iloc[:: max(1, len(newest) // REFERENCE_ROWS)]
    scored = sample.assign(fraud_score=Scorer(model.evaluation_text, model.calibrator).score(matrix(sample, plan.features)))
    return to_table(scored[["amount", *plan.features, "fraud_score"]])
