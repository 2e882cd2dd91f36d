"""The features group: one asset a view, the whole vector of a transaction, and the online state that serving
reads.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
    asset,
)

from feature_repo.engine.local.by_day import write_by_day
from feature_repo.engine.plan import FeaturePlan, ViewPlan, over_columns
from feature_repo.lake.datasets import Lake, LakeError
from feature_repo.times import HOUR_US, from_us, to_us
from mlops_assets.core.keys import FEATURE_VECTORS, FEATURES, ONLINE_STORE, TRANSACTIONS, VERDICTS
from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.graph.checks import Reported, markdown_table, reported, result, warning
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, require_validated
from mlops_assets.steps.online_rebuild import rebuild_online

SAMPLE = 50  # rows whose counts are recounted one by one, in every run
ENTITY_COLUMNS = [
    "transaction_id",
    "event_timestamp",
    "created_timestamp",
    "customer_id",
    "merchant_id",
    "amount",
]


def feature_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    days = arrival_days(settings.time.start, settings.time.end)
    views = [_view(case, view, days) for view in case.views]
    return [*views, _feature_vectors(case, days), _online_store(case, settings)]


def _view(case: UseCase, view: FeatureView, days: DailyPartitionsDefinition) -> AssetsDefinition:
    @asset(
        name=view.name,
        description=view.description,
        group_name=FEATURES,
        owners=[case.owner],
        kinds={"feast", "parquet"},
        partitions_def=days,
        backfill_policy=ONE_RUN,
        deps=sorted({TRANSACTIONS, view.stream}),
    )
    def feature_view(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> Iterator[Reported]:
        made = days_of(context)
        opened = lake.open()
        require_validated(opened, TRANSACTIONS, made)
        plan = _view_plan(feature_store.plan(case.feature_service), view.name)
        summary = _Summary([aggregate.name for aggregate in plan.aggregates])
        days = feature_store.engine(opened).view_by_day(plan, TRANSACTIONS, "transaction_id", made)
        written = write_by_day(opened, view.name, summary.of(days))
        yield from reported(context, view.name, written, dict.fromkeys(made, summary.metadata(made)))

    return feature_view


def _feature_vectors(case: UseCase, days: DailyPartitionsDefinition) -> AssetsDefinition:
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
    sources = [TRANSACTIONS, *(view.name for view in case.views)]

    @asset(
        name=FEATURE_VECTORS,
        description=(
            "The whole vector of each transaction, by the feature service: what training reads, and what"
            " serving must have computed."
        ),
        group_name=FEATURES,
        owners=[case.owner],
        kinds={"feast", "parquet"},
        partitions_def=days,
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
        require_validated(opened, TRANSACTIONS, made)
        summary = _Summary(plan.features)
        written = write_by_day(
            opened, FEATURE_VECTORS, summary.of((day, join_views(opened, plan, day)) for day in made)
        )
        empty, outside = summary.empty(), summary.outside(case.ranges)
        counted, wrong = recount(opened, plan, made[-1])
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
            dict.fromkeys(made, summary.metadata(made)),
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

    @asset(
        name=ONLINE_STORE,
        description=(
            "The events that online windows still reach, made anew beside the state that serves and put in"
            " its place in one step."
        ),
        group_name=FEATURES,
        owners=[case.owner],
        kinds={"sqlite"},
        deps=[TRANSACTIONS, VERDICTS],
        check_specs=[fresh],
    )
    def online_store(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> MaterializeResult:
        made = rebuild_online(
            case.subject, lake.open(), feature_store.plan(case.feature_service), settings, context.log.info
        )
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


def join_views(lake: Lake, plan: FeaturePlan, day: str) -> pa.Table:
    """The vectors of a day's transactions: the columns of every view side by side, then what depends on the
    request.

    Views keep the rows of `transactions` in order; one that does not is a `LakeError`, since a join by
    position would lie.
    """
    table = lake.read(TRANSACTIONS, [day], ENTITY_COLUMNS)
    ids = table.column("transaction_id")
    values: dict[str, pa.ChunkedArray] = {}
    for view in plan.views:
        columns = [aggregate.name for aggregate in view.aggregates]
        part = lake.read(view.name, [day], ["transaction_id", *columns])
        if not part.column("transaction_id").equals(ids):
            raise LakeError(
                f"{view.name}: its rows for {day} are not those of {TRANSACTIONS}; materialize it again"
            )
        if absent := [name for name in columns if name not in part.column_names]:
            raise LakeError(
                f"{view.name}: {day} has no {', '.join(absent)}, which was declared later; materialize it"
                " again"
            )
        values.update({name: part.column(name) for name in columns})
    request = {
        "amount": table.column("amount"),
        "event_time_us": pc.cast(table.column("event_timestamp"), pa.int64()),
    }
    for step in plan.on_demand:
        given = {name: {**values, **request}[name].to_pylist() for name in step.inputs}
        values |= {
            name: pa.chunked_array([pa.array(column, pa.float64())])
            for name, column in over_columns(step.load(), given).items()
        }
    for name in plan.features:
        table = table.append_column(name, pc.cast(values[name], pa.float64()))
    return table


def recount(lake: Lake, plan: FeaturePlan, day: str) -> tuple[int, list[str]]:
    """Recount `count` features of a day's evenly spread rows without the engine: how many rows, and a line
    for each value that differs.
    """
    counted = [
        (view, aggregate)
        for view in plan.views
        for aggregate in view.aggregates
        if aggregate.function == "count"
    ]
    newest = lake.read(FEATURE_VECTORS, [day])
    spread = pa.array(range(0, newest.num_rows, max(1, newest.num_rows // SAMPLE)), pa.int64())
    rows = newest.take(spread[:SAMPLE]).to_pylist()
    wrong: list[str] = []
    if not rows:
        return 0, wrong
    for view in dict.fromkeys(view for view, _ in counted):
        oldest = min(to_us(row["event_timestamp"]) for row in rows) - view.reach_us  # of a late row, too
        reached = lake.between(view.stream, from_us(oldest).date().isoformat(), day, validated=True)
        events = lake.read(view.stream, reached, [view.entity, "event_timestamp", "created_timestamp"])
        by_key: dict[str, list[dict[str, Any]]] = {}
        for event in events.filter(
            pc.is_in(events.column(view.entity), pa.array([row[view.asked_by] for row in rows], pa.string()))
        ).to_pylist():
            by_key.setdefault(event[view.entity], []).append(event)
        for row in rows:
            at = row["event_timestamp"]
            for aggregate in (a for v, a in counted if v == view):
                low = from_us(view.lower_us(to_us(at), aggregate.window_us))
                known = by_key.get(row[view.asked_by], [])
                n = sum(
                    low <= event["event_timestamp"] < at and event["created_timestamp"] <= at
                    for event in known
                )
                if n != row[aggregate.name]:
                    wrong.append(
                        f"{aggregate.name} of {row['transaction_id']}: {row[aggregate.name]}, counted {n}"
                    )
    return len(rows), wrong


def _view_plan(plan: FeaturePlan, name: str) -> ViewPlan:
    return next(view for view in plan.views if view.name == name)


class _Summary:
    """What can be said of each feature over tables that pass by one at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self._rows, self._values, self._sums = 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
        self._low, self._high = dict.fromkeys(names, math.inf), dict.fromkeys(names, -math.inf)

    def of(self, tables: Iterable[tuple[str, pa.Table]]) -> Iterator[tuple[str, pa.Table]]:
        for day, table in tables:
            self._rows += table.num_rows
            for name in self._sums:
                column = table.column(name)
                self._values[name] += table.num_rows - column.null_count
                self._sums[name] += pc.sum(column).as_py() or 0.0
                extremes = pc.min_max(column).as_py()
                if extremes["min"] is not None:
                    self._low[name] = min(self._low[name], extremes["min"])
                    self._high[name] = max(self._high[name], extremes["max"])
            yield day, table

    def metadata(self, days: Sequence[str]) -> dict[str, Any]:
        """For the UI: a line a feature, and of which days that is."""
        return {
            "features": markdown_table(["feature", "mean", "nulls"], self.lines()),
            "features of": " to ".join(dict.fromkeys((days[0], days[-1]))),
        }

    def lines(self) -> list[tuple[str, float, str]]:
        """Mean and share of nulls."""
        rows = max(self._rows, 1)
        return [
            (n, total / max(self._values[n], 1), f"{(self._rows - self._values[n]) / rows:.1%}")
            for n, total in self._sums.items()
        ]

    def empty(self) -> list[str]:
        """The features that are null in every row."""
        return [name for name, values in self._values.items() if self._rows and not values]

    def outside(self, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
        """The features with a value that is not finite, or beyond its declared range, with their extremes."""
        found = []
        for name in (n for n, values in self._values.items() if values):
            low, high = ranges.get(name, (-math.inf, math.inf))
            smallest, largest = self._low[name], self._high[name]
            if smallest < low or largest > high or math.isinf(smallest) or math.isinf(largest):
                found.append(f"{name} from {smallest} to {largest}")
        return found
