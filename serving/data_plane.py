"""The data plane without transport: every protocol asks here for predictions and brings its labels here.

One request is one transaction of the store: the stored answer if the id is known, else vector, score,
decision, their record, and the event in the online state, all or nothing. So a vector was computed from
exactly what was committed before it, which its `read_seq` names.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.online.sqlite.transactions import transaction
from feature_repo.times import SECOND_US
from serving.admission import (
    arrival_us,
    check_feed_numbers,
    check_labels,
    check_numbers,
    check_times,
    learnt_us,
)
from serving.clock import as_of_us, lake_end_us
from serving.contract.bounds import Bounds
from serving.contract.events import EventRecord, EventRules
from serving.contract.policy import decide
from serving.contract.records import Answer
from serving.contract.subject import Subject
from serving.messages import (
    BadInput,
    Conflict,
    FeedEvent,
    FeedReceipt,
    Label,
    LabelReceipt,
    NoModel,
    PlaneError,
    ReadyVector,
    ScoredEvent,
    StoreBusy,
    UnknownStream,
)
from serving.releases import Champion
from serving.scoring import EventInputs, Vector, freshness_of, in_order, payload_digest, reasons
from serving.settings import ServingSettings
from serving.store.sqlite.database import open_database
from serving.store.sqlite.decision_log import DecisionLog
from serving.store.sqlite.feed_log import FeedLog
from serving.store.sqlite.log_tables import create_tables
from serving.store.sqlite.state_compatibility import agreed_us
from serving.store.sqlite.version_counts import Tally


@dataclass(frozen=True)
class _Sequence:
    last: int
    clock_us: int
    newest_us: int


class _Case:
    """What the plane does by the subject of its use case."""

    def __init__(self, subject: Subject, connection: sqlite3.Connection) -> None:
        self.subject, self.event = subject, subject.event
        self.rules, self.log = EventRules(subject), DecisionLog(connection, subject)
        self.inputs = EventInputs(subject.event)
        self.feeds = {feed.name: FeedLog(connection, feed) for feed in subject.feeds}


class DataPlane:
    """Predictions and labels over one connection to the store.

    Safe to call from several threads; several processes may share the file.
    """

    def __init__(
        self, settings: ServingSettings, champion: Callable[[], Champion | None], wall_us: Callable[[], int]
    ) -> None:
        self._settings, self._champion, self._wall_us = settings, champion, wall_us
        self.tally = Tally()
        self._lock = threading.RLock()
        self._state: SqliteOnlineState | None = None
        self._plan: FeaturePlan | None = None
        # Event time stands no earlier than what the home holds, so that a first request cannot turn it
        # anywhere.
        self._floor_us = lake_end_us(settings) if settings.clock == "event" else 0
        self._connection = open_database(settings.database, settings.fsync)
        stored = create_tables(self._connection)
        self._case = None if stored is None else _Case(stored, self._connection)

    @property
    def subject(self) -> Subject | None:
        """The use case of the release that serves, or of the log; None where neither is there yet."""
        champion = self._champion()
        if champion is not None:
            return champion.release.subject
        return self._case.subject if self._case else None

    def close(self) -> None:
        """Close the connection. Nothing can be asked after it."""
        with self._lock:
            self._connection.close()

    def predict_event(self, scored: ScoredEvent) -> Answer:
        """Score an event against its history, record the decision, and add the event to that history.

        Raises `NoModel`, `StoreBusy`, `Conflict`, or `BadInput` for an event too old, too far ahead, or with
        a value that cannot be used.
        """
        with self._one_commit() as (case, champion, state):
            return self._event(case, champion, state, scored)

    def predict_features(
        self, features: Mapping[str, float | None], prediction_id: str | None = None
    ) -> Answer:
        """Score a ready-made vector, which has to hold exactly the model's features, and record the decision.

        Raises `NoModel`, `StoreBusy`, `Conflict`, or `BadInput` for a feature that is missing or unknown.
        """
        with self._one_commit() as (case, champion, _):
            return self._ready(case, champion, ReadyVector(features, prediction_id))

    def predict_many(self, rows: Sequence[ScoredEvent | ReadyVector]) -> list[Answer | PlaneError]:
        """Answer rows as if they had been sent one after the other, in one commit.

        Each row has its own outcome, in the order of the rows: an answer, or the error that the row alone
        would have raised. A row that is refused leaves nothing. `StoreBusy`, and a fault of the service, is
        the whole batch's.
        """
        outcomes: list[Answer | PlaneError] = []
        with self._one_commit() as (case, champion, state):
            for row in rows:
                self._connection.execute("SAVEPOINT one_row")
                try:
                    answered = (
                        self._ready(case, champion, row)
                        if isinstance(row, ReadyVector)
                        else self._event(case, champion, state, row)
                    )
                    outcomes.append(answered)
                except PlaneError as error:
                    self._connection.execute("ROLLBACK TO one_row")
                    outcomes.append(error)
                self._connection.execute("RELEASE one_row")
        return outcomes

    def _event(
        self, case: _Case, champion: Champion | None, state: SqliteOnlineState | None, scored: ScoredEvent
    ) -> Answer:
        """One event within a transaction."""
        noun, values = case.event.noun, case.inputs.logged(scored)
        digest = payload_digest(noun, [scored.event_us, *values])
        if stored := _stored(case, scored.id, digest):
            return stored
        if champion is None or state is None:
            raise NoModel("no model is loaded yet")
        at, event_us = self._sequence(), scored.event_us
        bounds = champion.release.bounds
        check_numbers(scored, case.event, bounds)
        clock, now_us = self._settings.clock, self._wall_us()
        created_us = arrival_us(clock, bounds, noun, scored, at.clock_us, at.newest_us, now_us)
        vector, answer = self._answer(
            champion, scored.id, lambda: case.inputs.vector(state, scored), freshness_of(state, event_us)
        )
        times = (event_us, created_us)
        case.log.add(at.last + 1, noun, times, values, vector, answer, champion.maturity_us, digest)
        event = {case.event.id: scored.id, **scored.values}
        withheld = case.rules.withheld(answer.decision)
        record = EventRecord(event, event_us, created_us, withheld, champion.maturity_us)
        try:
            case.rules.add_event(state, record, case.rules.labels_of(self._connection, scored.id))
        except BadEvent as error:
            raise BadInput("bad_value", (noun, error.field), str(error)) from error
        state.settle()
        self._connection.execute(
            "UPDATE sequence SET last = ?, clock_us = ?, newest_us = ?",
            (at.last + 1, max(at.clock_us, created_us), max(at.newest_us, event_us)),
        )
        return answer

    def _ready(self, case: _Case, champion: Champion | None, row: ReadyVector) -> Answer:
        """One ready-made vector within a transaction."""
        prediction_id = uuid.uuid4().hex if row.prediction_id is None else row.prediction_id
        digest = payload_digest("features", row.features)
        if row.prediction_id is not None and (stored := _stored(case, prediction_id, digest)):
            return stored
        if champion is None:
            raise NoModel("no model is loaded yet")
        ordered = in_order(row.features, champion.release.features)
        at = self._sequence()
        now = self._wall_us() if self._settings.clock == "wall" or not at.clock_us else at.clock_us
        vector, answer = self._answer(champion, prediction_id, lambda: ordered, {})
        seq, maturity_us = at.last + 1, champion.maturity_us
        case.log.add(seq, "features", (now, now), None, vector, answer, maturity_us, digest)
        self._connection.execute("UPDATE sequence SET last = ?", (seq,))
        return answer

    def check_labels(self, labels: Sequence[Label]) -> None:
        """Whether the labels' times can be accepted, by the clock as it stands now.

        `BadInput` names the first that cannot.
        """
        with self._one_commit() as (_, champion, _state):
            bounds = champion.release.bounds if champion else Bounds()
            check_labels(self._settings.clock, bounds, labels, self._sequence().clock_us)

    def add_labels(self, labels: Sequence[Label], checked: bool = False) -> list[LabelReceipt]:
        """Record labels and bring the verdicts of their events up to date, in one commit.

        An event that is nowhere to be found leaves its label in the log with `known` false. The same label
        again changes nothing. `checked`: they are a part of what `check_labels` has seen as a whole, which
        must not be refused half-way.
        """
        if not checked:
            self.check_labels(labels)
        with self._one_commit() as (case, champion, state):
            if champion is None or state is None:
                raise NoModel("no model is loaded yet: what a label means for the features cannot be said")
            receipts = [self._add_label(case, champion, state, label) for label in labels]
            state.settle()
            return receipts

    def _add_label(
        self, case: _Case, champion: Champion, state: SqliteOnlineState, label: Label
    ) -> LabelReceipt:
        record = case.rules.record_of(self._connection, state, label.event_id, champion.maturity_us)
        at, before = self._sequence(), case.rules.labels_of(self._connection, label.event_id)
        # A label is known no sooner than what was known already: a decision that was made without it must not
        # seem to have known it. Each label of an event has a moment of its own, for two at once would be one
        # event.
        label_us = self._wall_us() if label.label_us is None else max(label.label_us, at.clock_us)
        label_us = max(label_us, before[-1][0] + 1) if before else label_us
        known = record is not None
        if not case.log.add_label(
            at.last + 1, label.event_id, label.positive, label_us, known, label.label_us
        ):
            return LabelReceipt(label.event_id, known, duplicate=True)
        # A label turns no clock: what is known of an event later on is no evidence of what time it is.
        self._connection.execute("UPDATE sequence SET last = ?", (at.last + 1,))
        if record is not None:
            case.rules.add_labels(state, record, before, [(label_us, label.positive)])
        return LabelReceipt(label.event_id, known, duplicate=False)

    def check_events(self, feed: str, events: Sequence[FeedEvent]) -> None:
        """Whether events of a further feed can be accepted, by the clock as it stands now.

        `UnknownStream` for a feed that the use case does not declare. `BadInput` names the first event that
        cannot.
        """
        with self._one_commit() as (case, champion, _state):
            declared, at = _feed(case, feed).feed, self._sequence()
            bounds = champion.release.bounds if champion else Bounds()
            now_us = self._wall_us()
            for number, event in enumerate(events):
                place = ("events", number)
                check_feed_numbers(event, declared, place)
                check_times(self._settings.clock, bounds, place, declared.noun, event, at.newest_us, now_us)

    def add_events(self, feed: str, events: Sequence[FeedEvent], checked: bool = False) -> list[FeedReceipt]:
        """Record events of a further feed, and bring them into the online state, in one commit.

        The same event again changes nothing; the same id with other values is a `conflict` and changes
        nothing either. `checked`: the events are a part of what `check_events` has seen as a whole, which
        must not be refused half-way.
        """
        if not checked:
            self.check_events(feed, events)
        with self._one_commit() as (case, champion, state):
            if champion is None or state is None:
                raise NoModel("no model is loaded yet")
            log = _feed(case, feed)
            receipts = [self._add_feed_event(case, state, log, event) for event in events]
            state.settle()
            return receipts

    def _add_feed_event(
        self, case: _Case, state: SqliteOnlineState, log: FeedLog, event: FeedEvent
    ) -> FeedReceipt:
        name = log.id_of(event.event_us, event.values)
        if (known := log.holds(name, event.event_us, event.values)) is not None:
            return FeedReceipt(name, "duplicate" if known else "conflict")
        at = self._sequence()
        created_us = learnt_us(self._settings.clock, event, at.clock_us, self._wall_us())
        log.add(at.last + 1, name, event.event_us, created_us, event.values)
        try:
            case.rules.add_feed_event(state, log.feed, event.values, event.event_us, created_us)
        except BadEvent as error:
            raise BadInput("bad_value", ("events", error.field), str(error)) from error
        # An event of a further feed turns no clock: it is no evidence of what time it is for the scored ones.
        self._connection.execute("UPDATE sequence SET last = ?", (at.last + 1,))
        return FeedReceipt(name, "accepted")

    def _answer(
        self,
        champion: Champion,
        prediction_id: str,
        vector_of: Callable[[], Vector],
        freshness: Mapping[str, float | None],
    ) -> tuple[Vector, Answer]:
        """What the version makes of an event, counted with the time that it took, or as its failure."""
        release, began = champion.release, time.thread_time()  # What waits for a busy machine is not slow.
        decisions = release.subject.decisions
        try:
            vector = vector_of()
            row = [math.nan if value is None else value for value in vector.values()]
            score = champion.scorer.score_one(row)
            decision = decide(score, release.policy, decisions)
            told = () if decision == decisions.passes else reasons(champion.scorer, vector, row)
        except (PlaneError, BadEvent, sqlite3.Error):
            raise  # The client's doing, or the store's.
        except Exception:
            self.tally.failed(champion.version)
            raise
        self.tally.scored(champion.version, decision != decisions.passes, time.thread_time() - began)
        limits = {view.name: view.stale_us / SECOND_US for view in release.plan.views if view.stale_us}
        degraded = any(
            name in limits and (age is None or age > limits[name]) for name, age in freshness.items()
        )
        policy, version = release.policy, champion.version
        return vector, Answer(
            prediction_id, score, decision, policy.review, policy.block, version, told, degraded, freshness
        )

    def _known_us(self, champion: Champion) -> int:
        """What the release, and a state that no request has touched yet, say of event time."""
        if self._settings.clock == "wall":
            return 0
        untouched = not any(self._connection.execute("SELECT clock_us, newest_us FROM sequence").fetchone())
        return max(
            as_of_us(champion.release),
            agreed_us(self._connection, champion.release.subject.event.dataset) if untouched else 0,
        )

    def _sequence(self) -> _Sequence:
        last, clock_us, newest_us = self._connection.execute(
            "SELECT last, clock_us, newest_us FROM sequence"
        ).fetchone()
        return _Sequence(last, max(clock_us, self._floor_us), max(newest_us, self._floor_us))

    @contextmanager
    def _one_commit(self) -> Iterator[tuple[_Case, Champion | None, SqliteOnlineState | None]]:
        """All or nothing, under one champion from beginning to end."""
        with self._lock:
            champion = self._champion()
            if champion is not None and champion.release.plan is not self._plan:
                self._take(champion)
            if self._case is None:
                raise NoModel("no model is loaded yet")
            with self._committed():
                if self._state is not None:
                    self._state.follow()  # A rebuild may have put a new generation in place.
                yield self._case, champion, self._state

    def _take(self, champion: Champion) -> None:
        """Open the state by the plan of a release, and the log by its subject."""
        subject, plan = champion.release.subject, champion.release.plan
        if self._case is None or self._case.subject != subject:
            create_tables(self._connection, subject)
            self._case = _Case(subject, self._connection)
        with self._committed():
            self._state, self._plan = SqliteOnlineState(self._connection, plan), plan
            self._floor_us = max(self._floor_us, self._known_us(champion))

    @contextmanager
    def _committed(self) -> Iterator[None]:
        try:
            with transaction(self._connection):
                yield
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusy("the online store is locked") from error
            raise


def _stored(case: _Case, prediction_id: str, digest: bytes) -> Answer | None:
    found = case.log.find(prediction_id)
    if found is None:
        return None
    answer, asked = found
    if asked != digest:
        raise Conflict(prediction_id)
    return answer


def _feed(case: _Case, name: str) -> FeedLog:
    if name not in case.feeds:
        raise UnknownStream(name, tuple(case.feeds))
    return case.feeds[name]
