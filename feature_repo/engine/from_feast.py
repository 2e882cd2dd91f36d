"""The meaning of Feast's declarations for the engine: feature services as plans, views as aggregates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from feature_repo.engine.functions import function_name
from feature_repo.engine.plan import LAKE, Aggregate, FeaturePlan, OnDemandPlan, PlanError, ViewPlan
from feature_repo.times import HOUR_US, period_us


def plan_from_feast(store: Any, service_name: str, joined_by: Mapping[str, str] | None = None) -> FeaturePlan:
    """The plan of a registered feature service.

    The plan has the views that the vector or an on-demand function needs, in the order of their declaration.
    `joined_by` maps a join key to the column of the scored event that holds it, where the names differ, as
    `Key(join=)` of a use case does. `view.with_join_key_map` in the service does the same for one view and
    wins. Raises `PlanError` for a declaration that the engine cannot compute.
    """
    service = store.get_feature_service(service_name)
    projections = {p.name: [f.name for f in p.features] for p in service.feature_view_projections}
    streams = {v.name: v for v in store.list_stream_feature_views()}
    on_demand = {v.name: v for v in store.list_on_demand_feature_views() if v.name in projections}
    steps = [on_demand[name] for name in projections if name in on_demand]
    asked = [*service.feature_view_projections, *(p for step in steps for p in _read_by(step))]
    if unknown := sorted({p.name for p in asked} - streams.keys() - on_demand.keys()):
        raise PlanError(
            f"{service_name}: {', '.join(unknown)} is no stream view and no on-demand view; declare a"
            " StreamFeatureView with aggregations instead, with function last for the latest known value"
        )
    features = tuple(f for names in projections.values() for f in names)
    if twice := sorted({f for f in features if features.count(f) > 1}):
        raise PlanError(f"{service_name}: two of its features have the same name: {', '.join(twice)}")

    needed: dict[str, set[str]] = {}
    renamed: dict[str, dict[str, str]] = {}
    for projection in asked:
        if projection.name in streams:
            needed.setdefault(projection.name, set()).update(f.name for f in projection.features)
            renamed.setdefault(projection.name, {**(joined_by or {}), **projection.join_key_map})
    views = tuple(_asked(view_from_feast(streams[name], needed[name]), renamed[name]) for name in needed)
    return FeaturePlan(service_name, views, tuple(map(_on_demand, steps)), features)


def view_from_feast(view: Any, wanted: set[str] | None = None) -> ViewPlan:
    """A StreamFeatureView as the engine computes it; `wanted` limits it to some features.

    Raises `PlanError` where the engine cannot compute the view, or the view's source does not say what
    identifies an event.
    """
    path, tags = _source_of(view)
    if len(view.entity_columns) != 1:
        raise PlanError(f"{view.name}: has {len(view.entity_columns)} keys, expected one")
    hop = (view.tiling_hop_size or timedelta(minutes=5)) if view.enable_tiling else timedelta(0)
    aggregates = [
        Aggregate(a.name, a.column, function_name(a.function), _window_us(a.name, a.time_window))
        for a in view.aggregations
    ]
    if wanted is not None and (missing := sorted(wanted - {a.name for a in aggregates})):
        raise PlanError(f"{view.name}: no aggregation makes {', '.join(missing)}")
    scales = {n.removeprefix("scale."): int(v) for n, v in sorted(tags.items()) if n.startswith("scale.")}
    return ViewPlan(
        name=view.name,
        entity=view.entity_columns[0].name,
        stream=path.removeprefix(LAKE),
        hop_us=period_us(hop),
        aggregates=tuple(a for a in aggregates if wanted is None or a.name in wanted),
        scales=scales,
        event_id=tuple(tags["event_id"].split(",")),
        keys=tuple(k for k in tags.get("keys", "").split(",") if k),
        ttl_us=period_us(view.ttl or timedelta(0)),
        stale_us=round(float(tags.get("stale_after_hours", 0)) * HOUR_US),
    )


def is_windowed(view: Any) -> bool:
    """Whether a Feast view declares aggregations."""
    return bool(getattr(view, "aggregations", None))


def _source_of(view: Any) -> tuple[str, Mapping[str, str]]:
    """The place of a windowed view's source, and its tags."""
    if not is_windowed(view) or view.batch_source is None:
        raise PlanError(
            f"{view.name}: only stream views with aggregations over a source in the lake can be computed"
        )
    source = view.batch_source
    if not source.path.startswith(LAKE):
        raise PlanError(f"{view.name}: its source is {source.path!r}, expected {LAKE}<dataset>")
    if not source.tags.get("event_id"):
        raise PlanError(
            f"{view.name}: its source {source.name} does not say what identifies an event;"
            " give the source the tag event_id, with columns separated by commas"
        )
    return source.path, source.tags


def _on_demand(view: Any) -> OnDemandPlan:
    if "function" not in view.tags:
        raise PlanError(f"{view.name}: its tags do not name the function; add function=<module>:<name>")
    inputs = [f.name for projection in _read_by(view) for f in projection.features]
    # Feast keeps the sources in a protobuf map, whose order differs from process to process. The plan has a
    # digest, so the order is fixed here.
    request = [f.name for _, source in sorted(view.source_request_sources.items()) for f in source.schema]
    outputs = tuple(f.name for f in view.features)
    return OnDemandPlan(view.name, view.tags["function"], (*inputs, *request), outputs)


def _read_by(view: Any) -> Sequence[Any]:
    """The projections of the views that an on-demand view reads, in a fixed order."""
    return [projection for _, projection in sorted(view.source_feature_view_projections.items())]


def _asked(view: ViewPlan, renamed: Mapping[str, str]) -> ViewPlan:
    """The view with the event's column that holds its key, where the join key has another name."""
    column = renamed.get(view.entity, view.entity)
    return view if column == view.entity else replace(view, asked=column)


def _window_us(name: str, period: timedelta | None) -> int:
    if period is None:
        raise PlanError(f"{name}: an aggregation without a time window")
    return period_us(period)
