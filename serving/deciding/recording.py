"""What a request leaves behind: a decision, a label or an event of a feed, in the log and the online state.

All of it happens within a commit that the data plane owns.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from feature_repo.engine.columns import BadEvent
from feature_repo.online.base import Keys
from serving.contract.bundle import as_row
from serving.contract.events import EventRecord, EventRules
from serving.contract.policy import decide
from serving.contract.records import Answer
from serving.contract.subject import Feed, Subject
from serving.deciding.admission import Moment, check_event, learnt_us
from serving.deciding.open_decisions import OpenDecision, OpenDecisions, Repeat
from serving.deciding.scoring import (
    EventInputs,
    freshness_of,
    in_order,
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
from serving.store.base import FeedEventRow, LabelRow, Position, ServingStore
from serving.store.version_counts import VersionCounts


class Recorder:
    """Decides and records by the subject of one use case. The caller opens the commit.

    A commit begins with `begin` and ends with `end`. `count` follows where it was not undone.
    """

    def __init__(self, store: ServingStore, subject: Subject, counts: VersionCounts) -> None:
        self.subject = subject
        self._store, self._event = store, subject.event
        self._rules, self._inputs = EventRules(subject), EventInputs(subject.event)
        self._feeds = {feed.name: feed for feed in subject.feeds}
        self._open = OpenDecisions(store, counts)
        self._champion: Champion | None = None
        self._known: frozenset[str] = frozenset()

    def begin(self, champion: Champion | None, ids: Sequence[str] = ()) -> None:
        """At the beginning of a commit, which serves one champion. `ids` are those that will be asked for."""
        self._champion = champion
        self._open.begin()
        # A single id is looked for when it is asked for. For several, one question costs a fifth.
        self._known = self._store.known(ids) if len(ids) > 1 else frozenset(ids)

    def end(self) -> None:
        """At the end of a commit: put its decisions on record. `RowFailed` where one cannot be."""
        if self._champion is not None:
            self._open.record(self._champion)

    def count(self) -> None:
        """After a commit: count its decisions and its failures for their version."""
        if self._champion is not None:
            self._open.count(self._champion)

    def decide_event(self, number: int, scored: ScoredEvent, at: Moment) -> Answer | OpenDecision | Repeat:
        """Score an event against its history, and add it to that history.

        Returns the stored answer to a known id. `number` is the number of the event's row in the commit.
        Raises `NoModel`, `Conflict`, or `BadInput` for a time or a value that cannot be used.
        """
        noun, values = self._event.noun, self._inputs.logged(scored)
        digest = payload_digest(noun, [scored.event_us, *values])
        if stored := self._stored(scored.id, digest):
            return stored
        champion = self._serving()
        check_event(self._event, champion.release.bounds, scored, at)
        event_us, created_us, seq = scored.event_us, learnt_us(scored, at), at.position.last + 1
        state, keys = self._store.state, self._inputs.keys(scored)
        freshness = freshness_of(state, event_us)
        decision = OpenDecision(
            number, seq, scored.id, noun, event_us, created_us, values, {}, digest, freshness
        )
        self._score_event(champion, decision, scored, keys)
        decision.read = state.versions(keys)
        event = {self._event.id: scored.id, **scored.values}
        withheld = self._rules.withheld(decision.decision)
        record = EventRecord(event, event_us, created_us, withheld, champion.maturity_us)
        try:
            decision.made = self._rules.add_event(state, record, self._store.labels_of(scored.id))
        except BadEvent as error:
            raise BadInput("bad_value", (noun, error.field), str(error)) from error
        self._store.move_to(Position(seq, max(at.clock_us, created_us), max(at.newest_us, event_us)))
        return self._open.add(decision)

    def decide_vector(self, number: int, row: ReadyVector, at: Moment) -> Answer | OpenDecision | Repeat:
        """Score a ready-made vector. It is no event: it changes no history, and turns no clock.

        Returns the stored answer to a known id. `number` is the number of the row in the commit. Raises
        `NoModel`, `Conflict`, or `BadInput` for a feature that is missing or unknown.
        """
        digest = payload_digest("features", row.features)
        if row.prediction_id is not None and (stored := self._stored(row.prediction_id, digest)):
            return stored
        champion = self._serving()
        prediction_id = new_id(at.now_us) if row.prediction_id is None else row.prediction_id
        vector = in_order(row.features, champion.release.features)
        now_us = at.now_us if at.clock == "wall" or not at.clock_us else at.clock_us
        position = at.position
        seq = position.last + 1
        self._store.move_to(Position(seq, position.clock_us, position.newest_us))
        return self._open.add(
            OpenDecision(number, seq, prediction_id, "features", now_us, now_us, None, vector, digest, {})
        )

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

    def _stored(self, prediction_id: str, digest: bytes) -> Answer | Repeat | None:
        """What an id was answered, or is being answered in the commit; None where the id is new."""
        found: Answer | Repeat
        if (decision := self._open.find(prediction_id)) is not None:
            found, asked = Repeat(decision), decision.digest
        elif prediction_id in self._known and (stored := self._store.find(prediction_id)) is not None:
            found, asked = stored
        else:
            return None
        if asked != digest:
            raise Conflict(prediction_id)
        return found

    def _serving(self) -> Champion:
        if self._champion is None:
            raise NoModel("no model is loaded yet")
        return self._champion

    def _score_event(
        self, champion: Champion, decision: OpenDecision, scored: ScoredEvent, keys: Keys
    ) -> None:
        """Put vector, score and decision into an open decision. A failure of the version is counted."""
        release = champion.release
        began = time.thread_time()  # The processor's time: a version is not slow because the machine is busy.
        try:
            decision.vector = self._inputs.vector(self._store.state, scored, keys)
            decision.score = champion.scorer.score_one(as_row(decision.vector.values()))
            decision.decision = decide(decision.score, release.policy, release.subject.decisions)
        except Exception as error:
            # Any other error comes from the client or from the store, and does not count against the version.
            if not isinstance(error, (PlaneError, BadEvent)) and not self._store.owns(error):
                self._open.failed(decision.number)
            raise
        decision.seconds = time.thread_time() - began


def new_id(now_us: int) -> str:
    """An id for a decision whose client gave none: a UUID of version 7 (RFC 9562), without hyphens.

    Ids of neighbouring moments are neighbours in the index of the log. Random ids would dirty a page each.
    """
    return f"{now_us // 1_000:012x}7{uuid.uuid4().hex[13:]}"
