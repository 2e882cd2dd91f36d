"""Which events and labels the service accepts.

Ingest accepts the same. Otherwise ingest would quarantine an event that was decided on, and the features of
training and service would differ by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feature_repo.times import from_us
from serving.contract.bounds import Bounds
from serving.contract.subject import Event, Feed, Number
from serving.messages import BadInput, FeedEvent, Label, ScoredEvent
from serving.settings import Clock
from serving.store.base import Position

TURN = "`mlops serve --clock event --now DAY` goes on from another day"

Place = tuple[str | int, ...]


class Moment(NamedTuple):
    """Where the log and the clocks stand when a request is answered, in microseconds since the epoch.

    `clock_us` is event time: when the newest event became known. `newest_us` is when the newest event
    happened. Neither is earlier than the home's and the release's own time. `now_us` is the machine's clock.
    """

    clock: Clock
    position: Position
    clock_us: int
    newest_us: int
    now_us: int


def check_event(event: Event, bounds: Bounds, scored: ScoredEvent, at: Moment) -> None:
    """`BadInput` for a Number outside its range, or a time too old or too far ahead.

    Both ends of a range belong to it. NaN never does.
    """
    for column in event.columns:
        if not isinstance(column, Number) or (value := scored.values[column.name]) is None:
            continue
        low, high = bounds.range_of(column)
        if not low <= value <= high:  # type: ignore[operator]
            believed = column.name in event.believable and value > high  # type: ignore[operator]
            why = bounds.too_much(column) if believed else f"not from {low:.15g} to {high:.15g}"
            raise BadInput("bad_value", (event.noun, column.name), f"{value:.15g} is {why}")
    _check_times(bounds, (event.noun,), event.noun, scored, at)


def check_feed_event(feed: Feed, bounds: Bounds, event: FeedEvent, number: int, at: Moment) -> None:
    """`BadInput` for the event of this number in a request, where a Number is outside its declared range, or
    a time too old or too far ahead.
    """
    place = ("events", number)
    for column in feed.columns:
        if not isinstance(column, Number) or (value := event.values[column.name]) is None:
            continue
        if not column.low <= value <= column.high:  # type: ignore[operator]
            why = f"{value:.15g} is not from {column.low:.15g} to {column.high:.15g}"
            raise BadInput("bad_value", (*place, column.name), why)
    _check_times(bounds, place, feed.noun, event, at)


def learnt_us(event: ScoredEvent | FeedEvent, at: Moment) -> int:
    """When the platform learnt of an event, by the service's clock, in microseconds since the epoch.

    On the wall clock that is now, or the event's own time if the sender's clock is ahead: nothing is known
    before it happens. On event time it is what the request says, or the event's own time. A late event is
    recorded as known a moment after everything that was known already, so that no decision which was made
    without it seems to have known it.
    """
    if at.clock == "wall":
        return max(at.now_us, event.event_us)
    told_us = event.created_us or event.event_us
    return max(told_us, at.clock_us + 1) if event.event_us < at.clock_us else told_us


def check_labels(clock: Clock, bounds: Bounds, labels: Sequence[Label], clock_us: int) -> None:
    """`BadInput` for the first label whose time cannot be.

    On event time every label has its time. On the wall clock no label has one, because it becomes known when
    it arrives.
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


def _check_times(bounds: Bounds, place: Place, noun: str, event: ScoredEvent | FeedEvent, at: Moment) -> None:
    """`BadInput` for an event that is too old or too far ahead; `place` is where it stands in the request.

    Where neither the lake nor the release nor an event says what time it is, there is no clock yet, and
    nothing is too far ahead of it.
    """
    event_us, given = event.event_us, event.created_us
    happened, learnt = (*place, "event_timestamp"), (*place, "created_timestamp")
    if at.clock == "wall":
        _check_lateness(bounds, happened, event_us, at.now_us, "now", "; --clock event replays past days")
        if given is not None:
            why = f"not accepted: the service runs on the wall clock, a {noun} is known when it arrives"
            raise BadInput("bad_value", learnt, why)
        if event_us > at.now_us + bounds.ahead_wall_us:
            now, minutes = from_us(at.now_us), f"{bounds.ahead_minutes:g} minutes"
            limit = f"more than {minutes} ahead of the service's clock, {now}"
            raise BadInput("future", happened, f"{from_us(event_us)} is {limit} ([bounds] ahead_minutes)")
        return
    newest_us = at.newest_us
    _check_lateness(bounds, happened, event_us, newest_us, "the newest event", f"; {TURN}")
    if given is not None and given < event_us:
        raise BadInput("bad_value", learnt, "before event_timestamp: nothing is known before it happens")
    for field, moment_us in ((happened, event_us), (learnt, given)):
        # `clock_us` is no measure here. An event that is known late turns that clock further, and the next
        # event would go on from there.
        if moment_us is not None and newest_us and moment_us > newest_us + bounds.ahead_event_us:
            limit = f"more than {bounds.ahead_days:g} days ahead of the service's clock, {from_us(newest_us)}"
            raise BadInput("future", field, f"{from_us(moment_us)} is {limit} ([bounds] ahead_days; {TURN})")


def _check_lateness(
    bounds: Bounds, field: tuple[str | int, ...], event_us: int, latest_us: int, latest: str, remedy: str
) -> None:
    if event_us < latest_us - bounds.lateness_us:
        limit = f"more than {bounds.lateness_days} days before {latest}, {from_us(latest_us)}"
        raise BadInput("late", field, f"{from_us(event_us)} is {limit} ([bounds] lateness_days{remedy})")
