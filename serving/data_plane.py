"""The data plane without transport: every protocol asks here for predictions and brings its labels here.

One request is one SQLite transaction: the stored answer if the id is known, else vector, score, decision,
their record, and the event in the online state, all or nothing. What a vector was computed from is therefore
exactly what was committed before it, which its `read_seq` names.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from feature_repo.engine.columns import BadEvent
from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.online.sqlite.transactions import transaction
from serving.admission import arrival_us, check_amount, check_labels
from serving.clock import as_of_us, lake_end_us
from serving.contract.bounds import Bounds
from serving.contract.events import Subject, add_labels, add_transaction, labels_of, subject_of
from serving.contract.policy import decide
from serving.messages import (
    Answer,
    BadInput,
    Conflict,
    Label,
    LabelReceipt,
    NoModel,
    PlaneError,
    Reason,
    StoreBusy,
    Transaction,
)
from serving.releases import Champion
from serving.settings import ServingSettings
from serving.store.sqlite.database import open_database
from serving.store.sqlite.state_compatibility import agreed_us
from serving.store.sqlite.version_counts import Tally

SECOND_US = 1_000_000
REASONS = 3  # an analyst reads no more of them
INSERT = """INSERT INTO decisions (seq, prediction_id, kind, event_us, created_us, customer_id, merchant_id, amount, is_declined, features, read_seq,
fraud_score, decision, review_threshold, block_threshold, model_version, reasons, degraded, maturity_us, payload_digest, freshness)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
STORED = """SELECT prediction_id, fraud_score, decision, review_threshold, block_threshold, model_version, reasons, degraded, freshness,
payload_digest FROM decisions WHERE prediction_id = ?"""


Vector = Mapping[str, float | None]


@dataclass(frozen=True)
class _Sequence:
    last: int
    clock_us: int
    newest_us: int


class DataPlane:
    """Predictions and labels over one SQLite connection.

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
        self._connection = open_database(settings)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def predict_transaction(self, transaction: Transaction) -> Answer:
        """Score a payment against its history, record the decision, and add the payment to that history.

        Raises `NoModel`, `StoreBusy`, `Conflict`, or `BadInput` for an event too old, too far ahead, or with
        a value that cannot be used.
        """
        digest = _digest(
            "transaction",
            [
                transaction.event_us,
                transaction.customer_id,
                transaction.merchant_id,
                float(transaction.amount),
                transaction.is_declined,
            ],
        )
        with self._transaction() as (champion, state):
            if stored := self._stored(transaction.transaction_id, digest):
                return stored
            if champion is None or state is None:
                raise NoModel("no model is loaded yet")
            at = self._sequence()
            event_us = transaction.event_us
            bounds = champion.release.bounds
            check_amount(transaction.amount, bounds)
            created_us = arrival_us(
                self._settings.clock, bounds, transaction, at.clock_us, at.newest_us, self._wall_us()
            )
            vector, answer = self._answer(
                champion,
                transaction.transaction_id,
                lambda: self._vector(state, transaction),
                _freshness(state, event_us),
            )
            self._insert(
                champion, answer, "transaction", event_us, created_us, transaction, vector, at.last, digest
            )
            subject = Subject(
                transaction.event(), event_us, created_us, answer.decision == "BLOCK", champion.maturity_us
            )
            try:
                add_transaction(state, subject, labels_of(self._connection, transaction.transaction_id))
            except BadEvent as error:
                raise BadInput("bad_value", ("transaction", error.field), str(error)) from error
            state.settle()
            clock_us = max(at.clock_us, created_us)
            self._connection.execute(
                "UPDATE sequence SET last = ?, clock_us = ?, newest_us = ?",
                (at.last + 1, clock_us, max(at.newest_us, event_us)),
            )
            return answer

    def predict_features(
        self, features: Mapping[str, float | None], prediction_id: str | None = None
    ) -> Answer:
        """Score a ready-made vector, which has to hold exactly the model's features, and record the decision."""
        named = prediction_id is not None
        prediction_id = prediction_id if prediction_id is not None else uuid.uuid4().hex
        digest = _digest("features", features)
        with self._transaction() as (champion, _):
            if named and (stored := self._stored(prediction_id, digest)):
                return stored
            if champion is None:
                raise NoModel("no model is loaded yet")
            ordered = _in_order(features, champion.release.features)
            at = self._sequence()
            now = self._wall_us() if self._settings.clock == "wall" or not at.clock_us else at.clock_us
            vector, answer = self._answer(champion, prediction_id, lambda: ordered, {})
            self._insert(champion, answer, "features", now, now, None, vector, at.last, digest)
            self._connection.execute("UPDATE sequence SET last = ?", (at.last + 1,))
            return answer

    def check_labels(self, labels: Sequence[Label]) -> None:
        """Whether their times can be accepted, by the clock as it stands now; `BadInput` names the first that
        cannot.
        """
        with self._transaction() as (champion, _):
            bounds = champion.release.bounds if champion else Bounds()
            check_labels(self._settings.clock, bounds, labels, self._sequence().clock_us)

    def add_labels(self, labels: Sequence[Label], checked: bool = False) -> list[LabelReceipt]:
        """Record labels and bring the verdicts of their transactions up to date, in one commit.

        A transaction that is nowhere to be found leaves its label in the log with `known` false. The same
        label again changes nothing. `checked`: they are a part of what `check_labels` has seen as a whole,
        which must not be refused half-way.
        """
        if not checked:
            self.check_labels(labels)
        with self._transaction() as (champion, state):
            if champion is None or state is None:
                raise NoModel("no model is loaded yet: what a label means for the features cannot be said")
            receipts = [self._add_label(champion, state, label) for label in labels]
            state.settle()
            return receipts

    def _add_label(self, champion: Champion, state: SqliteOnlineState, label: Label) -> LabelReceipt:
        subject = subject_of(self._connection, state, label.transaction_id, champion.maturity_us)
        at, before = self._sequence(), labels_of(self._connection, label.transaction_id)
        # A label is known no sooner than what was known already: a decision that was made without it must not
        # seem to have known it. Each label of a transaction has a moment of its own, for two at once would be
        # one event.
        label_us = self._wall_us() if label.label_us is None else max(label.label_us, at.clock_us)
        label_us = max(label_us, before[-1][0] + 1) if before else label_us
        row = (
            at.last + 1,
            label.transaction_id,
            label.is_fraud,
            label_us,
            subject is not None,
            label.label_us,
        )
        query = (
            "INSERT OR IGNORE INTO labels (seq, transaction_id, is_fraud, label_us, known, given_us) VALUES"
            " (?, ?, ?, ?, ?, ?)"
        )
        if not self._connection.execute(query, row).rowcount:
            return LabelReceipt(label.transaction_id, subject is not None, duplicate=True)
        # It turns no clock: what is known of a payment later on is no evidence of what time it is.
        self._connection.execute("UPDATE sequence SET last = ?", (at.last + 1,))
        if subject is not None:
            add_labels(state, subject, before, [(label_us, label.is_fraud)])
        return LabelReceipt(label.transaction_id, subject is not None, duplicate=False)

    def _vector(self, state: SqliteOnlineState, transaction: Transaction) -> dict[str, float | None]:
        keys = {"customer_id": transaction.customer_id, "merchant_id": transaction.merchant_id}
        return state.vector(
            keys, transaction.event_us, {"amount": transaction.amount, "event_time_us": transaction.event_us}
        )

    def _answer(
        self,
        champion: Champion,
        prediction_id: str,
        vector_of: Callable[[], Vector],
        freshness: Mapping[str, float | None],
    ) -> tuple[Vector, Answer]:
        """What the version makes of a payment, counted with the time that it took, or as its failure."""
        release, began = champion.release, time.thread_time()  # what waits for a busy machine is not slow
        try:
            vector = vector_of()
            row = [math.nan if value is None else value for value in vector.values()]
            score = champion.scorer.score_one(row)
            decision = decide(score, release.policy)
            reasons = () if decision == "ALLOW" else _reasons(champion, vector, row)
        except (PlaneError, BadEvent, sqlite3.Error):
            raise  # the client's doing, or the store's
        except Exception:
            self.tally.failed(champion.version)
            raise
        self.tally.scored(champion.version, decision != "ALLOW", time.thread_time() - began)
        limits = {view.name: view.stale_us / SECOND_US for view in release.plan.views if view.stale_us}
        degraded = any(
            name in limits and (age is None or age > limits[name]) for name, age in freshness.items()
        )
        policy, version = release.policy, champion.version
        return vector, Answer(
            prediction_id, score, decision, policy.review, policy.block, version, reasons, degraded, freshness
        )

    def _known_us(self, champion: Champion) -> int:
        """What the release, and a state that no request has touched yet, say of event time."""
        if self._settings.clock == "wall":
            return 0
        untouched = not any(self._connection.execute("SELECT clock_us, newest_us FROM sequence").fetchone())
        return max(as_of_us(champion.release), agreed_us(self._connection) if untouched else 0)

    def _sequence(self) -> _Sequence:
        last, clock_us, newest_us = self._connection.execute(
            "SELECT last, clock_us, newest_us FROM sequence"
        ).fetchone()
        return _Sequence(last, max(clock_us, self._floor_us), max(newest_us, self._floor_us))

    def _stored(self, prediction_id: str, digest: bytes) -> Answer | None:
        row = self._connection.execute(STORED, (prediction_id,)).fetchone()
        if row is None:
            return None
        if row[-1] != digest:
            raise Conflict(prediction_id)
        reasons = tuple(Reason(**reason) for reason in orjson.loads(row[6]))
        prediction_id, score, decision, review, block, version, _, degraded, freshness, _ = row
        return Answer(
            prediction_id,
            score,
            decision,
            review,
            block,
            version,
            reasons,
            bool(degraded),
            orjson.loads(freshness),
            repeated=True,
        )

    def _insert(
        self,
        champion: Champion,
        answer: Answer,
        kind: str,
        event_us: int,
        created_us: int,
        transaction: Transaction | None,
        vector: Mapping[str, float | None],
        read_seq: int,
        digest: bytes,
    ) -> None:
        t = transaction
        facts = (t.customer_id, t.merchant_id, t.amount, t.is_declined) if t else (None, None, None, None)
        self._connection.execute(
            INSERT,
            (
                read_seq + 1,
                answer.prediction_id,
                kind,
                event_us,
                created_us,
                *facts,
                orjson.dumps(vector).decode(),
                read_seq,
                answer.fraud_score,
                answer.decision,
                answer.threshold,
                answer.block_threshold,
                answer.model_version,
                orjson.dumps(answer.reasons).decode(),
                answer.degraded,
                champion.maturity_us,
                digest,
                orjson.dumps(answer.freshness).decode(),
            ),
        )

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Champion | None, SqliteOnlineState | None]]:
        """All or nothing, under one champion from beginning to end."""
        with self._lock:
            champion = self._champion()
            if champion is not None and champion.release.plan is not self._plan:
                with self._committed():
                    self._state, self._plan = (
                        SqliteOnlineState(self._connection, champion.release.plan),
                        champion.release.plan,
                    )
                    self._floor_us = max(self._floor_us, self._known_us(champion))
            with self._committed():
                if self._state is not None:
                    self._state.follow()  # a rebuild may have put a new generation in place
                yield champion, self._state

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


def _reasons(champion: Champion, vector: Mapping[str, float | None], row: list[float]) -> tuple[Reason, ...]:
    """The features that pushed the score up most."""
    contributions = champion.scorer.contributions(row)
    ranked = sorted(zip(contributions, vector.items(), strict=True), key=lambda pair: -pair[0])
    return tuple(
        Reason(name, value, round(contribution, 6))
        for contribution, (name, value) in ranked[:REASONS]
        if contribution > 0
    )


def _in_order(features: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float | None]:
    if missing := [name for name in names if name not in features]:
        raise BadInput(
            "bad_value", ("features", missing[0]), f"missing; the model takes {len(names)} features"
        )
    if len(features) > len(names):
        unknown = next(name for name in features if name not in set(names))
        raise BadInput("bad_value", ("features", unknown[:100]), "not a feature of the model")
    return {name: features[name] for name in names}


def _freshness(state: SqliteOnlineState, at_us: int) -> dict[str, float | None]:
    """How many seconds before a moment the newest event of each view's stream was."""
    newest = {
        stream: state.newest_us(stream, at_us)
        for stream in dict.fromkeys(view.stream for view in state.plan.views)
    }
    ages = {stream: None if us is None else (at_us - us) / SECOND_US for stream, us in newest.items()}
    return {view.name: ages[view.stream] for view in state.plan.views}


def _digest(kind: str, payload: object) -> bytes:
    return hashlib.blake2b(
        orjson.dumps([kind, payload], option=orjson.OPT_SORT_KEYS), digest_size=16
    ).digest()
