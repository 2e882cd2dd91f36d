"""The data plane without transport: every protocol asks here for predictions and brings its labels here.

Of a request, all is kept or nothing: the stored answer if the id is known, else vector, score, decision,
their record, and the event in the online state. A commit holds one request or several, one after the other.
So a vector was computed from exactly what came before it in the log. The versions in its record name that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from feature_repo.engine.plan import FeaturePlan
from serving.clock import as_of_us, lake_end_us
from serving.contract.bounds import Bounds
from serving.contract.records import Answer
from serving.contract.subject import Event, Number, Subject, Text
from serving.deciding.admission import Moment, check_feed_event, check_labels
from serving.deciding.open_decisions import OpenDecision, Repeat, RowFailed
from serving.deciding.recording import Recorder, new_id
from serving.messages import (
    FeedEvent,
    FeedReceipt,
    Label,
    LabelReceipt,
    NoModel,
    PlaneError,
    ReadyVector,
    ScoredEvent,
)
from serving.releases import Champion
from serving.settings import ServingSettings
from serving.store.base import ServingStore, StoreError
from serving.store.version_counts import VersionCounts

Result = TypeVar("Result")
WARM_UPS = 20  # Python has compiled for the types that it meets, and each page was read once.
EXAMPLE = "warm-up"


class DataPlane:
    """Predictions, labels and events of further feeds, over one store, which is the plane's own.

    Several threads may use a plane at once. Several processes may have a plane on the same store each.
    """

    def __init__(
        self,
        settings: ServingSettings,
        store: ServingStore,
        champion: Callable[[], Champion | None],
        wall_us: Callable[[], int],
    ) -> None:
        self._settings, self._store = settings, store
        self._champion, self._wall_us = champion, wall_us
        self.counts = VersionCounts()
        self._lock = threading.RLock()
        self._plan: FeaturePlan | None = None
        # Event time is never earlier than the home's newest event, so that a first request with a wrong date
        # cannot set it.
        self._floor_us = lake_end_us(settings) if settings.clock == "event" else 0
        self._recorder = None if store.subject is None else Recorder(store, store.subject, self.counts)

    @property
    def subject(self) -> Subject | None:
        """The use case of the release that serves, or of the log; None where neither is there yet."""
        champion = self._champion()
        return self._store.subject if champion is None else champion.release.subject

    def close(self) -> None:
        """Close the store. Nothing can be asked after it."""
        with self._lock:
            self._store.close()

    def warm_up(self, champion: Champion) -> None:
        """Open the online state by a release's plan and decide as a request does. Nothing of it is kept.

        Otherwise the first request takes ten times as long. `StoreError` where the store cannot be used.
        """
        with self._lock:
            self._take(champion)
            subject, bounds = champion.release.subject, champion.release.bounds
            recorder = Recorder(self._store, subject, VersionCounts())
            for _ in range(WARM_UPS):
                with suppress(_Undone), self._store.one_commit():
                    recorder.begin(champion)
                    at = self._moment()
                    with suppress(PlaneError):
                        recorder.decide_event(0, _example(subject.event, bounds, at), at)
                        recorder.end()
                    raise _Undone

    def between_requests(self, work: Callable[[ServingStore], Result]) -> Result:
        """Call a function on the plane's store while no request uses it. Requests wait for its end."""
        with self._lock:
            return work(self._store)

    def predict_many(self, rows: Sequence[ScoredEvent | ReadyVector]) -> list[Answer | Exception]:
        """Answer rows as if they had been sent one after the other, in one commit.

        A row is scored, and its decision is recorded. An event is scored against its history and added to it.
        A ready-made vector has to hold exactly the model's features.

        Each row has its own outcome, in the order of the rows: an answer, or an error. That is `Conflict`,
        `BadInput` for an event too old or too far ahead, for a value that cannot be used and for a feature
        that is missing or unknown, or a fault of the service. A row that has no answer leaves nothing. Raises
        `NoModel` and `StoreError` for all rows, and leaves nothing then.
        """
        failed: dict[int, RowFailed] = {}
        ids = [one for one in map(_id_of, rows) if one is not None]
        while True:
            try:
                with self._one_commit(ids) as (recorder, champion):
                    outcomes = [
                        failed[number].error if number in failed else self._outcome(recorder, number, row)
                        for number, row in enumerate(rows)
                    ]
                    recorder.end()
            except RowFailed as failure:
                failed[failure.number] = failure
                continue
            for one in failed.values():
                if one.by_version and champion is not None:
                    self.counts.failed(champion.version)
            return [_answered(one) for one in outcomes]

    def _outcome(
        self, recorder: Recorder, number: int, row: ScoredEvent | ReadyVector
    ) -> Answer | OpenDecision | Repeat | Exception:
        """The outcome of a row within a commit. What can be refused is refused before the row writes.

        A fault after that is rare. So it undoes the commit, which begins again without the row. A savepoint
        for every row would cost each of them a tenth of its time.
        """
        before = self._store.changes
        try:
            if isinstance(row, ReadyVector):
                return recorder.decide_vector(number, row, self._moment())
            return recorder.decide_event(number, row, self._moment())
        except Exception as error:
            if isinstance(error, (StoreError, RowFailed)) or self._store.owns(error):
                raise
            if self._store.changes != before:
                raise RowFailed(number, error) from error
            return error

    def check_labels(self, labels: Sequence[Label]) -> None:
        """Whether the labels' times can be accepted, by the clock as it stands now.

        `BadInput` names the first label that cannot.
        """
        with self._one_commit() as (_, champion):
            check_labels(self._settings.clock, _bounds(champion), labels, self._moment().clock_us)

    def add_labels(self, labels: Sequence[Label], checked: bool = False) -> list[LabelReceipt]:
        """Record labels and bring the verdicts of their events up to date, in one commit.

        An event that is nowhere to be found leaves its label in the log with `known` false. The same label
        again changes nothing. `checked`: the labels are a part of what `check_labels` has seen as a whole,
        which must not be refused half-way.
        """
        if not checked:
            self.check_labels(labels)
        with self._one_commit() as (recorder, champion):
            if champion is None:
                raise NoModel("no model is loaded yet: what a label means for the features cannot be said")
            return [recorder.add_label(champion, label, self._moment()) for label in labels]

    def check_events(self, feed: str, events: Sequence[FeedEvent]) -> None:
        """Whether events of a further feed can be accepted, by the clock as it stands now.

        `UnknownStream` for a feed that the use case does not declare. `BadInput` names the first event that
        cannot be accepted.
        """
        with self._one_commit() as (recorder, champion):
            declared, at = recorder.feed(feed), self._moment()
            for number, event in enumerate(events):
                check_feed_event(declared, _bounds(champion), event, number, at)

    def add_events(self, feed: str, events: Sequence[FeedEvent], checked: bool = False) -> list[FeedReceipt]:
        """Record events of a further feed, and bring them into the online state, in one commit.

        The same event again changes nothing. The same id with other values is a `conflict`, and changes
        nothing either. `checked`: the events are a part of what `check_events` has seen as a whole, which
        must not be refused half-way.
        """
        if not checked:
            self.check_events(feed, events)
        with self._one_commit() as (recorder, champion):
            if champion is None:
                raise NoModel("no model is loaded yet")
            declared = recorder.feed(feed)
            return [recorder.add_feed_event(declared, event, self._moment()) for event in events]

    def _moment(self) -> Moment:
        """Where the log and the clocks stand, within a commit."""
        position, floor_us = self._store.position(), self._floor_us
        clock_us, newest_us = max(position.clock_us, floor_us), max(position.newest_us, floor_us)
        return Moment(self._settings.clock, position, clock_us, newest_us, self._wall_us())

    @contextmanager
    def _one_commit(self, ids: Sequence[str] = ()) -> Iterator[tuple[Recorder, Champion | None]]:
        """All or nothing, under one champion from beginning to end. `ids` are those that are asked for."""
        with self._lock:
            champion = self._champion()
            if champion is not None and champion.release.plan is not self._plan:
                self._take(champion)
            if self._recorder is None:
                raise NoModel("no model is loaded yet")
            with self._store.one_commit():
                self._recorder.begin(champion, ids)
                yield self._recorder, champion
            self._recorder.count()

    def _take(self, champion: Champion) -> None:
        """Hold a release: the log by its subject, the online state by its plan."""
        subject, plan = champion.release.subject, champion.release.plan
        self._store.hold(subject, plan)
        if self._recorder is None or self._recorder.subject != subject:
            self._recorder = Recorder(self._store, subject, self.counts)
        if self._settings.clock == "event":
            self._floor_us = max(self._floor_us, self._known_us(champion))
        self._plan = plan

    def _known_us(self, champion: Champion) -> int:
        """What the release, and a state that no request has touched yet, say of event time."""
        with self._store.one_commit():
            _, clock_us, newest_us = self._store.position()
            stream = champion.release.subject.event.dataset
            agreed_us = 0 if clock_us or newest_us else self._store.agreed_us(stream)
        return max(as_of_us(champion.release), agreed_us)


class _Undone(Exception):
    """Undoes a commit."""


def _answered(outcome: Answer | OpenDecision | Repeat | Exception) -> Answer | Exception:
    if isinstance(outcome, Repeat):
        return replace(_answer_of(outcome.of), repeated=True)
    return _answer_of(outcome) if isinstance(outcome, OpenDecision) else outcome


def _answer_of(decision: OpenDecision) -> Answer:
    assert decision.answer is not None, "its commit put it on record"
    return decision.answer


def _id_of(row: ScoredEvent | ReadyVector) -> str | None:
    return row.prediction_id if isinstance(row, ReadyVector) else row.id


def _example(event: Event, bounds: Bounds, at: Moment) -> ScoredEvent:
    """An event of now, of an id and keys that nobody has."""
    values: dict[str, object] = {key.name: EXAMPLE for key in event.keys}
    for column in event.columns:
        if isinstance(column, Number):
            values[column.name] = bounds.range_of(column)[0]
        else:
            values[column.name] = EXAMPLE if isinstance(column, Text) else False
    return ScoredEvent(new_id(at.now_us), at.now_us if at.clock == "wall" else at.newest_us, values)


def _bounds(champion: Champion | None) -> Bounds:
    return champion.release.bounds if champion else Bounds()
