"""What goes into the data plane, what comes out, and why it may refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.contract.policy import Decision


class PlaneError(Exception):
    """A request that the plane does not answer with a prediction."""


class NoModel(PlaneError):
    """Nothing can serve yet."""


class StoreBusy(PlaneError):
    """Another process holds the lock of serving.db. Nothing happened; the request may be tried again."""


class Conflict(PlaneError):
    """The id was answered before, for another payload."""

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        super().__init__(f"{prediction_id!r} was answered before, for another payload")


class BadInput(PlaneError):
    """A value that the plane refuses; `kind` is one of the counted refusals, `field` the path in the request."""

    def __init__(self, kind: str, field: tuple[str | int, ...], message: str) -> None:
        self.kind, self.field, self.message = kind, field, message
        super().__init__(message)


@dataclass(frozen=True)
class Transaction:
    """A payment to be decided on.

    `event_us` is its time in microseconds since the epoch; `created_us`, in simulated time only, is when it
    came.
    """

    transaction_id: str
    event_us: int
    customer_id: str
    merchant_id: str
    amount: float
    is_declined: bool = False
    created_us: int | None = None

    def event(self) -> dict[str, object]:
        return {
            "transaction_id": self.transaction_id,
            "customer_id": self.customer_id,
            "merchant_id": self.merchant_id,
            "amount": self.amount,
            "is_declined": self.is_declined,
        }


@dataclass(frozen=True)
class Label:
    """What became known of a transaction. `label_us` is given in simulated time only."""

    transaction_id: str
    is_fraud: bool
    label_us: int | None = None


@dataclass(frozen=True)
class Reason:
    """A feature that moved the score most; `contribution` in log-odds, positive towards fraud."""

    feature: str
    value: float | None
    contribution: float


@dataclass(frozen=True)
class Answer:
    """`threshold` is where a decision stops being ALLOW, `block_threshold` where it becomes BLOCK.

    `freshness` is, for each feature view, how many seconds before the transaction its newest event was (None:
    it has none); `degraded`, that one of them is staler than its declaration allows.
    """

    prediction_id: str
    fraud_score: float
    decision: Decision
    threshold: float
    block_threshold: float
    model_version: str
    reasons: tuple[Reason, ...]
    degraded: bool
    freshness: Mapping[str, float | None]
    repeated: bool = False


@dataclass(frozen=True)
class LabelReceipt:
    """`known`: the transaction was found, so its verdict counts from now on.

    `duplicate`: this very label was here already.
    """

    transaction_id: str
    known: bool
    duplicate: bool
