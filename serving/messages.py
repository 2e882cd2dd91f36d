"""What goes into the data plane, what comes out, and why it may refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serving.errors import ServingError


class PlaneError(ServingError):
    """A request that the data plane does not answer with a prediction."""


class NoModel(PlaneError):
    """Nothing can serve yet."""


class Conflict(PlaneError):
    """The id was answered before, for another payload."""

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        super().__init__(f"{prediction_id!r} was answered before, for another payload")


class UnknownStream(PlaneError):
    """A feed that the use case of the release does not declare."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        there = f"there are {', '.join(known)}" if known else "the use case declares no further feed"
        super().__init__(f"no such stream; {there}")


class BadInput(PlaneError):
    """A value that the data plane refuses.

    `kind` is one of the counted refusals, `field` the path in the request.
    """

    def __init__(self, kind: str, field: tuple[str | int, ...], message: str) -> None:
        self.kind, self.field, self.message = kind, field, message
        super().__init__(message)


@dataclass(frozen=True)
class ScoredEvent:
    """An event to be decided on.

    `values` holds every key and column of the use case by name. `event_us` is when the event happened.
    `created_us` is when the event became known, on event time only. Both are microseconds since the epoch.
    """

    id: str
    event_us: int
    values: Mapping[str, object]
    created_us: int | None = None


@dataclass(frozen=True)
class ReadyVector:
    """A vector that the client made of exactly the model's features. `prediction_id` makes a repeat safe."""

    features: Mapping[str, float | None]
    prediction_id: str | None = None


@dataclass(frozen=True)
class FeedEvent:
    """An event of a further feed.

    `values` holds every key and column of the feed by name. `event_us` is when the event happened.
    `created_us` is when the event became known, on event time only. Both are microseconds since the epoch.
    """

    event_us: int
    values: Mapping[str, object]
    created_us: int | None = None


@dataclass(frozen=True)
class FeedReceipt:
    """What became of an event of a further feed; `event_id` joins the columns that identify it by colons.

    `conflict`: the id is known with other values, and nothing was changed.
    """

    event_id: str
    outcome: Literal["accepted", "duplicate", "conflict"]


@dataclass(frozen=True)
class Label:
    """What became known of an event.

    `label_us` is when it became known, in microseconds since the epoch, on event time only.
    """

    event_id: str
    positive: bool
    label_us: int | None = None


@dataclass(frozen=True)
class LabelReceipt:
    """What became of a label.

    `known`: the event was found, so its verdict counts from now on. `duplicate`: this very label was there
    already.
    """

    event_id: str
    known: bool
    duplicate: bool
