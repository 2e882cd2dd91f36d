"""What a payment or a label may say. Ingest takes what this lets through: a payment that it would quarantine has already been decided on, and the
features of training and service would differ by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.contract.log import from_us
from serving.settings import DAY_US, ServingSettings
from serving.values import BadInput, Label, Transaction


def check_amount(amount: float, bounds: tuple[float, float]) -> None:
    """`bounds` are the release's own, or the service's where it has none; both ends belong to them, and NaN never does."""
    low, high = bounds
    if not low <= amount <= high:
        raise BadInput("bad_value", ("transaction", "amount"), f"not from {low:.15g} to {high:.15g}")


def arrival_us(settings: ServingSettings, transaction: Transaction, clock_us: int, newest_us: int, now_us: int) -> int:
    """When the platform learnt of a payment, by the service's clock; refuses one that is too old or too far ahead.

    On the wall clock that is now, or the payment's own time if the till's clock is ahead: nothing is known before it happens. On event time it is
    what the request says, or the payment's own time; one that came late is known a moment after all that was known already, so that no decision
    which was made without it seems to have known it.
    """
    event_us, given = transaction.event_us, transaction.created_us
    happened, learnt = ("transaction", "event_timestamp"), ("transaction", "created_timestamp")
    if event_us < newest_us - settings.limits.lateness_us:
        days = settings.limits.lateness_us / DAY_US
        raise BadInput("late", happened, f"more than {days:g} days before the newest event, {from_us(newest_us)}")
    if settings.clock == "wall":
        if given is not None:
            raise BadInput("bad_value", learnt, "not accepted: the service runs on the wall clock, a payment is known when it arrives")
        if event_us > now_us + settings.limits.future_us:
            raise BadInput("future", happened, f"ahead of the service's clock, {from_us(now_us)}")
        return max(now_us, event_us)
    if given is not None and given < event_us:
        raise BadInput("bad_value", learnt, "before event_timestamp: nothing is known before it happens")
    _check_jump(settings, event_us, clock_us, happened)
    if given is not None:
        _check_jump(settings, given, clock_us, learnt)
    learnt_us = given or event_us
    return max(learnt_us, clock_us + 1) if event_us < clock_us else learnt_us


def check_labels(settings: ServingSettings, labels: Sequence[Label], clock_us: int) -> None:
    """On event time every label says when it became known, otherwise none does: now is when. `BadInput` names the first that is wrong."""
    for number, label in enumerate(labels):
        field = ("labels", number, "label_timestamp")
        if settings.clock == "wall":
            if label.label_us is not None:
                raise BadInput("bad_value", field, "not accepted: the service runs on the wall clock, a label becomes known when it arrives")
        elif label.label_us is None:
            raise BadInput("bad_value", field, "required: the service runs on event time")
        else:
            _check_jump(settings, label.label_us, clock_us, field)


def _check_jump(settings: ServingSettings, at_us: int, clock_us: int, field: tuple[str | int, ...]) -> None:
    """One event of the far future would turn the clock of event time so far that all after it are late. Before the first event there is no clock."""
    if clock_us and at_us > clock_us + settings.limits.jump_us:
        raise BadInput("future", field, f"more than {settings.limits.jump_us / DAY_US:g} days ahead of the service's clock, {from_us(clock_us)}")
