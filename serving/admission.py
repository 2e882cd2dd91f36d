"""What an event or a label may say.

Ingest takes what this lets through. An event that ingest would quarantine has already been decided on, and
the features of training and service would differ by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from feature_repo.times import from_us
from serving.contract.bounds import Bounds
from serving.contract.subject import Event, Feed, Number
from serving.messages import BadInput, FeedEvent, Label, ScoredEvent
from serving.settings import Clock

TURN = "`mlops serve --clock event --now DAY` goes on from another day"

Place = tuple[str | int, ...]


def check_numbers(scored: ScoredEvent, event: Event, bounds: Bounds) -> None:
    """`BadInput` for the first Number outside its range. Both ends of a range belong to it, NaN
    never does.
    """
    for column in event.columns:
        if not isinstance(column, Number) or (value := scored.values[column.name]) is None:
            continue
        low, high = bounds.range_of(column)
        if not low <= value <= high:  # type: ignore[operator]
            believed = column.name in event.believable and value > high  # type: ignore[operator]
            why = bounds.too_much(column) if believed else f"not from {low:.15g} to {high:.15g}"
            raise BadInput("bad_value", (event.noun, column.name), f"{value:.15g} is {why}")


def check_feed_numbers(event: FeedEvent, feed: Feed, place: Place) -> None:
    """`BadInput` for the first Number of a further feed's event outside the range that it declares."""
    for column in feed.columns:
        if not isinstance(column, Number) or (value := event.values[column.name]) is None:
            continue
        if not column.low <= value <= column.high:  # type: ignore[operator]
            why = f"{value:.15g} is not from {column.low:.15g} to {column.high:.15g}"
            raise BadInput("bad_value", (*place, column.name), why)


def arrival_us(
    clock: Clock, bounds: Bounds, noun: str, scored: ScoredEvent, clock_us: int, newest_us: int, now_us: int
) -> int:
    """When the platform learnt of an event that `check_times` lets through, as `learnt_us` says."""
    check_times(clock, bounds, (noun,), noun, scored, newest_us, now_us)
    return learnt_us(clock, scored, clock_us, now_us)


def check_times(
    clock: Clock,
    bounds: Bounds,
    place: Place,
    noun: str,
    event: ScoredEvent | FeedEvent,
    newest_us: int,
    now_us: int,
) -> None:
    """`BadInput` for an event that is too old or too far ahead; `place` is where it stands in the request.

    Where neither the lake nor the release nor an event says what time it is, there is no clock yet, and
    nothing is too far ahead of it.
    """
    event_us, given = event.event_us, event.created_us
    happened, learnt = (*place, "event_timestamp"), (*place, "created_timestamp")
    if clock == "wall":
        _check_lateness(bounds, happened, event_us, now_us, "now", "; --clock event replays past days")
        if given is not None:
            why = f"not accepted: the service runs on the wall clock, a {noun} is known when it arrives"
            raise BadInput("bad_value", learnt, why)
        if event_us > now_us + bounds.ahead_wall_us:
            limit = (
                f"more than {bounds.ahead_minutes:g} minutes ahead of the service's clock, {from_us(now_us)}"
            )
            raise BadInput("future", happened, f"{from_us(event_us)} is {limit} ([bounds] ahead_minutes)")
        return
    _check_lateness(bounds, happened, event_us, newest_us, "the newest event", f"; {TURN}")
    if given is not None and given < event_us:
        raise BadInput("bad_value", learnt, "before event_timestamp: nothing is known before it happens")
    for field, moment_us in ((happened, event_us), (learnt, given)):
        # `clock_us` is no measure here. What is known only later turns that clock further, and the next event
        # would go on from there.
        if moment_us is not None and newest_us and moment_us > newest_us + bounds.ahead_event_us:
            limit = f"more than {bounds.ahead_days:g} days ahead of the service's clock, {from_us(newest_us)}"
            raise BadInput("future", field, f"{from_us(moment_us)} is {limit} ([bounds] ahead_days; {TURN})")


def learnt_us(clock: Clock, event: ScoredEvent | FeedEvent, clock_us: int, now_us: int) -> int:
    """When the platform learnt of an event, by the service's clock, in microseconds since the epoch.

    On the wall clock that is now, or the event's own time if the sender's clock is ahead: nothing is known
    before it happens. On event time it is what the request says, or the event's own time. An event that came
    late is known a moment after all that was known already, so that no decision which was made without it
    seems to have known it.
    """
    if clock == "wall":
        return max(now_us, event.event_us)
    told_us = event.created_us or event.event_us
    return max(told_us, clock_us + 1) if event.event_us < clock_us else told_us


def check_labels(clock: Clock, bounds: Bounds, labels: Sequence[Label], clock_us: int) -> None:
    """`BadInput` for the first label whose time cannot be.

    On event time every label says when it became known. On the wall clock none does: it is now.
    """
    for number, label in enumerate(labels):
        field = ("labels", number, "label_timestamp")
        if clock == "wall":
            if label.label_us is not None:
                why = (
                    "not accepted: the service runs on the wall clock, a label becomes known when it arrives"
                )
                raise BadInput("bad_value", field, why)
        elif label.label_us is None:
            raise BadInput("bad_value", field, "required: the service runs on event time")
        elif clock_us and label.label_us > clock_us + bounds.ahead_label_us:
            days = f"{bounds.label_ahead_days:g} days"
            limit = f"more than {days} ahead of the service's clock, {from_us(clock_us)}"
            raise BadInput(
                "future", field, f"{from_us(label.label_us)} is {limit} ([bounds] label_ahead_days)"
            )


def _check_lateness(
    bounds: Bounds, field: tuple[str | int, ...], event_us: int, latest_us: int, latest: str, remedy: str
) -> None:
    if event_us < latest_us - bounds.lateness_us:
        limit = f"more than {bounds.lateness_days} days before {latest}, {from_us(latest_us)}"
        raise BadInput("late", field, f"{from_us(event_us)} is {limit} ([bounds] lateness_days{remedy})")
