"""The vector that is scored, from an event or as it was sent, and how fresh its views are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import Keys, OnlineState
from feature_repo.times import SECOND_US
from serving.contract.outcome import Vector
from serving.contract.subject import Event, Number
from serving.messages import BadInput, ScoredEvent


class EventInputs:
    """The inputs of an event's features, by the event's declaration."""

    def __init__(self, event: Event) -> None:
        # A view is asked by the join key, which may have another name than the event's column.
        self._keys = tuple({(join, key.name) for key in event.keys for join in (key.name, key.joins)})
        self._inputs = tuple(column.name for column in event.columns)
        numbers = {column.name for column in event.columns if isinstance(column, Number)}
        self._own = tuple((name, name in numbers) for name in event.names[1:])

    def logged(self, scored: ScoredEvent) -> list[object]:
        """The keys and columns in the order of the log, numbers as floats."""
        return [
            float(value) if number and value is not None else value  # type: ignore[arg-type]
            for value, number in ((scored.values[name], number) for name, number in self._own)
        ]

    def keys(self, scored: ScoredEvent) -> Keys:
        """The keys of the views, by the columns that the views are asked by."""
        values = scored.values
        return {join: values[name] for join, name in self._keys}  # type: ignore[misc]

    def vector(self, state: OnlineState, scored: ScoredEvent, keys: Keys) -> dict[str, float | None]:
        """The service's vector in its order, from the state as it is.

        Raises `BadEvent` for a value that the features cannot use.
        """
        values = scored.values
        inputs = {name: values[name] for name in self._inputs}
        inputs["event_time_us"] = scored.event_us
        return state.vector(keys, scored.event_us, inputs)  # type: ignore[arg-type]


def in_order(features: Vector, names: tuple[str, ...]) -> Vector:
    """A ready-made vector in the model's order; `BadInput` names a feature that is missing or unknown."""
    if tuple(features) == names:
        return features
    if missing := [name for name in names if name not in features]:
        raise BadInput(
            "bad_value", ("features", missing[0]), f"missing; the model takes {len(names)} features"
        )
    if len(features) > len(names):
        unknown = next(name for name in features if name not in set(names))
        raise BadInput("bad_value", ("features", unknown[:100]), "not a feature of the model")
    return {name: features[name] for name in names}


def freshness_of(state: OnlineState, at_us: int) -> dict[str, float | None]:
    """How many seconds before a moment each view's newest event was; None where there is none."""
    ages: dict[str, float | None] = {}
    for stream in {view.stream for view in state.plan.views}:
        newest_us = state.newest_us(stream, at_us)
        ages[stream] = None if newest_us is None else (at_us - newest_us) / SECOND_US
    return {view.name: ages[view.stream] for view in state.plan.views}


def is_degraded(plan: FeaturePlan, freshness: Mapping[str, float | None]) -> bool:
    """Whether a view's newest event is older than the view's declaration allows, or missing.

    A ready-made vector has no freshness, and is never degraded.
    """
    for view in plan.views if freshness else ():
        age = freshness[view.name]
        if view.stale_us and (age is None or age > view.stale_us / SECOND_US):
            return True
    return False


def payload_digest(kind: str, payload: object) -> bytes:
    """16 bytes. Two payloads under one id have different digests."""
    return hashlib.blake2b(
        orjson.dumps([kind, payload], option=orjson.OPT_SORT_KEYS), digest_size=16
    ).digest()
