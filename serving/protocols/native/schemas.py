"""What clients send and get, field by field.

Strict: nothing is coerced, no unknown field is accepted, every number is finite.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from feature_repo.times import to_us
from serving.contract.records import Answer
from serving.contract.subject import Event, Feed, Subject
from serving.contract.subject.event import LARGEST, TEXT_LENGTH, Column
from serving.messages import FeedEvent, Label, LabelReceipt, ScoredEvent, UnknownStream

MAX_LABELS = 1_000  # a batch
MAX_EVENTS = 1_000  # of a further feed, a batch
MAX_FEATURES = 2_000

FIRST_MOMENT = datetime(
    2000, 1, 1, tzinfo=UTC
)  # ingest takes what is before it for a clock that was never set
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)  # what is after it in UTC cannot be told
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _clean(value: str) -> str:
    """Ingest trims ids, so that one with a blank at its end would be another one there."""
    if value != value.strip() or CONTROL.search(value):
        raise ValueError("an id neither begins nor ends with white space, and holds no control character")
    return value


def _set_clock(moment: datetime) -> datetime:
    if moment < FIRST_MOMENT:
        raise ValueError(f"before {FIRST_MOMENT:%Y-%m-%d}")
    if moment > LAST_MOMENT:
        raise ValueError(f"after {LAST_MOMENT:%Y-%m-%d}")
    return moment


Id = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_clean)]
Time = Annotated[AwareDatetime, AfterValidator(_set_clock)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# What the engine can count with: sums of squares of hundredths stay far inside its integers. The range of a
# value is the release's to say.
Countable = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Word = Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH), AfterValidator(_clean)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PredictBase(Strict):
    """Either a ready-made vector or an event."""

    features: dict[str, Number | None] | None = Field(
        None,
        max_length=MAX_FEATURES,
        description="Exactly the model's features; null where there is no value.",
    )
    prediction_id: Id | None = Field(
        None, description="Of a ready-made vector, for safe retries; an event is known by its own id."
    )


class ReasonOut(BaseModel):
    feature: str
    value: float | None
    contribution: float = Field(description="In log-odds, above 0 towards a positive.")


class AnswerBase(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str
    model_version: str
    reasons: list[ReasonOut] = Field(
        description="The features that pushed the score up most; empty for a decision that passes."
    )
    degraded: bool = Field(
        description=(
            "A feed is staler than its declaration allows: the features may lack what happened since."
        )
    )
    freshness: dict[str, float | None] = Field(
        description=(
            "For each feature view, how many seconds before the event its newest event was; null: none yet."
            " Empty for a ready vector."
        )
    )


class LabelsBase(BaseModel):
    accepted: int
    duplicates: int
    unknown: int


class EventOut(BaseModel):
    event_id: str = Field(description="The columns that identify the event, joined by colons.")
    outcome: Literal["accepted", "duplicate", "conflict"]


class StreamResponse(BaseModel):
    """What became of each event. A conflict is a known id with other values: nothing was changed."""

    accepted: int
    duplicates: int
    conflicts: int
    events: list[EventOut]


class Wire:
    """The messages of one use case: its noun, its columns and its words, as models and as plain values."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self._event = subject, subject.event
        self._names, self._stops = subject.event.names[1:], subject.decisions.stops is not None
        event_in = _event_model(subject.event)
        self.request = _request_model(subject.event, event_in)
        self.labels_request = _labels_model(subject)
        self.response = _answer_model(subject)
        self.labels_response = _receipts_model(subject.event)
        self.streams = {feed.name: _stream_model(feed) for feed in subject.feeds}
        self._feeds = {feed.name: feed.names for feed in subject.feeds}

    def scored(self, request: BaseModel) -> ScoredEvent | None:
        """The event of a request; None where it brings a ready-made vector."""
        given = getattr(request, self._event.noun)
        if given is None:
            return None
        created = given.created_timestamp
        return ScoredEvent(
            getattr(given, self._event.id),
            to_us(given.event_timestamp),
            {name: getattr(given, name) for name in self._names},
            None if created is None else to_us(created),
        )

    def stream(self, name: str) -> type[BaseModel]:
        """The request of a further feed; `UnknownStream` where the use case declares none of this name."""
        if name not in self.streams:
            raise UnknownStream(name, tuple(self.streams))
        return self.streams[name]

    def events(self, name: str, request: BaseModel) -> list[FeedEvent]:
        """The events of a request to a further feed."""
        return [
            FeedEvent(
                to_us(one.event_timestamp),
                {column: getattr(one, column) for column in self._feeds[name]},
                None if one.created_timestamp is None else to_us(one.created_timestamp),
            )
            for one in cast("list[Any]", request.events)  # type: ignore[attr-defined]
        ]

    def labels(self, request: BaseModel) -> list[Label]:
        """The labels of a request."""
        id_, name = self._event.id, self.subject.labels.name
        return [
            Label(
                getattr(one, id_),
                getattr(one, name),
                None if one.label_timestamp is None else to_us(one.label_timestamp),
            )
            for one in cast("list[Any]", request.labels)  # type: ignore[attr-defined]
        ]

    def shown(self, answer: Answer) -> dict[str, object]:
        """An answer as it is sent. Where nothing is ever stopped, there is no `block_threshold`."""
        stopped = {"block_threshold": answer.block_threshold} if self._stops else {}
        return {
            "prediction_id": answer.prediction_id,
            self.subject.score: answer.score,
            "decision": answer.decision,
            "threshold": answer.threshold,
            **stopped,
            "model_version": answer.model_version,
            "reasons": answer.reasons,
            "degraded": answer.degraded,
            "freshness": answer.freshness,
        }

    def receipt(self, receipt: LabelReceipt) -> dict[str, object]:
        """What became of one label, as it is sent."""
        return {self._event.id: receipt.event_id, "known": receipt.known, "duplicate": receipt.duplicate}


@lru_cache(maxsize=4)
def wire_of(subject: Subject) -> Wire:
    """The messages of a use case, made once."""
    return Wire(subject)


def _event_model(event: Event) -> type[BaseModel]:
    return _stream_event(event.noun, {event.id: (Id, ...)}, event)


def _stream_model(feed: Feed) -> type[BaseModel]:
    one = _stream_event(feed.name, {}, feed)
    events = Annotated[list[one], Field(min_length=1, max_length=MAX_EVENTS)]  # type: ignore[valid-type]
    name = f"{_title(feed.name)}Request"
    return create_model(name, __base__=Strict, **cast("Any", {"events": (events, ...)}))


def _stream_event(name: str, fields: dict[str, Any], stream: Event | Feed) -> type[BaseModel]:
    """One event of a stream: `fields`, its times, its keys and its columns, what is required first."""
    fields = {**fields, "event_timestamp": (Time, ...)}
    for key in stream.keys:
        fields[key.name] = (Id | None, None) if key.nullable else (Id, ...)
    for column in stream.columns:
        if column.default is None:
            fields[column.name] = (_type(column), _told(column, ...))
    fields["created_timestamp"] = (
        Time | None,
        Field(None, description="When it became known; on event time only, by default its own time."),
    )
    for column in stream.columns:
        if column.default is not None:
            fields[column.name] = (_type(column), _told(column, column.default))
    return create_model(f"{_title(name)}In", __base__=Strict, **fields)


def _type(column: Column) -> Any:
    return {"number": Countable, "flag": bool, "text": Word}[column.kind]


def _told(column: Column, default: Any) -> Any:
    return Field(default, description=column.description) if column.description else Field(default)


def _request_model(event: Event, event_in: type[BaseModel]) -> type[BaseModel]:
    def one_of_two(self: Any) -> Any:
        if (self.features is None) == ((given := getattr(self, event.noun)) is None):
            raise ValueError(f"send either features or a {event.noun}")
        if given is not None and self.prediction_id is not None:
            raise ValueError(f"prediction_id is for features only: a {event.noun} is known by its {event.id}")
        return self

    return create_model(
        "PredictRequest",
        __base__=PredictBase,
        __doc__=f"Either a ready-made vector or a {event.noun}.",
        __validators__=cast("Any", {"one_of_two": model_validator(mode="after")(one_of_two)}),
        **cast("Any", {event.noun: (event_in | None, None)}),
    )


def _labels_model(subject: Subject) -> type[BaseModel]:
    when = "When it became known; required on event time, refused on the wall clock."
    fields: dict[str, Any] = {
        subject.event.id: (Id, ...),
        subject.labels.name: (bool, ...),
        "label_timestamp": (Time | None, Field(None, description=when)),
    }
    label_in = create_model("LabelIn", __base__=Strict, **fields)
    labels = Annotated[list[label_in], Field(min_length=1, max_length=MAX_LABELS)]  # type: ignore[valid-type]
    return create_model("LabelsRequest", __base__=Strict, **cast("Any", {"labels": (labels, ...)}))


def _answer_model(subject: Subject) -> type[BaseModel]:
    decisions = subject.decisions
    fields: dict[str, Any] = {
        subject.score: (float, ...),
        "decision": (Literal[tuple(decisions)], ...),
        "threshold": (float, Field(description=f"Scores below it are {decisions.passes}.")),
    }
    if decisions.stops is not None:
        stops = f"Scores from it up are {decisions.stops}."
        fields["block_threshold"] = (float, Field(description=stops))
    return create_model("PredictResponse", __base__=AnswerBase, **fields)


def _receipts_model(event: Event) -> type[BaseModel]:
    known = f"The {event.noun} was found, so the verdict counts from now on."
    fields: dict[str, Any] = {
        event.id: (str, ...),
        "known": (bool, Field(description=known)),
        "duplicate": (bool, ...),
    }
    label_out = create_model("LabelOut", **fields)
    return create_model(
        "LabelsResponse",
        __base__=LabelsBase,
        **cast("Any", {"labels": (list[label_out], ...)}),  # type: ignore[valid-type]
    )


def _title(noun: str) -> str:
    return "".join(part.capitalize() for part in noun.split("_"))


class HealthResponse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ok", "no model"]
    model_version: str | None
    features: list[str]
    reason: str = ""


class ErrorItem(BaseModel):
    type: str
    loc: list[str | int]
    msg: str


class ErrorResponse(BaseModel):
    """The shape of every refusal. Of the input it names at most a number or a moment that is
    beyond a bound.
    """

    detail: list[ErrorItem]
