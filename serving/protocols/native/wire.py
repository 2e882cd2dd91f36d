"""The messages of one use case: what clients send and get by its noun, its columns and its words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from feature_repo.times import to_us
from serving.contract.records import Answer
from serving.contract.subject import Event, Feed, Subject
from serving.contract.subject.event import Column
from serving.messages import FeedEvent, Label, LabelReceipt, ReadyVector, ScoredEvent, UnknownStream
from serving.protocols.native.request_reader import RequestReader, rows_of
from serving.protocols.native.schemas import (
    MAX_ROWS,
    AnswerBase,
    BatchBase,
    Countable,
    Id,
    LabelsBase,
    PredictBase,
    RowRefused,
    Strict,
    Time,
    Word,
)

MAX_LABELS = 1_000  # In a request.
MAX_EVENTS = 1_000  # Of a further feed, in a request.


class Wire:
    """The messages of one use case, as models and as values."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self._event = subject, subject.event
        self._names, self._stops = subject.event.names[1:], subject.decisions.stops is not None
        event_in = _event_model(subject.event)
        self.request = _request_model(subject.event, event_in)
        self.labels_request = _labels_model(subject)
        self.response = _answer_model(subject)
        self.labels_response = _receipts_model(subject.event)
        self.batch_request, self.batch_response = _batch_models(self.request, self.response)
        self.streams = {feed.name: _stream_model(feed) for feed in subject.feeds}
        self._feeds = {feed.name: feed.names for feed in subject.feeds}
        self._reader = RequestReader(subject.event)

    def asked(self, body: bytes) -> ScoredEvent | ReadyVector:
        """What a request for a prediction asks for. `ValidationError` says what is wrong, and where."""
        if (read := self._reader.read(body)) is not None:
            return read
        return self.asked_of(self.request.model_validate_json(body))

    def asked_in_rows(self, body: bytes) -> list[ScoredEvent | ReadyVector | ValidationError]:
        """What each row of a batch asks for, or what is wrong with the row.

        `ValidationError` is raised where the body is no batch.
        """
        asked: list[ScoredEvent | ReadyVector | ValidationError] = []
        if (read := self._reader.read_rows(body)) is not None:
            return [*read]
        for row in self._rows(body):
            try:
                asked.append(self.asked(row))
            except ValidationError as error:
                asked.append(error)
        return asked

    def _rows(self, body: bytes) -> Sequence[bytes]:
        if (rows := rows_of(body)) is not None:
            return rows
        # A NaN is no JSON, but pydantic parses it. So it refuses one row, and not the batch.
        return [json.dumps(row).encode() for row in BatchBase.model_validate_json(body).rows]

    def asked_of(self, request: Any) -> ScoredEvent | ReadyVector:
        """What a request asks for, read by its model."""
        given = getattr(request, self._event.noun)
        if given is None:
            return ReadyVector(request.features, request.prediction_id)
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
        shown: dict[str, object] = {
            "prediction_id": answer.prediction_id,
            self.subject.score: answer.score,
            "decision": answer.decision,
            "threshold": answer.threshold,
            "block_threshold": answer.block_threshold,
            "model_version": answer.model_version,
            "reasons": answer.reasons,
            "degraded": answer.degraded,
            "freshness": answer.freshness,
        }
        if not self._stops:
            del shown["block_threshold"]
        return shown

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
    """One event of a stream: `fields`, its times, its keys and its columns. Required fields come first."""
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


def _batch_models(
    request: type[BaseModel], response: type[BaseModel]
) -> tuple[type[BaseModel], type[BaseModel]]:
    rows = Annotated[list[request], Field(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    asked = create_model("PredictBatchRequest", __base__=BatchBase, **cast("Any", {"rows": (rows, ...)}))
    answered = create_model("RowAnswered", __base__=response, **cast("Any", {"status": (Literal[200], ...)}))
    either = list[answered | RowRefused]  # type: ignore[valid-type]
    return asked, create_model("PredictBatchResponse", **cast("Any", {"rows": (either, ...)}))


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
