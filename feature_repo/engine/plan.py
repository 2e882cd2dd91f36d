"""A feature service without Feast: the plan that offline, online and release bundles compute from."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from feature_repo.engine.functions import FUNCTIONS
from feature_repo.engine.functions.base import Function
from feature_repo.errors import FeatureError

LAKE = "lake://"


RowFunction = Callable[[Mapping[str, Any]], dict[str, Any]]


class PlanError(FeatureError):
    """A declaration that the engine cannot compute. The message names it."""


@dataclass(frozen=True)
class Aggregate:
    """One feature: `function` of `column` over the events of the last `window_us` microseconds.

    `function` is a name of `feature_repo.engine.functions`. The module of a function says what the function
    gives.
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
            raise PlanError(
                f"{self.name}: its window is {self.window_us} microseconds long, expected more than 0"
            )

    @property
    def computed_by(self) -> Function:
        """The function of that name."""
        return FUNCTIONS[self.function]

    @property
    def reads_values(self) -> bool:
        """Whether the feature needs the values of the column, and not only the times of events."""
        return self.computed_by.reads(self.column)


@dataclass(frozen=True)
class ViewPlan:
    """Aggregates of one stream by one key.

    - `entity`: the view's join key, a column of the stream.
    - `asked`: the column of the scored event that holds the key, where it has another name than `entity`.
    - `hop_us`: the lower bound of every window is floored to this number of microseconds (0: exact).
    - `scales`: the decimals of the exact columns. Every other column is aggregated as it is.
    - `event_id`: the columns that identify an event of the stream.
    - `keys`: all ids of the stream that a view could have as its key.
    - `ttl_us`: a key without an event for so long has no values. Every feature is then null, counts too (0:
      no limit).
    - `stale_us`: when the newest event of the whole stream is older, answers that rest on the stream count as
      degraded (0: no limit).
    """

    name: str
    entity: str
    stream: str
    hop_us: int
    aggregates: tuple[Aggregate, ...]
    scales: Mapping[str, int] = field(default_factory=dict, hash=False)
    event_id: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    ttl_us: int = 0
    stale_us: int = 0
    asked: str = ""

    @property
    def asked_by(self) -> str:
        """The column of the scored event, and of an online question, that holds the view's key."""
        return self.asked or self.entity

    @property
    def history(self) -> str:
        """The name of what the view reads: the events of its stream, by its entity."""
        return f"{self.stream}.{self.entity}"

    @property
    def asked_history(self) -> str:
        """The same with the column of the scored event that holds the key, where it has another name."""
        return self.history if self.asked_by == self.entity else f"{self.history}={self.asked_by}"

    @property
    def reach_us(self) -> int:
        """How far before a moment the oldest event of a window can lie, in microseconds."""
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
        """The plan as JSON values, for the digest and the bundle."""
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
            # Written only where it is set. Plans of earlier versions have no such field.
            **({"asked": self.asked} if self.asked else {}),
        }


@dataclass(frozen=True)
class OnDemandPlan:
    """A function of a row, `module:name`, from view features and request fields to features.

    The function gives all its outputs for a row of nulls too.
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def load(self) -> RowFunction:
        """The function. `ImportError` or `AttributeError` where the code has no function of that name."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class FeaturePlan:
    """Everything to compute for one feature service. `features` is the vector, in order."""

    service: str
    views: tuple[ViewPlan, ...]
    on_demand: tuple[OnDemandPlan, ...]
    features: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, for the digest and the bundle."""
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
        """The plan that `to_dict` gave. Plans of earlier versions lack fields that have a default."""
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
        """SHA-256 of the plan. Equal plans have equal digests."""
        return hashlib.sha256(
            json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    @cached_property
    def streams(self) -> frozenset[str]:
        """The streams that the views read."""
        return frozenset(view.stream for view in self.views)

    @property
    def request_fields(self) -> tuple[str, ...]:
        """The fields that a request has to have beside its keys: the inputs that no view gives."""
        known = {a.name for v in self.views for a in v.aggregates}
        return tuple(dict.fromkeys(i for o in self.on_demand for i in o.inputs if i not in known))

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the scored event that hold a key of a view, in the order of the views."""
        return tuple(dict.fromkeys(v.asked_by for v in self.views))

    def event_id(self, stream: str, event: Mapping[str, object], event_us: int) -> str:
        """The id of an event of the stream in the online state, from the event's columns.

        Raises `PlanError` for a stream that no view reads.
        """
        for view in self.views:
            if view.stream == stream:
                return ":".join(str(event_us if c == "event_timestamp" else event[c]) for c in view.event_id)
        raise PlanError(f"{self.service}: no view reads the stream {stream!r}")


def over_columns(function: RowFunction, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """A function of a row, applied to every row of some columns of one length.

    Returns a list for each output of the function.
    """
    result: dict[str, list[Any]] = {name: [] for name in function(dict.fromkeys(columns))}
    for row in zip(*columns.values(), strict=True):
        for name, value in function(dict(zip(columns, row, strict=True))).items():
            result[name].append(value)
    return result


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
