"""The feature vectors of a day, joined from its views, and a recount of some counts."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.plan import FeaturePlan, ViewPlan, over_columns
from feature_repo.lake.datasets import Lake, LakeError
from feature_repo.times import from_us, to_us
from mlops_assets.core.data.streams import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.core.use_case import UseCase
from serving.contract.subject import Number

SAMPLE = 50  # rows that every run recounts one by one


def join_views(case: UseCase, lake: Lake, plan: FeaturePlan, day: str) -> pa.Table:
    """The vectors of a day's events: the columns of the event, then every feature of the plan as float64.

    Views are joined by position. Raises `LakeError` where the rows of a view are not those of the events, or
    where a view lacks a feature.
    """
    event = case.event
    keys = [key.name for key in event.keys]
    numbers = [column.name for column in event.columns if isinstance(column, Number)]
    table = lake.read(event.dataset, [day])
    ids = table.column(event.id)
    values: dict[str, pa.ChunkedArray] = {}
    for view in plan.views:
        columns = [aggregate.name for aggregate in view.aggregates]
        part = lake.read(view.name, [day], [event.id, *columns])
        if not part.column(event.id).equals(ids):
            raise LakeError(
                f"{view.name}: its rows for {day} are not those of {event.dataset}; materialize it again"
            )
        if absent := [name for name in columns if name not in part.column_names]:
            raise LakeError(
                f"{view.name}: {day} has no {', '.join(absent)}, which was declared later; materialize it"
                " again"
            )
        values.update({name: part.column(name) for name in columns})
    request = {column.name: table.column(column.name) for column in event.columns}
    request["event_time_us"] = pc.cast(table.column(EVENT_TIMESTAMP), pa.int64())
    for step in plan.on_demand:
        given = {name: {**values, **request}[name].to_pylist() for name in step.inputs}
        values |= {
            name: pa.chunked_array([pa.array(column, pa.float64())])
            for name, column in over_columns(step.load(), given).items()
        }
    table = table.select([event.id, EVENT_TIMESTAMP, CREATED_TIMESTAMP, *keys, *numbers])
    for name in plan.features:
        table = table.append_column(name, pc.cast(values[name], pa.float64()))
    return table


def recount(case: UseCase, lake: Lake, plan: FeaturePlan, day: str) -> tuple[int, list[str]]:
    """Recount the `count` features of evenly spread rows of a day without the engine.

    Returns the number of rows, and a line for each value that differs.
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
        oldest = (
            min(to_us(row["event_timestamp"]) for row in rows) - view.reach_us
        )  # The day can have late rows.
        reached = lake.between(view.stream, from_us(oldest).date().isoformat(), day, validated=True)
        events = lake.read(view.stream, reached, [view.entity, "event_timestamp", "created_timestamp"])
        by_key: dict[str, list[dict[str, Any]]] = {}
        for event in events.filter(pc.is_in(events.column(view.entity), _keys(rows, view))).to_pylist():
            by_key.setdefault(event[view.entity], []).append(event)
        for row in rows:
            at = row["event_timestamp"]
            for aggregate in (a for v, a in counted if v == view):
                low = from_us(view.lower_us(to_us(at), aggregate.window_us))
                known = by_key.get(row[view.asked_by], [])  # A null key has no history.
                n = sum(
                    low <= event["event_timestamp"] < at and event["created_timestamp"] <= at
                    for event in known
                )
                if n != row[aggregate.name]:
                    wrong.append(
                        f"{aggregate.name} of {row[case.event.id]}: {row[aggregate.name]}, counted {n}"
                    )
    return len(rows), wrong


def _keys(rows: list[dict[str, Any]], view: ViewPlan) -> pa.Array:
    """The keys of the rows in a view, without null."""
    return pa.array([row[view.asked_by] for row in rows], pa.string()).drop_null()
