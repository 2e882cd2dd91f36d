"""A request of `/predict`, read at a third of what the models of `wire` cost.

msgspec checks names, types and ranges while it parses. The reader takes what is surely meant. The models of
`wire` take or refuse the rest, so that every refusal has one source.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec

from feature_repo.times import to_us
from serving.contract.subject import Event, Key
from serving.contract.subject.event import LARGEST, TEXT_LENGTH, Column
from serving.messages import ReadyVector, ScoredEvent
from serving.protocols.native.schemas import (
    FIRST_MOMENT,
    ID_LENGTH,
    LAST_MOMENT,
    MAX_FEATURES,
    MAX_ROWS,
)

# The common form of a time. Other forms that pydantic takes are left to the models.
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:[0-5]\d)", re.ASCII)
FIRST_US, LAST_US = to_us(FIRST_MOMENT), to_us(LAST_MOMENT)
# The last two come from a name that is no UTF-8, and from a body of many brackets.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH)]
TYPES: dict[str, Any] = {
    "number": Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)],
    "flag": bool,
    "text": Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH)],
}


class BatchIn(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose rows are not read yet."""

    rows: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]


_split = msgspec.json.Decoder(BatchIn).decode


def rows_of(body: bytes) -> list[bytes] | None:
    """The rows of a batch, each as JSON; None where the models have to read the batch."""
    try:
        return [bytes(row) for row in _split(body).rows]
    except UNREADABLE:
        return None


class RequestReader:
    """Reads the requests of one use case, by the declaration of its event."""

    def __init__(self, event: Event) -> None:
        self._id, self._noun = event.id, event.noun
        request = _request_type(event)
        rows = Annotated[list[request], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
        self._decode = msgspec.json.Decoder(request).decode
        self._decode_rows = msgspec.json.Decoder(_struct("RowsIn", [("rows", rows)])).decode

    def read(self, body: bytes) -> ScoredEvent | ReadyVector | None:
        """What a request asks for; None where the models have to read the request."""
        try:
            return self._asked(self._decode(body))
        except UNREADABLE:
            return None

    def read_rows(self, body: bytes) -> list[ScoredEvent | ReadyVector] | None:
        """What the rows of a batch ask for; None where the models have to read the batch, or one of them."""
        try:
            asked: Any = self._decode_rows(body)
        except UNREADABLE:
            return None
        rows = [self._asked(row) for row in asked.rows]
        readable = [row for row in rows if row is not None]
        return readable if len(readable) == len(rows) else None

    def _asked(self, asked: Any) -> ScoredEvent | ReadyVector | None:
        features, prediction_id, given = asked.features, asked.prediction_id, getattr(asked, self._noun)
        if given is not None:
            return None if features is not None or prediction_id is not None else self._event(given)
        if features is None or (prediction_id is not None and not _is_plain(prediction_id)):
            return None
        return ReadyVector(features, prediction_id)

    def _event(self, given: msgspec.Struct) -> ScoredEvent | None:
        values = msgspec.structs.asdict(given)
        event_us, created = _us(values.pop("event_timestamp")), values.pop("created_timestamp")
        created_us = None if created is None else _us(created)
        if event_us is None or (created_us is None and created is not None):
            return None
        for value in values.values():
            if type(value) is str and not _is_plain(value):
                return None
        return ScoredEvent(values.pop(self._id), event_us, values, created_us)


def _request_type(event: Event) -> type[msgspec.Struct]:
    given = _struct(
        "EventIn",
        [
            (event.id, Id),
            ("event_timestamp", str),
            ("created_timestamp", str | None, None),
            *(_key(key) for key in event.keys),
            *(_column(column) for column in event.columns),
        ],
    )
    features = Annotated[dict[str, float | None], msgspec.Meta(max_length=MAX_FEATURES)]
    return _struct(
        "RequestIn",
        [
            ("features", features | None, None),
            ("prediction_id", Id | None, None),
            (event.noun, given | None, None),
        ],
    )


def _struct(name: str, fields: list[tuple[Any, ...]]) -> type[msgspec.Struct]:
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


def _key(key: Key) -> tuple[Any, ...]:
    return (key.name, Id | None, None) if key.nullable else (key.name, Id)


def _column(column: Column) -> tuple[Any, ...]:
    kind = TYPES[column.kind]
    return (column.name, kind) if column.default is None else (column.name, kind, column.default)


def _is_plain(text: str) -> bool:
    """Whether an id or a word surely is clean, without white space around it and control characters."""
    return text.isprintable() and text == text.strip()


def _us(text: str) -> int | None:
    """The microseconds since the epoch of a time in the common form; None for any other text."""
    if TIME.fullmatch(text) is None:
        return None
    try:
        moment_us = to_us(datetime.fromisoformat(text))
    except ValueError:
        return None
    return moment_us if FIRST_US <= moment_us <= LAST_US else None
