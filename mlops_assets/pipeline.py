"""The table of contents of the graph: its assets, the jobs that run them, and what starts those."""

from dagster import (
    AssetKey,
    AssetSelection,
    Definitions,
    ScheduleDefinition,
    build_schedule_from_partitioned_job,
    define_asset_job,
)

from mlops_assets.assets.features import feature_assets
from mlops_assets.assets.ingestion import ingestion_assets
from mlops_assets.assets.model import model_assets
from mlops_assets.assets.monitoring import monitoring_assets
from mlops_assets.core.keys import (
    BUSINESS_REPORT,
    FEATURES,
    INGEST,
    MODEL,
    MONITORING,
    ONLINE_STORE,
    PREDICTION_LOG,
    WALK_FORWARD,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.graph.checks import DRIFT_CHECKS
from mlops_assets.graph.console import story_logger
from mlops_assets.graph.executor import marking_executor
from mlops_assets.graph.partitions import as_of_days
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.resources.history_resource import HistoryResource
from mlops_assets.resources.lake import lake_of
from mlops_assets.resources.registry import registry_of
from mlops_assets.resources.serving_log import ServingLogResource
from mlops_assets.sensors.retraining import retraining_sensor
from mlops_assets.sensors.rollback import guard_sensor
from mlops_assets.sources.source_kinds import open_source

DAILY, BACKFILL, RETRAINING, BUSINESS, ONLINE, WALK = (
    "daily",
    "backfill",
    "retraining",
    "business",
    "online_state",
    "walk_forward_report",
)


def build_pipeline(case: UseCase, settings: Settings) -> Definitions:
    """Everything that Dagster needs to know of one use case. Opens no file and connects to nothing."""
    source = open_source(case, settings.source, settings.base)
    monitoring = AssetSelection.groups(MONITORING) - AssetSelection.assets(BUSINESS_REPORT)
    features = AssetSelection.groups(FEATURES) - AssetSelection.assets(ONLINE_STORE)
    ingest = AssetSelection.groups(INGEST)
    # One run cannot mix arrival days and as-of days: a job for each.
    daily = define_asset_job(
        DAILY,
        ingest | features | monitoring,
        description="One arrival day: ingest, features, and what was served on it.",
    )
    online = define_asset_job(
        ONLINE, AssetSelection.assets(ONLINE_STORE), description="Bring the online state up to the lake."
    )
    business = define_asset_job(
        BUSINESS,
        AssetSelection.assets(BUSINESS_REPORT),
        description=f"As of a day: what had matured by then, in {Words.of(case).worth}.",
    )
    jobs = [
        daily,
        online,
        business,
        define_asset_job(
            BACKFILL,
            ingest | features | AssetSelection.assets(PREDICTION_LOG),
            description="Ingest and features for a range of arrival days.",
        ),
        define_asset_job(
            RETRAINING,
            AssetSelection.groups(MODEL) - AssetSelection.assets(WALK_FORWARD),
            description="As of a day: training set, version, evaluation, and promotion behind the gate.",
        ),
        define_asset_job(
            WALK,
            AssetSelection.assets(WALK_FORWARD),
            description="What the versions of past as-of days would have caught.",
        ),
    ]
    models = model_assets(case, settings)
    as_of = as_of_days(settings.time.start, settings.time.end)
    retrained = [key for one in models for key in one.keys if key != AssetKey(WALK_FORWARD)]
    return Definitions(
        assets=[
            *ingestion_assets(case, settings, source),
            *feature_assets(case, settings),
            *models,
            *monitoring_assets(case, settings),
        ],
        jobs=jobs,
        # All off until a person turns them on: a day is taken in once it is over, then the online state and
        # the business report follow.
        schedules=[
            _after_midnight("every_day", daily, 15),
            ScheduleDefinition(name="online_state_every_day", job=online, cron_schedule="45 0 * * *"),
            _after_midnight("business_every_day", business, 50),
        ],
        sensors=[
            retraining_sensor(RETRAINING, retrained, as_of, DRIFT_CHECKS, settings.retraining.cooldown_days),
            guard_sensor(case, settings.guard),
        ],
        resources={
            "lake": lake_of(settings, case),
            "feature_store": feature_store_of(settings, case),
            "registry": registry_of(settings),
            "history": HistoryResource(path=str(settings.history_file)),
            "serving_log": ServingLogResource(path=str(settings.serving_db)),
        },
        loggers={"story": story_logger},
        executor=marking_executor,
    )


def _after_midnight(name: str, job: object, minute: int) -> ScheduleDefinition:
    """The newest partition of a job, some minutes into the next day (UTC)."""
    return build_schedule_from_partitioned_job(job, name=name, minute_of_hour=minute)  # type: ignore[arg-type,return-value]
