"""The kinds of fields, and the messages that are the same for every use case.

Strict: nothing is coerced, no unknown field is accepted, every number is finite.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
)

from serving.contract.subject.event import LARGEST, TEXT_LENGTH

MAX_FEATURES = 2_000
MAX_ROWS = 100  # Of a batch: 6 ms of vectors, 30 ms of events, in which no other request has its turn.
ID_LENGTH = 200  # characters

# Ingest quarantines an earlier time: it comes from a clock that was never set.
FIRST_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)  # Python has no later time.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _clean(value: str) -> str:
    """Ingest trims ids. An id with a blank at its end would be another id there."""
    if value != value.strip() or CONTROL.search(value):
        raise ValueError("an id neither begins nor ends with white space, and holds no control character")
    return value


def _set_clock(moment: datetime) -> datetime:
    if moment < FIRST_MOMENT:
        raise ValueError(f"before {FIRST_MOMENT:%Y-%m-%d}")
    if moment > LAST_MOMENT:
        raise ValueError(f"after {LAST_MOMENT:%Y-%m-%d}")
    return moment


Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH), AfterValidator(_clean)]
Time = Annotated[AwareDatetime, AfterValidator(_set_clock)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# Sums of squares of hundredths stay far inside the integers of the feature engine. The range of a column
# stands in the release.
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


class BatchBase(Strict):
    """Rows that are not read yet."""

    rows: list[Any] = Field(min_length=1, max_length=MAX_ROWS)


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
    """The shape of every refusal. Of the input it names at most a number or a moment beyond a bound."""

    detail: list[ErrorItem]


class RowRefused(ErrorResponse):
    """A row of a batch that was refused. It left nothing, and the other rows went on."""

    status: int = Field(description="What the row would have been refused with, had it been sent alone.")
