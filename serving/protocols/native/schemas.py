"""What clients send and get, field by field.

Strict: nothing is coerced, no unknown field is accepted, every number is finite.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

MAX_LABELS = 1_000  # a batch
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
# What the engine can count with: sums of squares of hundredths stay far inside its integers. What a payment
# may be is the release's to say.
Amount = Annotated[float, Field(allow_inf_nan=False, ge=-1e10, le=1e10)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TransactionIn(Strict):
    transaction_id: Id
    event_timestamp: Time
    customer_id: Id
    merchant_id: Id
    amount: Amount
    created_timestamp: Time | None = Field(
        None, description="When it became known; on event time only, by default its own time."
    )
    is_declined: bool = Field(
        False, description="The issuer's own refusal, a fact of the input; the service's BLOCK never sets it."
    )


class PredictRequest(Strict):
    """Either a ready-made vector or a transaction."""

    features: dict[str, Number | None] | None = Field(
        None,
        max_length=MAX_FEATURES,
        description="Exactly the model's features; null where there is no value.",
    )
    transaction: TransactionIn | None = None
    prediction_id: Id | None = Field(
        None, description="Of a ready-made vector, for safe retries; a transaction is known by its own id."
    )

    @model_validator(mode="after")
    def one_of_two(self) -> PredictRequest:
        if (self.features is None) == (self.transaction is None):
            raise ValueError("send either features or a transaction")
        if self.transaction is not None and self.prediction_id is not None:
            raise ValueError(
                "prediction_id is for features only: a transaction is known by its transaction_id"
            )
        return self


class LabelIn(Strict):
    transaction_id: Id
    is_fraud: bool
    label_timestamp: Time | None = Field(
        None, description="When it became known; required on event time, refused on the wall clock."
    )


class LabelsRequest(Strict):
    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=MAX_LABELS)]


class ReasonOut(BaseModel):
    feature: str
    value: float | None
    contribution: float = Field(description="In log-odds, positive towards fraud.")


class PredictResponse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str
    fraud_score: float
    decision: Literal["ALLOW", "REVIEW", "BLOCK"]
    threshold: float = Field(description="Scores below it are ALLOW.")
    block_threshold: float = Field(description="Scores from it up are BLOCK.")
    model_version: str
    reasons: list[ReasonOut] = Field(
        description="The features that pushed the score up most; empty for ALLOW."
    )
    degraded: bool = Field(
        description="A feed is staler than its declaration allows: the features may lack what happened since."
    )
    freshness: dict[str, float | None] = Field(
        description=(
            "For each feature view, how many seconds before the transaction its newest event was; null: none"
            " yet. Empty for a ready vector."
        )
    )


class LabelOut(BaseModel):
    transaction_id: str
    known: bool = Field(description="The transaction was found, so the verdict counts from now on.")
    duplicate: bool


class LabelsResponse(BaseModel):
    accepted: int
    duplicates: int
    unknown: int
    labels: list[LabelOut]


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
    """The shape of every refusal. Of the input it names at most a number or a moment that is beyond a bound."""

    detail: list[ErrorItem]
