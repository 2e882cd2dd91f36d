"""What a request leaves behind: a decision, a label or an event of a feed, in the log and the online state.

All of it happens within a commit that the data plane owns.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping

from feature_repo.engine.columns import BadEvent
from serving.contract.events import EventRecord, EventRules
from serving.contract.outcome import Vector, outcome_of
from serving.contract.records import Answer
from serving.contract.subject import Feed, Subject
from serving.deciding.admission import Moment, check_event, learnt_us
from serving.deciding.scoring import (
    EventInputs,
    freshness_of,
    in_order,
    is_degraded,
    payload_digest,
)
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
    UnknownStream,
)
from serving.releases import Champion
from serving.store.base import DecisionRow, FeedEventRow, LabelRow, Position, ServingStore
from serving.store.version_counts import VersionCounts


class Recorder:
    """Decides and records by the subject of one use case. The caller opens the commit."""

    def __init__(self, store: ServingStore, subject: Subject, counts: VersionCounts) -> None:
        self.subject = subject
        self._store, self._counts, self._event = store, counts, subject.event
        self._rules, self._inputs = EventRules(subject), EventInputs(subject.event)
        self._feeds = {feed.name: feed for feed in subject.feeds}
        self._scored: list[tuple[str, bool, float]] = []  # In the open commit.

    def begin(self) -> None:
        """At the beginning of a commit. What the one before left uncounted was undone."""
        self._scored.clear()

    def count(self) -> None:
        """After a commit: count its decisions for their versions."""
        for version, alarm, seconds in self._scored:
            self._counts.scored(version, alarm, seconds)

    def decide_event(self, champion: Champion | None, scored: ScoredEvent, at: Moment) -> Answer:
        """Score an event against its history, and add it to that history.

        Raises `NoModel`, `Conflict`, or `BadInput` for a time or a value that cannot be used.
        """
        noun, values = self._event.noun, self._inputs.logged(scored)
        digest = payload_digest(noun, [scored.event_us, *values])
        if stored := self._stored(scored.id, digest):
            return stored
        if champion is None:
            raise NoModel("no model is loaded yet")
        check_event(self._event, champion.release.bounds, scored, at)
        event_us, created_us, seq = scored.event_us, learnt_us(scored, at), at.position.last + 1
        state, keys, maturity_us = self._store.state, self._inputs.keys(scored), champion.maturity_us
        vector, answer = self._answer(
            champion,
            scored.id,
            lambda: self._inputs.vector(state, scored, keys),
            freshness_of(state, event_us),
        )
        read = state.versions(keys)
        event = {self._event.id: scored.id, **scored.values}
        withheld = self._rules.withheld(answer.decision)
        record = EventRecord(event, event_us, created_us, withheld, maturity_us)
        try:
            made = self._rules.add_event(state, record, self._store.labels_of(scored.id))
        except BadEvent as error:
            raise BadInput("bad_value", (noun, error.field), str(error)) from error
        self._store.add_decision(
            DecisionRow(
                seq, noun, event_us, created_us, values, vector, answer, maturity_us, digest, read, made
            )
        )
        self._store.move_to(Position(seq, max(at.clock_us, created_us), max(at.newest_us, event_us)))
        return answer

    def decide_vector(self, champion: Champion | None, row: ReadyVector, at: Moment) -> Answer:
        """Score a ready-made vector. It is no event: it changes no history, and turns no clock.

        Raises `NoModel`, `Conflict`, or `BadInput` for a feature that is missing or unknown.
        """
        prediction_id = uuid.uuid4().hex if row.prediction_id is None else row.prediction_id
        digest = payload_digest("features", row.features)
        if row.prediction_id is not None and (stored := self._stored(prediction_id, digest)):
            return stored
        if champion is None:
            raise NoModel("no model is loaded yet")
        ordered = in_order(row.features, champion.release.features)
        now_us = at.now_us if at.clock == "wall" or not at.clock_us else at.clock_us
        vector, answer = self._answer(champion, prediction_id, lambda: ordered, {})
        seq, maturity_us = at.position.last + 1, champion.maturity_us
        self._store.add_decision(
            DecisionRow(seq, "features", now_us, now_us, None, vector, answer, maturity_us, digest)
        )
        self._store.move_to(at.position._replace(last=seq))
        return answer

    def add_label(self, champion: Champion, label: Label, at: Moment) -> LabelReceipt:
        """Record a label, and bring the verdicts of its event up to date."""
        store, state = self._store, self._store.state
        record = self._rules.record_of(store, state, label.event_id, champion.maturity_us)
        before = store.labels_of(label.event_id)
        # A label is recorded as known no sooner than everything that was known already: no earlier decision
        # must seem to have known it. Each label of an event has another moment, because two verdicts at one
        # moment would have one id.
        label_us = at.now_us if label.label_us is None else max(label.label_us, at.clock_us)
        label_us = max(label_us, before[-1][0] + 1) if before else label_us
        known, seq = record is not None, at.position.last + 1
        row = LabelRow(seq, label.event_id, label.positive, label_us, known, label.label_us)
        if not store.add_label(row):
            return LabelReceipt(label.event_id, known, duplicate=True)
        # A label turns no clock, because its time is no evidence of what time it is.
        store.move_to(at.position._replace(last=seq))
        if record is not None:
            store.add_made(row, self._rules.add_labels(state, record, before, [(label_us, label.positive)]))
        return LabelReceipt(label.event_id, known, duplicate=False)

    def feed(self, name: str) -> Feed:
        """A further feed of the use case; `UnknownStream` where it declares none of this name."""
        if name not in self._feeds:
            raise UnknownStream(name, tuple(self._feeds))
        return self._feeds[name]

    def add_feed_event(self, feed: Feed, event: FeedEvent, at: Moment) -> FeedReceipt:
        """Record an event of a further feed, and bring it into the online state."""
        event_id = feed.event_id(event.event_us, event.values)
        if (known := self._store.find_feed_event(feed, event_id)) is not None:
            same = known == (event.event_us, event.values)
            return FeedReceipt(event_id, "duplicate" if same else "conflict")
        created_us, seq = learnt_us(event, at), at.position.last + 1
        state = self._store.state
        try:
            made = self._rules.add_feed_event(state, feed, event.values, event.event_us, created_us)
        except BadEvent as error:
            raise BadInput("bad_value", ("events", error.field), str(error)) from error
        row = FeedEventRow(seq, event_id, event.event_us, created_us, event.values, made)
        self._store.add_feed_event(feed, row)
        # An event of a further feed turns no clock, because its time is no evidence of what time it is.
        self._store.move_to(at.position._replace(last=seq))
        return FeedReceipt(event_id, "accepted")

    def _stored(self, prediction_id: str, digest: bytes) -> Answer | None:
        found = self._store.find(prediction_id)
        if found is None:
            return None
        answer, asked = found
        if asked != digest:
            raise Conflict(prediction_id)
        return answer

    def _answer(
        self,
        champion: Champion,
        prediction_id: str,
        vector_of: Callable[[], Vector],
        freshness: Mapping[str, float | None],
    ) -> tuple[Vector, Answer]:
        """The vector and the answer. The time of the version is kept for `count`. Its failure is counted."""
        release, version = champion.release, champion.version
        began = time.thread_time()  # The processor's time: a version is not slow because the machine is busy.
        try:
            vector = vector_of()
            found, decision, told = outcome_of(release, champion.scorer, vector)
        except Exception as error:
            # Any other error comes from the client or from the store, and does not count against the version.
            if not isinstance(error, (PlaneError, BadEvent)) and not self._store.owns(error):
                self._counts.failed(version)
            raise
        alarm = decision != release.subject.decisions.passes
        self._scored.append((version, alarm, time.thread_time() - began))
        policy, degraded = release.policy, is_degraded(release.plan, freshness)
        return vector, Answer(
            prediction_id, found, decision, policy.review, policy.block, version, told, degraded, freshness
        )
