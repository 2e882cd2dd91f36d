"""A feature service as plain data: what offline, online and the release bundle compute from, without Feast."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from feature_repo.errors import FeatureError
from feature_repo.times import HOUR_US, period_us

FUNCTIONS = (
    "count",
    "sum",
    "avg",
    "std",
    "min",
    "max",
    "count_distinct",
    "seconds_since_last",
    "seconds_since_first",
)
AGES = ("seconds_since_last", "seconds_since_first")
SYNONYMS = {"mean": "avg", "stddev": "std", "approx_count_distinct": "count_distinct"}
LAKE = "lake://"


RowFunction = Callable[[Mapping[str, Any]], dict[str, Any]]


class PlanError(FeatureError):
    """A declaration that the engine cannot compute; the message names it."""


@dataclass(frozen=True)
class Aggregate:
    """One feature: `function` of `column` over the events of the last `window_us` microseconds.

    `count` counts events, whatever the column holds. `seconds_since_last` of event_timestamp is the age of
    the window's newest event, of a boolean column the age of the newest event where it is true;
    `seconds_since_first` is the same of the oldest.
    """

    name: str
    column: str
    function: str
    window_us: int

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise PlanError(
                f"{self.name}: unknown function {self.function!r}, expected one of {', '.join(FUNCTIONS)}"
            )
        if self.window_us <= 0:
            raise PlanError(f"{self.name}: a window has to be longer than nothing")

    @property
    def flag(self) -> str | None:
        """The column which has to be true for an event to count, if there is one."""
        return self.column if self.function in AGES and self.column != "event_timestamp" else None

    @property
    def reads_values(self) -> bool:
        """Whether it takes more than the times of events."""
        return self.function not in ("count", *AGES) or self.flag is not None


@dataclass(frozen=True)
class ViewPlan:
    """Aggregates of one stream by one key.

    `hop_us` floors the lower bound of every window (0: exact). `scales` are the decimals of the exact
    columns; a column that is not in it is aggregated as what it is. `event_id` are the columns that identify
    an event of the stream, `keys` all its ids that a view could go by. Where `ttl_us` is not 0, a key without
    an event for so long has no values at all: every feature of the view is null, counts too. `stale_us` is
    how old the newest event of the whole stream may be before answers that rest on it count as degraded (0:
    any age).
    """

    name: str
    entity: str
    stream: str
    hop_us: int
    aggregates: tuple[Aggregate, ...]
    scales: Mapping[str, int] = field(default_factory=dict, hash=False)
    event_id: tuple[str, ...] = ("transaction_id",)
    keys: tuple[str, ...] = ()
    ttl_us: int = 0
    stale_us: int = 0

    @property
    def reach_us(self) -> int:
        """How far before a moment its oldest event can lie."""
        return max((self.ttl_us, *(a.window_us for a in self.aggregates))) + self.hop_us

    @property
    def columns(self) -> tuple[str, ...]:
        """The stream's columns whose values are aggregated, sorted."""
        return tuple(sorted({a.column for a in self.aggregates if a.reads_values}))

    def lower_us(self, at_us: int, window_us: int) -> int:
        """The first moment that belongs to the window at `at_us`."""
        lower = at_us - window_us
        return lower // self.hop_us * self.hop_us if self.hop_us else lower

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "entity": self.entity,
            "stream": self.stream,
            "hop_us": self.hop_us,
            "aggregates": [asdict(a) for a in self.aggregates],
            "scales": dict(self.scales),
            "event_id": list(self.event_id),
            "keys": list(self.keys),
            "ttl_us": self.ttl_us,
            "stale_us": self.stale_us,
        }


@dataclass(frozen=True)
class OnDemandPlan:
    """A function of a row, `module:name`: view features and request fields in, features out.

    A row of nulls has to have all of them too.
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def load(self) -> RowFunction:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class FeaturePlan:
    """All that has to be computed for one feature service; `features` is the vector, in order."""

    service: str
    views: tuple[ViewPlan, ...]
    on_demand: tuple[OnDemandPlan, ...]
    features: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "views": [v.to_dict() for v in self.views],
            "on_demand": [
                {**asdict(o), "inputs": list(o.inputs), "outputs": list(o.outputs)} for o in self.on_demand
            ],
            "features": list(self.features),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeaturePlan:
        on_demand = tuple(
            OnDemandPlan(o["name"], o["function"], tuple(o["inputs"]), tuple(o["outputs"]))
            for o in values["on_demand"]
        )
        return cls(
            values["service"],
            tuple(_view_from_dict(v) for v in values["views"]),
            on_demand,
            tuple(values["features"]),
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(
            json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    @property
    def request_fields(self) -> tuple[str, ...]:
        """What a request has to bring besides its keys."""
        known = {a.name for v in self.views for a in v.aggregates}
        return tuple(dict.fromkeys(i for o in self.on_demand for i in o.inputs if i not in known))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.entity for v in self.views))

    def event_id(self, stream: str, event: Mapping[str, object], event_us: int) -> str:
        """The id under which online state knows an event of the stream, from its columns."""
        for view in self.views:
            if view.stream == stream:
                return ":".join(str(event_us if c == "event_timestamp" else event[c]) for c in view.event_id)
        raise PlanError(f"{self.service}: no view reads the stream {stream!r}")


def over_columns(function: RowFunction, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """A function of a row, for many rows."""
    result: dict[str, list[Any]] = {name: [] for name in function(dict.fromkeys(columns))}
    for row in zip(*columns.values(), strict=True):
        for name, value in function(dict(zip(columns, row, strict=True))).items():
            result[name].append(value)
    return result


def plan_from_feast(store: Any, service_name: str) -> FeaturePlan:
    """The plan of a registered feature service.

    Views hold what the vector or an on-demand function needs, in the order of their declaration.
    """
    service = store.get_feature_service(service_name)
    projections = {p.name: [f.name for f in p.features] for p in service.feature_view_projections}
    streams = {v.name: v for v in store.list_stream_feature_views()}
    on_demand_views = {v.name: v for v in store.list_on_demand_feature_views()}
    if unknown := sorted(projections.keys() - streams.keys() - on_demand_views.keys()):
        raise PlanError(f"{service_name}: {', '.join(unknown)} is no stream view and no on-demand view")

    needed = {name: set(features) for name, features in projections.items() if name in streams}
    on_demand = []
    for name in projections:
        if name not in on_demand_views:
            continue
        view = on_demand_views[name]
        # Feast keeps the sources in a protobuf map, whose order differs from process to process; the plan has
        # a digest.
        request = [f.name for _, source in sorted(view.source_request_sources.items()) for f in source.schema]
        inputs = []
        for _, projection in sorted(view.source_feature_view_projections.items()):
            needed.setdefault(projection.name, set()).update(f.name for f in projection.features)
            inputs += [f.name for f in projection.features]
        if "function" not in view.tags:
            raise PlanError(f"{name}: its tags do not name the function")
        on_demand.append(
            OnDemandPlan(
                name, view.tags["function"], (*inputs, *request), tuple(f.name for f in view.features)
            )
        )

    order = [*(n for n in projections if n in streams), *(n for n in needed if n not in projections)]
    views = tuple(view_from_feast(streams[name], needed[name]) for name in order)
    features = tuple(f for names in projections.values() for f in names)
    if len(set(features)) != len(features):
        raise PlanError(f"{service_name}: two of its features have the same name")
    return FeaturePlan(service_name, views, tuple(on_demand), features)


def view_from_feast(view: Any, wanted: set[str] | None = None) -> ViewPlan:
    """What the engine needs of a StreamFeatureView; `wanted` limits it to some features."""
    aggregations = getattr(view, "aggregations", None)
    if not aggregations or view.batch_source is None:
        raise PlanError(
            f"{view.name}: only stream views with aggregations over a source in the lake can be computed"
        )
    path, tags = view.batch_source.path, view.batch_source.tags
    if not path.startswith(LAKE):
        raise PlanError(f"{view.name}: its source is {path!r}, expected {LAKE}<dataset>")
    if len(view.entity_columns) != 1:
        raise PlanError(f"{view.name}: has {len(view.entity_columns)} keys, expected one")
    hop = (view.tiling_hop_size or timedelta(minutes=5)) if view.enable_tiling else timedelta(0)
    aggregates = [
        Aggregate(
            a.name, a.column, SYNONYMS.get(a.function, a.function), _microseconds(a.name, a.time_window)
        )
        for a in aggregations
    ]
    if wanted is not None and (missing := sorted(wanted - {a.name for a in aggregates})):
        raise PlanError(f"{view.name}: no aggregation makes {', '.join(missing)}")
    return ViewPlan(
        name=view.name,
        entity=view.entity_columns[0].name,
        stream=path.removeprefix(LAKE),
        hop_us=_microseconds(view.name, hop),
        aggregates=tuple(a for a in aggregates if wanted is None or a.name in wanted),
        scales={
            name.removeprefix("scale."): int(value)
            for name, value in sorted(tags.items())
            if name.startswith("scale.")
        },
        event_id=tuple(tags.get("event_id", "transaction_id").split(",")),
        keys=tuple(k for k in tags.get("keys", "").split(",") if k),
        ttl_us=_microseconds(view.name, view.ttl or timedelta(0)),
        stale_us=round(float(tags.get("stale_after_hours", 0)) * HOUR_US),
    )


def _microseconds(name: str, period: timedelta | None) -> int:
    if period is None:
        raise PlanError(f"{name}: an aggregation without a time window")
    return period_us(period)


def _view_from_dict(values: Mapping[str, Any]) -> ViewPlan:
    aggregates = tuple(Aggregate(**a) for a in values["aggregates"])
    return ViewPlan(
        **{
            **values,
            "aggregates": aggregates,
            "event_id": tuple(values["event_id"]),
            "keys": tuple(values["keys"]),
        }
    )
