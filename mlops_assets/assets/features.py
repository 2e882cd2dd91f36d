"""The features group: one asset a view, the whole vector of a transaction, and the online state that serving reads."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, AssetsDefinition, DailyPartitionsDefinition, MaterializeResult, asset

from feature_repo.engine.lake import Lake, LakeError
from feature_repo.engine.online import OnlineState, rebuild
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from mlops_assets.assets.ingestion import LATENESS_DAYS, VERDICT_COLUMNS, pending_verdicts
from mlops_assets.checks import content, markdown_table, result, warning
from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.keys import FEATURE_VECTORS, FEATURES, ONLINE_STORE, TRANSACTIONS, VERDICTS
from mlops_assets.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, read_validated, shift, to_frame, to_table, write_days
from serving.contract.log import from_us, to_us

SAMPLE = 50  # rows whose counts are recounted one by one, in every run
ENTITY_COLUMNS = ["transaction_id", "event_timestamp", "created_timestamp", "customer_id", "merchant_id", "amount"]


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
    def feature_view(context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource) -> MaterializeResult:
        made = days_of(context)
        opened = lake.open()
        entities = read_validated(opened, TRANSACTIONS, made, ENTITY_COLUMNS)
        plan = _view_plan(feature_store.plan(case.feature_service), view.name)
        names = [aggregate.name for aggregate in plan.aggregates]
        keys = entities.select(["transaction_id", "event_timestamp", "created_timestamp", plan.entity])
        values = feature_store.historical(to_frame(keys), view.name, names)
        table = keys.select(["transaction_id", "event_timestamp", "created_timestamp"])
        for name in names:
            table = table.append_column(name, pc.cast(values.column(name), pa.float64()))
        written = write_days(opened, view.name, table, "created_timestamp", made)
        return MaterializeResult(
            metadata={**content(written.values()), "features": markdown_table(["feature", "mean", "nulls"], _summary(table, names))}
        )

    return feature_view


def _feature_vectors(case: UseCase, days: DailyPartitionsDefinition) -> AssetsDefinition:
    nulls = warning(FEATURE_VECTORS, "null_rates", "No feature is null everywhere: that is a view without its stream.")
    ranges = warning(FEATURE_VECTORS, "ranges", "Every value is finite and in the range that the use case declares.")
    look_ahead = warning(FEATURE_VECTORS, "no_look_ahead", f"The counts of {SAMPLE} rows, recounted one by one from what was known then.")
    sources = [TRANSACTIONS, *(view.name for view in case.views)]

    @asset(
        name=FEATURE_VECTORS,
        description="The whole vector of each transaction, by the feature service: what training reads, and what serving must have computed.",
        group_name=FEATURES,
        owners=[case.owner],
        kinds={"feast", "parquet"},
        partitions_def=days,
        backfill_policy=ONE_RUN,
        deps=sources,
        check_specs=[nulls, ranges, look_ahead],
    )
    def feature_vectors(context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource) -> MaterializeResult:
        made = days_of(context)
        opened = lake.open()
        plan = feature_store.plan(case.feature_service)
        table = join_views(opened, plan, made)
        written = write_days(opened, FEATURE_VECTORS, table, "created_timestamp", made)
        empty = [name for name in plan.features if table.num_rows and table.column(name).null_count == table.num_rows]
        outside = _outside(table, plan.features, case)
        wrong = recount(opened, plan, table, made)
        return MaterializeResult(
            metadata={**content(written.values()), "features": markdown_table(["feature", "mean", "nulls"], _summary(table, plan.features))},
            check_results=[
                result(nulls, not empty, {"null_everywhere": ", ".join(empty) or "none"}),
                result(ranges, not outside, {"outside": ", ".join(outside) or "none"}),
                result(look_ahead, not wrong, {"wrong": "\n".join(wrong[:5]) or "none", "rows_recounted": min(SAMPLE, table.num_rows)}),
            ],
        )

    return feature_vectors


def _online_store(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=ONLINE_STORE,
        description="The events that online windows still reach, in the file that serving reads and writes. Replaying is idempotent.",
        group_name=FEATURES,
        owners=[case.owner],
        kinds={"sqlite"},
        deps=[TRANSACTIONS, VERDICTS],
    )
    def online_store(lake: LakeResource, feature_store: FeatureStoreResource) -> MaterializeResult:
        settings.serving_db.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(settings.serving_db, timeout=60, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            OnlineState.create_tables(connection)
            connection.execute("BEGIN IMMEDIATE")
            opened, plan = lake.open(), feature_store.plan(case.feature_service)
            # A service that is running gets its turn after every day: the file has one writer at a time.
            pushed = rebuild(connection, plan, opened, between_days=partial(_give_way, connection))
            replaced = reconcile_verdicts(OnlineState(connection, plan), plan, opened, settings)
            connection.execute("COMMIT")
        finally:
            connection.close()
        events = {f"new events of {stream}": n for stream, n in pushed.items()}
        return MaterializeResult(metadata={"dagster/row_count": sum(pushed.values()), **events, "verdicts that took the place of others": replaced})

    return online_store


def reconcile_verdicts(state: OnlineState, plan: FeaturePlan, lake: Lake, settings: Settings) -> int:
    """Make the verdicts of the lake's transactions what the lake and the labels since say, pending ones included; returns how many were out of date.

    A pending verdict goes when a label came earlier by way of the lake. Transactions that only the service knows are left to it.
    """
    last = lake.partitions(TRANSACTIONS)[-1]
    recent = shift(last, -settings.verdicts.maturity_days - LATENESS_DAYS)
    pending = to_table(pending_verdicts(lake, settings), VERDICT_COLUMNS)
    known = lake.read(VERDICTS, lake.between(VERDICTS, recent, last, validated=True) or [last])
    rows = pa.concat_tables([pending, known.select(VERDICT_COLUMNS.names)]).to_pylist()
    wanted = {plan.event_id(VERDICTS, row, to_us(row["event_timestamp"])): row for row in rows}
    end = to_us(datetime.fromisoformat(shift(last, 1 + settings.verdicts.maturity_days)).replace(tzinfo=UTC))
    subjects = lake.between(TRANSACTIONS, shift(recent, -settings.verdicts.maturity_days), last, validated=True)
    ids = set(lake.read(TRANSACTIONS, subjects, ["transaction_id"]).column("transaction_id").to_pylist()) if subjects else set()
    present = state.ids(VERDICTS, to_us(datetime.fromisoformat(recent).replace(tzinfo=UTC)), end)
    stale = [one for one in present if one not in wanted and one.rsplit(":", 1)[0] in ids]
    for one in stale:
        state.remove(VERDICTS, one)
    times = ((one, row, to_us(row["event_timestamp"])) for one, row in wanted.items())
    state.load(VERDICTS, ((one, row, at, at) for one, row, at in times))
    return len(stale)


def _give_way(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")


def join_views(lake: Lake, plan: FeaturePlan, days: Sequence[str]) -> pa.Table:
    """The vectors of the transactions of `days`: the columns of every view side by side, then what depends on the request.

    Views keep the rows of `transactions` in order; one that does not is a `LakeError`, since a join by position would lie.
    """
    table = read_validated(lake, TRANSACTIONS, days, ENTITY_COLUMNS)
    ids = table.column("transaction_id")
    values: dict[str, pa.ChunkedArray] = {}
    for view in plan.views:
        columns = [aggregate.name for aggregate in view.aggregates]
        part = lake.read(view.name, days, ["transaction_id", *columns])
        if not part.column("transaction_id").equals(ids):
            raise LakeError(f"{view.name}: its rows for {days[0]} to {days[-1]} are not those of {TRANSACTIONS}; materialize it again")
        values.update({name: part.column(name) for name in columns})
    request = {"amount": table.column("amount"), "event_time_us": pc.cast(table.column("event_timestamp"), pa.int64())}
    for step in plan.on_demand:
        given = {name: {**values, **request}[name].to_pylist() for name in step.inputs}
        values |= {name: pa.chunked_array([pa.array(column, pa.float64())]) for name, column in step.load()(given).items()}
    for name in plan.features:
        table = table.append_column(name, pc.cast(values[name], pa.float64()))
    return table


def recount(lake: Lake, plan: FeaturePlan, table: pa.Table, days: Sequence[str]) -> list[str]:
    """Recount `count` features of evenly spread rows without the engine; returns a line for each that differs."""
    counted = [(view, aggregate) for view in plan.views for aggregate in view.aggregates if aggregate.function == "count"]
    # Rows of the last day are enough: the sample has to stay cheap when one more day comes.
    start = pa.scalar(datetime.fromisoformat(days[-1]).replace(tzinfo=UTC), table.schema.field("created_timestamp").type)
    newest = table.filter(pc.greater_equal(table.column("created_timestamp"), start))
    spread = pa.array(range(0, newest.num_rows, max(1, newest.num_rows // SAMPLE)), pa.int64())
    rows = newest.take(spread[:SAMPLE]).to_pylist()
    wrong: list[str] = []
    if not rows:
        return wrong
    for view in dict.fromkeys(view for view, _ in counted):
        oldest = min(to_us(row["event_timestamp"]) for row in rows) - view.reach_us  # of a late row, too
        reached = lake.between(view.stream, from_us(oldest).date().isoformat(), days[-1], validated=True)
        events = lake.read(view.stream, reached, [view.entity, "event_timestamp", "created_timestamp"])
        by_key: dict[str, list[dict[str, Any]]] = {}
        for event in events.filter(pc.is_in(events.column(view.entity), pa.array([row[view.entity] for row in rows], pa.string()))).to_pylist():
            by_key.setdefault(event[view.entity], []).append(event)
        for row in rows:
            at = row["event_timestamp"]
            for aggregate in (a for v, a in counted if v == view):
                low = from_us(view.lower_us(to_us(at), aggregate.window_us))
                known = by_key.get(row[view.entity], [])
                n = sum(low <= event["event_timestamp"] < at and event["created_timestamp"] <= at for event in known)
                if n != row[aggregate.name]:
                    wrong.append(f"{aggregate.name} of {row['transaction_id']}: {row[aggregate.name]}, counted {n}")
    return wrong


def _view_plan(plan: FeaturePlan, name: str) -> ViewPlan:
    return next(view for view in plan.views if view.name == name)


def _summary(table: pa.Table, names: Sequence[str]) -> list[tuple[str, float, str]]:
    rows = max(table.num_rows, 1)
    return [(n, float(pc.mean(table.column(n)).as_py() or 0.0), f"{table.column(n).null_count / rows:.1%}") for n in names]


def _outside(table: pa.Table, names: Sequence[str], case: UseCase) -> list[str]:
    """Features with a value that is not finite, or beyond its declared range, with that value."""
    found = []
    for name in names:
        low, high = case.ranges.get(name, (float("-inf"), float("inf")))
        extremes = pc.min_max(table.column(name)).as_py()
        smallest, largest = extremes["min"], extremes["max"]
        if smallest is None:
            continue
        if smallest < low or largest > high or not (abs(smallest) < float("inf") and abs(largest) < float("inf")):
            found.append(f"{name} from {smallest} to {largest}")
    return found
