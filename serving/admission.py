"""What a payment or a label may say.

Ingest takes what this lets through: a payment that it would quarantine has already been decided on, and the
features of training and service would differ by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.contract.bounds import Bounds
from serving.messages import BadInput, Label, Transaction
from serving.settings import Clock
from serving.store.sqlite.decision_log import from_us

TURN = "`mlops serve --clock event --now DAY` goes on from another day"


def check_amount(amount: float, bounds: Bounds) -> None:
    """Both ends of the range belong to it, and NaN never does."""
    low, high = bounds.amount_range
    if not low <= amount <= high:
        why = bounds.too_much if amount > high else f"not from {low:.15g} to {high:.15g}"
        raise BadInput("bad_value", ("transaction", "amount"), f"{amount:.15g} is {why}")


def arrival_us(
    clock: Clock, bounds: Bounds, transaction: Transaction, clock_us: int, newest_us: int, now_us: int
) -> int:
    """When the platform learnt of a payment, by the service's clock; refuses one that is too old or too far
    ahead.

    On the wall clock that is now, or the payment's own time if the till's clock is ahead: nothing is known
    before it happens. On event time it is what the request says, or the payment's own time; one that came
    late is known a moment after all that was known already, so that no decision which was made without it
    seems to have known it. Where nothing says what time it is, neither the lake nor the release nor a
    payment, there is no clock yet, and nothing is too far ahead of it.
    """
    event_us, given = transaction.event_us, transaction.created_us
    happened, learnt = ("transaction", "event_timestamp"), ("transaction", "created_timestamp")
    if clock == "wall":
        _check_lateness(bounds, event_us, now_us, "now", "; --clock event replays past days")
        if given is not None:
            raise BadInput(
                "bad_value",
                learnt,
                "not accepted: the service runs on the wall clock, a payment is known when it arrives",
            )
        if event_us > now_us + bounds.ahead_wall_us:
            limit = (
                f"more than {bounds.ahead_minutes:g} minutes ahead of the service's clock, {from_us(now_us)}"
                " ([bounds] ahead_minutes)"
            )
            raise BadInput("future", happened, f"{from_us(event_us)} is {limit}")
        return max(now_us, event_us)
    _check_lateness(bounds, event_us, newest_us, "the newest event", f"; {TURN}")
    if given is not None and given < event_us:
        raise BadInput("bad_value", learnt, "before event_timestamp: nothing is known before it happens")
    for field, moment_us in ((happened, event_us), (learnt, given)):
        # Not of `clock_us`: what is known only later turns that further, and the next payment would go on
        # from there.
        if moment_us is not None and newest_us and moment_us > newest_us + bounds.ahead_event_us:
            limit = f"more than {bounds.ahead_days:g} days ahead of the service's clock, {from_us(newest_us)}"
            raise BadInput("future", field, f"{from_us(moment_us)} is {limit} ([bounds] ahead_days; {TURN})")
    learnt_us = given or event_us
    return max(learnt_us, clock_us + 1) if event_us < clock_us else learnt_us


def check_labels(clock: Clock, bounds: Bounds, labels: Sequence[Label], clock_us: int) -> None:
    """On event time every label says when it became known, otherwise none does: now is when.

    `BadInput` names the first that is wrong.
    """
    for number, label in enumerate(labels):
        field = ("labels", number, "label_timestamp")
        if clock == "wall":
            if label.label_us is not None:
                raise BadInput(
                    "bad_value",
                    field,
                    "not accepted: the service runs on the wall clock, a label becomes known when it arrives",
                )
        elif label.label_us is None:
            raise BadInput("bad_value", field, "required: the service runs on event time")
        elif clock_us and label.label_us > clock_us + bounds.ahead_label_us:
            limit = (
                f"more than {bounds.label_ahead_days:g} days ahead of the service's clock,"
                f" {from_us(clock_us)}"
            )
            raise BadInput(
                "future", field, f"{from_us(label.label_us)} is {limit} ([bounds] label_ahead_days)"
            )


def _check_lateness(bounds: Bounds, event_us: int, latest_us: int, latest: str, remedy: str) -> None:
    if event_us < latest_us - bounds.lateness_us:
        limit = (
            f"more than {bounds.lateness_days} days before {latest}, {from_us(latest_us)} ([bounds]"
            f" lateness_days{remedy})"
        )
        raise BadInput("late", ("transaction", "event_timestamp"), f"{from_us(event_us)} is {limit}")
