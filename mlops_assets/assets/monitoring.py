"""The monitoring group: the log of decisions, parity, drift, and the business report."""

from collections.abc import Callable, Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
)

from feature_repo.lake.datasets import Lake
from mlops_assets.assets.feature_parity import feature_parity_asset
from mlops_assets.core.judging.measuring.money import report_columns
from mlops_assets.core.keys import (
    BUSINESS_REPORT,
    DATA_DRIFT,
    MONITORING,
    PREDICTION_DRIFT,
    PREDICTION_LOG,
    VERDICTS,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words, as_column
from mlops_assets.graph.checks import Reported, content, markdown_table, reported, result, warning
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, as_of_days, before_as_of, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.resources.serving_log import ServingLogResource
from mlops_assets.steps.monitoring.drift_of_day import DriftOfDay, feature_drift, score_drift
from mlops_assets.steps.monitoring.matured_days import REPORTED_DAYS, write_business_report
from mlops_assets.steps.monitoring.served_days import ServedDay, write_log

ReportDrift = Callable[[UseCase, Lake, ModelRegistry, Settings, str], DriftOfDay]


def monitoring_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    """The assets of the group, in the order of a day."""
    days = arrival_days(settings.time.start, settings.time.end)
    return [
        _prediction_log(case, days),
        feature_parity_asset(case, settings, days),
        _data_drift_report(case, settings, days),
        _prediction_drift_report(case, settings, days),
        _business_report(case, settings),
    ]


def _prediction_log(case: UseCase, days: DailyPartitionsDefinition) -> AssetsDefinition:
    answered = warning(
        PREDICTION_LOG,
        "not_degraded",
        f"No {Words.of(case).event} was decided on a feed that was older than its declaration allows.",
        days,
    )

    @described(
        case,
        PREDICTION_LOG,
        "Every decision that the service made on the day, with its request, feature vector, score and model"
        " version.",
        group=MONITORING,
        kinds={"sqlite", "parquet"},
        days=days,
        backfill_policy=ONE_RUN,
        check_specs=[answered],
    )
    def prediction_log(
        context: AssetExecutionContext, lake: LakeResource, serving_log: ServingLogResource
    ) -> Iterator[Reported]:
        made = write_log(case, lake.open(), serving_log.open(), days_of(context))
        yield from reported(
            context,
            PREDICTION_LOG,
            [one.manifest for one in made.values()],
            {day: _told(one) for day, one in made.items()},
            {day: [_checked(answered, one)] for day, one in made.items()},
        )

    return prediction_log


def _told(served: ServedDay) -> dict[str, Any]:
    ages = [(view, "none" if hours is None else hours) for view, hours in served.oldest.items()]
    return {
        "decisions": dict(served.decisions),
        "versions": ", ".join(served.versions) or "none",
        "freshness": markdown_table(["view", "greatest age of its newest event, hours"], ages),
    }


def _checked(answered: AssetCheckSpec, served: ServedDay) -> AssetCheckResult:
    told = {
        "degraded": served.degraded,
        "requests": served.requests,
        "oldest, hours": str(dict(served.oldest)),
    }
    return result(answered, served.degraded == 0, told)


def _data_drift_report(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    return _drift_asset(
        case,
        settings,
        days,
        feature_drift,
        DATA_DRIFT,
        "The served features of the day against those of the days after the training of the version that"
        " served most (population stability index, with a page by Evidently).",
        enough="Enough was served on the day to test every column.",
        quiet=(
            "no_data_drift",
            "The served features look like those of the days after the training.",
        ),
    )


def _prediction_drift_report(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    return _drift_asset(
        case,
        settings,
        days,
        score_drift,
        PREDICTION_DRIFT,
        "The scores of the day against those of the same version on the days after its training.",
        enough="Enough was served, and the reference has scores of the same fit.",
        quiet=("no_prediction_drift", "The scores are distributed as on the days after the training."),
    )


def _drift_asset(
    case: UseCase,
    settings: Settings,
    days: DailyPartitionsDefinition,
    report: ReportDrift,
    name: str,
    description: str,
    *,
    enough: str,
    quiet: tuple[str, str],
) -> AssetsDefinition:
    tested, drift = warning(name, "enough_predictions", enough, days), warning(name, *quiet, days)

    @described(
        case,
        name,
        description,
        group=MONITORING,
        kinds={"evidently"},
        days=days,
        deps=[PREDICTION_LOG, case.event.dataset],
        check_specs=[tested, drift],
    )
    def drift_report(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        day = context.partition_key
        found = report(case, lake.open(), registry, settings, day)
        largest = ", ".join(f"{column} {value:.2f}" for column, value in found.columns[:5]) or "none"
        told = {"day": day, "share of drifted columns": found.report.share, "largest": largest}
        # A day that cannot be tested fails its own check. It asks for no retraining, because it proves
        # nothing.
        return MaterializeResult(
            metadata=_drift_metadata(found),
            check_results=[
                result(tested, found.enough, {"reason": found.report.note or "enough", "day": day}),
                result(drift, not found.report.drifted, told),
            ],
        )

    return drift_report


def _drift_metadata(found: DriftOfDay) -> dict[str, Any]:
    """The drift of a day for a person in the UI."""
    page = {"report": MetadataValue.path(str(found.page))} if found.page else {}
    return {
        **content([found.manifest]),
        "columns": markdown_table(["column", "PSI"], found.columns),
        "note": found.report.note or "none",
        "version": found.version or "none",
        **page,
    }


def _business_report(case: UseCase, settings: Settings) -> AssetsDefinition:
    days, words = as_of_days(settings.time.start, settings.time.end), Words.of(case)
    claim = (
        f"At least the configured share of {words.positive} {words.worth} was caught on the newest mature"
        " day. Without a verdict the check passes."
    )
    caught = warning(BUSINESS_REPORT, f"{as_column(words.positive)}_caught", claim, days)
    reach = REPORTED_DAYS + settings.verdicts.maturity_days + 1
    inputs = [AssetDep(name, partition_mapping=before_as_of(reach)) for name in (PREDICTION_LOG, VERDICTS)]

    @described(
        case,
        BUSINESS_REPORT,
        f"{words.positive.capitalize()} caught and missed in {words.worth} on served days that had matured by"
        " the as-of day. What has no verdict is unknown.",
        group=MONITORING,
        kinds={"parquet"},
        days=days,
        deps=inputs,
        check_specs=[caught],
    )
    def business_report(context: AssetExecutionContext, lake: LakeResource) -> MaterializeResult:
        made = write_business_report(case, lake.open(), settings, context.partition_key)
        passed = made.share is None or made.share >= settings.business.min_caught_share
        hidden = {words.worth, "insulted", words.of_positives("unknown")}
        hidden |= set() if case.decisions.stops else {"blocked"}
        columns = [name for name in report_columns(case) if name not in hidden]
        shown = [tuple(row) for row in made.by_day[columns].tail(14).itertuples(index=False)]
        told = {"newest mature day": made.newest or "none", "caught_share": made.share}
        return MaterializeResult(
            metadata={**content([made.manifest]), words.worth: markdown_table(columns, shown)},
            check_results=[result(caught, passed, told)],
        )

    return business_report
