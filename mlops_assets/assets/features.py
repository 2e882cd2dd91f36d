"""The features group: an asset for each view, the feature vector of an event, and the online state."""

from collections.abc import Iterator, Sequence
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
)

from feature_repo.engine.local.by_day import write_by_day
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from mlops_assets.core.keys import FEATURE_VECTORS, FEATURES, ONLINE_STORE
from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.core.words import Words
from mlops_assets.graph.checks import Reported, markdown_table, reported, result, warning
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, require_validated
from mlops_assets.steps.features.feature_summary import Summary
from mlops_assets.steps.features.joined_views import SAMPLE
from mlops_assets.steps.features.online_rebuild import rebuild_online
from mlops_assets.steps.features.whole_vectors import write_vectors


def feature_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    """The assets of the group: the views, the feature vectors, and the online state."""
    days = arrival_days(settings.time.start, settings.time.end)
    views = [_view(case, view, days) for view in case.views]
    return [*views, _feature_vectors(case, settings, days), _online_store(case, settings)]


def _view(case: UseCase, view: FeatureView, days: DailyPartitionsDefinition) -> AssetsDefinition:
    @described(
        case,
        view.name,
        view.description,
        group=FEATURES,
        kinds={"feast", "parquet"},
        days=days,
        backfill_policy=ONE_RUN,
        deps=sorted({case.event.dataset, view.stream}),
    )
    def feature_view(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> Iterator[Reported]:
        made = days_of(context)
        opened = lake.open()
        require_validated(opened, case.event.dataset, made)
        plan = _view_plan(feature_store.plan(case.feature_service), view.name)
        summary = Summary([aggregate.name for aggregate in plan.aggregates])
        days = feature_store.engine(opened).view_by_day(plan, case.event.dataset, case.event.id, made)
        written = write_by_day(opened, view.name, summary.of(days))
        yield from reported(context, view.name, written, dict.fromkeys(made, _told(summary, made)))

    return feature_view


def _feature_vectors(case: UseCase, settings: Settings, days: DailyPartitionsDefinition) -> AssetsDefinition:
    nulls = warning(
        FEATURE_VECTORS,
        "null_rates",
        "No feature is null in every row. Such a feature belongs to a view without its stream.",
        days,
    )
    ranges = warning(
        FEATURE_VECTORS, "ranges", "Every value is finite and in the range that the use case declares.", days
    )
    look_ahead = warning(
        FEATURE_VECTORS,
        "no_look_ahead",
        f"The counts of {SAMPLE} rows, recounted one by one from what was known at the time of each row.",
        days,
    )
    possible = case.ranges_within(settings.bounds)
    sources = [case.event.dataset, *(view.name for view in case.views)]

    @described(
        case,
        FEATURE_VECTORS,
        f"The feature vector of each {Words.of(case).event}, by the feature service. Training reads it, and"
        " serving must have computed the same.",
        group=FEATURES,
        kinds={"feast", "parquet"},
        days=days,
        backfill_policy=ONE_RUN,
        deps=sources,
        check_specs=[nulls, ranges, look_ahead],
    )
    def feature_vectors(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> Iterator[Reported]:
        made = days_of(context)
        plan = feature_store.plan(case.feature_service)
        found = write_vectors(case, lake.open(), plan, made, possible)
        recounted = {"rows_recounted": found.recounted, "of the day": made[-1]}
        # All days of a run have the same results: a view lacks its stream on every day, and the last day
        # stands for the counts of the others.
        checked: list[AssetCheckResult] = [
            result(nulls, not found.always_null, {"null_everywhere": ", ".join(found.always_null) or "none"}),
            result(ranges, not found.outside, {"outside": ", ".join(found.outside) or "none"}),
            result(look_ahead, not found.wrong, {"wrong": "\n".join(found.wrong[:5]) or "none", **recounted}),
        ]
        told = dict.fromkeys(made, _told(found.summary, made))
        yield from reported(context, FEATURE_VECTORS, found.manifests, told, dict.fromkeys(made, checked))

    return feature_vectors


def _online_store(case: UseCase, settings: Settings) -> AssetsDefinition:
    fresh = warning(
        ONLINE_STORE,
        "fresh",
        "At the end of the lake's last day, no stream had been silent for longer than its declaration"
        " allows.",
        None,
    )

    @described(
        case,
        ONLINE_STORE,
        "The events that online windows still reach. A new state is built while the old one serves, and then"
        " takes its place in one step.",
        group=FEATURES,
        kinds={"sqlite"},
        deps=list(case.datasets),
        check_specs=[fresh],
    )
    def online_store(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> MaterializeResult:
        plan = feature_store.plan(case.feature_service)
        made = rebuild_online(case, lake.open(), plan, settings, context.log.info)
        stale = made.stale_views
        silent = {
            f"hours without {stream}": "no event at all" if hours is None else hours
            for stream, hours in made.silent_h.items()
        }
        return MaterializeResult(
            metadata={
                "dagster/row_count": made.events,
                **made.counts,
                **silent,
                "seconds": made.seconds,
                "refused": made.refused,
            },
            check_results=[result(fresh, not stale, {"stale views": ", ".join(stale) or "none", **silent})],
        )

    return online_store


def _view_plan(plan: FeaturePlan, name: str) -> ViewPlan:
    return next(view for view in plan.views if view.name == name)


def _told(summary: Summary, days: Sequence[str]) -> dict[str, Any]:
    """The summary for the UI, a line for each feature, and its days."""
    return {
        "features": markdown_table(["feature", "mean", "nulls"], summary.lines()),
        "features of": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
