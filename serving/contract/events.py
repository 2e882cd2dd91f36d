"""What a decision and a label mean for the online state.

One rule holds for the service that takes them and for a rebuild that replays its log. The rules read the log
through `EventLog`, which each serving store implements. Their caller commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from feature_repo.online.base import OnlineState, Versions
from serving.contract.subject import Feed, Number, Subject
from serving.contract.verdicts import verdict_events

VERDICTS = "verdicts"

Labels = Sequence[tuple[int, bool]]  # When it became known, and whether it is positive.


class LoggedEvent(NamedTuple):
    """An event as the log has it: id, keys and columns by name, its times in microseconds since the epoch,
    the decision, and when its silence meant negative.
    """

    event: Mapping[str, object]
    event_us: int
    created_us: int
    decision: str
    maturity_us: int


class FeedRow(NamedTuple):
    """An event of a further feed as the log has it: keys and columns by name, times in microseconds."""

    values: Mapping[str, object]
    event_us: int
    created_us: int


class EventLog(Protocol):
    """What the rules read of a log.

    The `..._since` methods give a few rows at a time, in commit order, from the rows that arrived at or after
    a moment. Each part is read when it is asked for, so that a caller can commit between two parts.
    """

    def find_event(self, event_id: str) -> LoggedEvent | None:
        """The event that was decided on under this id; None where the log has none."""

    def labels_of(self, event_id: str) -> list[tuple[int, bool]]:
        """Every label of an event that the log holds, or that waits for it in the lake, in the order in which
        they became known.
        """

    def events_since(self, since_us: int) -> Iterator[Sequence[LoggedEvent]]:
        """The events that were decided on."""

    def labelled_since(self, since_us: int) -> Iterator[Sequence[str]]:
        """The ids of the events of the labels, once for each label."""

    def feed_events_since(self, feed: Feed, since_us: int) -> Iterator[Sequence[FeedRow]]:
        """The events of a further feed."""


@dataclass(frozen=True)
class EventRecord:
    """One event as it was decided on, or as the lake has it.

    `event` holds the event's id, keys and columns by name. `withheld` says that silence says nothing, because
    no label comes unless a person looks. Times are microseconds since the epoch.
    """

    event: Mapping[str, object]
    event_us: int
    created_us: int
    withheld: bool
    maturity_us: int

    def verdicts(self, labels: Labels) -> list[tuple[int, bool]]:
        """The verdicts that these labels make, as (when it became known, is positive), in that order."""
        return verdict_events(self.event_us, labels, self.withheld, self.maturity_us, self.created_us)


class EventRules:
    """What decisions and labels of one use case mean for the online state."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        event = subject.event
        self._label = subject.labels.name
        # The columns that a verdict copies from its event.
        numbers = (column.name for column in event.columns if isinstance(column, Number))
        self._kept = (event.id, *(key.name for key in event.keys), *numbers)

    def withheld(self, decision: str | None) -> bool:
        """Whether silence says nothing of an event after this decision (None: nothing was decided)."""
        labels = self.subject.labels
        return labels.silence == "unknown" or decision in labels.withheld_by

    def add_event(self, state: OnlineState, record: EventRecord, labels: Labels) -> Versions:
        """Put the event into the state, and its verdicts. Returns the versions that this makes.

        Silence to come counts as a verdict, unless a label says otherwise. Raises `BadEvent` for a value that
        the features cannot use.
        """
        made = _push(state, self.subject.event.dataset, record.event, record.event_us, record.created_us)
        for known_us, positive in record.verdicts(labels):
            made |= _push(state, VERDICTS, self._verdict(record.event, positive), known_us, known_us)
        return made

    def add_feed_event(
        self, state: OnlineState, feed: Feed, values: Mapping[str, object], event_us: int, created_us: int
    ) -> Versions:
        """Put an event of a further feed into the state. Returns the versions that this makes.

        Raises `BadEvent` for a value that the features cannot use.
        """
        return _push(state, feed.name, values, event_us, created_us)

    def add_labels(self, state: OnlineState, record: EventRecord, before: Labels, new: Labels) -> Versions:
        """Bring the event's verdicts up to date after `new` labels. `before` are the labels until then.

        Returns the versions that this makes.
        """
        made: dict[str, int] = {}
        if VERDICTS not in state.plan.streams:
            return made
        stored = state.find_of(VERDICTS, str(record.event[self.subject.event.id]))
        present = {(_int(e["event_us"]), bool(e[self._label])) for e in stored}
        # Verdicts that came with the lake stand for labels that this log never held.
        of_the_log = {*record.verdicts([]), *record.verdicts(before), *record.verdicts([*before, *new])}
        wanted = set(record.verdicts([*before, *(present - of_the_log), *new]))
        for known_us, positive in present - wanted:
            verdict = self._verdict(record.event, positive)
            made |= state.remove(VERDICTS, state.plan.event_id(VERDICTS, verdict, known_us)) or {}
        for known_us, positive in wanted - present:
            made |= _push(state, VERDICTS, self._verdict(record.event, positive), known_us, known_us)
        return made

    def record_of(
        self, log: EventLog, state: OnlineState, event_id: str, maturity_us: int
    ) -> EventRecord | None:
        """The event from the log, or from the history that came with the lake; None where it is in neither.

        `maturity_us` applies to the history.
        """
        if (logged := log.find_event(event_id)) is not None:
            return self._record(logged)
        event = self.subject.event
        found = state.find(event.dataset, event_id) if event.dataset in state.plan.streams else None
        if found is None:
            return None
        known = {**found, event.id: event_id}
        event_us, created_us = _int(found["event_us"]), _int(found["created_us"])
        return EventRecord(known, event_us, created_us, self.withheld(None), maturity_us)

    def replay(self, log: EventLog, state: OnlineState, since_us: int, maturity_us: int) -> Iterator[int]:
        """Bring into a state what the log took at or after a moment.

        Yields the number of rows after each few, so that a caller can commit. A second replay changes
        nothing. A service may write the same events during a replay.
        """
        for events in log.events_since(since_us):
            for logged in events:
                self._replay_event(log, state, self._record(logged))
            yield len(events)
        for ids in log.labelled_since(since_us):
            for event_id in ids:
                if about := self.record_of(log, state, event_id, maturity_us):
                    self.add_labels(state, about, [], log.labels_of(event_id))
            yield len(ids)
        for feed in self.subject.feeds:
            for rows in log.feed_events_since(feed, since_us):
                for row in rows:
                    self.add_feed_event(state, feed, *row)
                yield len(rows)

    def _replay_event(self, log: EventLog, state: OnlineState, record: EventRecord) -> None:
        labels = log.labels_of(str(record.event[self.subject.event.id]))
        self.add_event(state, record, labels)
        if labels:  # The service may have taken the event before it knew of a label that waits.
            self.add_labels(state, record, [], labels)

    def _record(self, logged: LoggedEvent) -> EventRecord:
        withheld = self.withheld(logged.decision)
        return EventRecord(logged.event, logged.event_us, logged.created_us, withheld, logged.maturity_us)

    def _verdict(self, event: Mapping[str, object], positive: bool) -> dict[str, object]:
        return {**{name: event.get(name) for name in self._kept}, self._label: positive}


def _push(
    state: OnlineState, stream: str, event: Mapping[str, object], event_us: int, created_us: int
) -> dict[str, int]:
    """Put an event into the state. Returns the versions that this makes.

    A state has no place for a stream that no view reads. An event that the state has already makes none.
    """
    if stream not in state.plan.streams:
        return {}
    made = state.push(stream, state.plan.event_id(stream, event, event_us), event, event_us, created_us)
    return dict(made or ())


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {value!r}")
    return value
