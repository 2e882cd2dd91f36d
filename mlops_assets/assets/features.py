"""The features group: one asset a view, the whole vector of an event, and the online state."""

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
from feature_repo.times import HOUR_US
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
from mlops_assets.steps.features.joined_views import SAMPLE, join_views, recount
from mlops_assets.steps.features.online_rebuild import rebuild_online


def feature_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    """The views, the whole vectors, and the online state."""
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
        "No feature is null everywhere: that is a view without its stream.",
        days,
    )
    ranges = warning(
        FEATURE_VECTORS, "ranges", "Every value is finite and in the range that the use case declares.", days
    )
    look_ahead = warning(
        FEATURE_VECTORS,
        "no_look_ahead",
        f"The counts of {SAMPLE} rows, recounted one by one from what was known then.",
        days,
    )
    ranges_of = case.ranges_within(settings.bounds)
    sources = [case.event.dataset, *(view.name for view in case.views)]

    @described(
        case,
        FEATURE_VECTORS,
        f"The whole vector of each {Words.of(case).event}, by the feature service: what training reads, and"
        " what serving must have computed.",
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
        opened = lake.open()
        plan = feature_store.plan(case.feature_service)
        require_validated(opened, case.event.dataset, made)
        summary = Summary(plan.features)
        written = write_by_day(
            opened, FEATURE_VECTORS, summary.of((day, join_views(case, opened, plan, day)) for day in made)
        )
        empty, outside = summary.empty(), summary.outside(ranges_of)
        counted, wrong = recount(case, opened, plan, made[-1])
        # Of what was made together the checks say one thing: a view is without its stream on all days, and
        # one day speaks for the counts.
        checked: list[AssetCheckResult] = [
            result(nulls, not empty, {"null_everywhere": ", ".join(empty) or "none"}),
            result(ranges, not outside, {"outside": ", ".join(outside) or "none"}),
            result(
                look_ahead,
                not wrong,
                {"wrong": "\n".join(wrong[:5]) or "none", "rows_recounted": counted, "of the day": made[-1]},
            ),
        ]
        yield from reported(
            context,
            FEATURE_VECTORS,
            written,
            dict.fromkeys(made, _told(summary, made)),
            dict.fromkeys(made, checked),
        )

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
        "The events that online windows still reach, made anew beside the state that serves and put in its"
        " place in one step.",
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
        stale = {
            v.name: h
            for v in made.views
            if (h := made.silent_h[v.stream]) is None or (v.stale_us and h * HOUR_US > v.stale_us)
        }
        silent = {
            f"hours without {stream}": "no event at all" if h is None else h
            for stream, h in made.silent_h.items()
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
    """For the UI: a line a feature, and of which days that is."""
    return {
        "features": markdown_table(["feature", "mean", "nulls"], summary.lines()),
        "features of": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
