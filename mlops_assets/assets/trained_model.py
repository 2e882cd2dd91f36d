"""One registered version as of a day: both fits, the release bundle, and the record of what it was made from."""

import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MaterializeResult, asset

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from mlops_assets.assets.recipe import recipe_of
from mlops_assets.core.keys import FEATURE_VECTORS, MODEL, RECIPE, TRAINED_MODEL, TRAINING_SET
from mlops_assets.core.learning.fits import TrainedModel, train
from mlops_assets.core.learning.onnx_export import portable_model
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import markdown_table
from mlops_assets.graph.partitions import as_of_days, before_as_of, run_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, read_validated, to_frame
from mlops_assets.resources.provenance import (
    CONFIGURATION,
    RECORD,
    RECORD_DIGEST,
    Record,
    base_folder,
    ingested,
    inputs,
    provenance,
    runtime,
)
from mlops_assets.resources.registry import BUNDLE, EVALUATION_FIT, ModelRegistry, digest_tag
from mlops_assets.steps.drift_reference import evaluation_reference, release_reference
from mlops_assets.steps.judge import matrix, split_of
from serving.contract.bundle import Release, write_release
from serving.contract.scorers.lightgbm import Calibrator, Scorer

GOLDEN_ROWS = 20  # rows whose exact scores travel with the model


def trained_model_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    unseen = (
        [AssetDep(FEATURE_VECTORS, partition_mapping=before_as_of(days))]
        if (days := settings.verdicts.maturity_days)
        else []
    )

    @asset(
        name=TRAINED_MODEL,
        description=(
            "One registered version: the fit that is measured on the holdout, and the release fit that is"
            " served, with its policy."
        ),
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"lightgbm", "mlflow"},
        partitions_def=as_of_days(settings.time.start, settings.time.end),
        deps=[TRAINING_SET, RECIPE, *unseen],
    )
    def trained_model(
        context: AssetExecutionContext,
        lake: LakeResource,
        feature_store: FeatureStoreResource,
        registry: ModelRegistry,
    ) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        plan = feature_store.plan(case.feature_service)
        rows = to_frame(read_validated(opened, TRAINING_SET, [as_of]))
        recipe = recipe_of(opened, settings, as_of)
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
        came_in, unvalidated = inputs(
            opened, ingested(case), as_of, split.train_first.isoformat(), [view.name for view in case.views]
        )
        calendar = {
            f"{name}.{k}": v for name in ("model", "tuning") for k, v in vars(getattr(settings, name)).items()
        }
        params = {**vars(recipe), **calendar, "rows": len(rows)}
        run = registry.training_run(f"{case.name} as of {as_of}", run_of(context), context.log, params, tags)
        with run as mlflow, tempfile.TemporaryDirectory() as folder:
            registry.log_training_set(
                f"{TRAINING_SET} as of {as_of}", data_digest, opened.files(TRAINING_SET, [as_of])[0]
            )
            model = train(rows, plan.features, split, recipe, settings.costs, context.log.info)
            mlflow.log_metrics({f"fit.{name}": value for name, value in model.metrics.items()})
            bundle, evaluation_fit = Path(folder, "bundle"), Path(folder, "evaluation_fit")
            facts: dict[str, object] = {**tags, "rounds": model.rounds, "metrics": dict(model.metrics)}
            holdout = evaluation_reference(rows, model)
            reference = release_reference(opened, settings, as_of, model) or holdout
            known, measured_facts = ({**facts, "reference": one.facts} for one in (reference, holdout))
            served = _release(case, settings, plan, model, model.release_text, model.calibrator, rows, known)
            measured = _release(
                case,
                settings,
                plan,
                model,
                model.evaluation_text,
                model.evaluation_calibrator,
                rows,
                measured_facts,
            )
            digest = write_release(served, bundle, reference.table, portable_model(served))
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
            measured_digest = write_release(measured, evaluation_fit, holdout.table, portable_model(measured))
            digests = {digest_tag(BUNDLE): digest, digest_tag(EVALUATION_FIT): measured_digest}
            digests[RECORD_DIGEST] = made_from.digest
            example = rows.loc[:, list(plan.features)].head(5).to_numpy("float64")
            version = registry.register(
                mlflow, model.release_text, bundle, evaluation_fit, {**tags, **digests}, example
            )
        record = opened.write(
            TRAINED_MODEL,
            as_of,
            pa.table({"version": [version.version], "run_id": [version.run_id], "bundle_digest": [digest]}),
            validated=True,
        )
        leans = sorted(model.importance.items(), key=lambda item: -item[1])[:15]
        return MaterializeResult(
            metadata={
                "version": version.version,
                "mlflow_run": version.run_id,
                "bundle_digest": digest,
                "record": record.digest,
                "rounds": model.rounds,
                "drift reference": str(reference),
                "leans on": markdown_table(["feature", "share of gain"], leans),
                **{name: float(value) for name, value in model.metrics.items()},
            }
        )

    return trained_model


def trained_version(lake: Lake, as_of: str) -> str:
    """The exact version that was trained as of the day."""
    return str(lake.read(TRAINED_MODEL, [as_of]).column("version")[0].as_py())


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
    maturity, bounds = settings.verdicts.maturity_days, settings.bounds
    return Release(
        case.name,
        plan,
        plan.features,
        text,
        calibrator,
        model.policy,
        maturity,
        facts,
        (golden, scores),
        bounds,
    )
