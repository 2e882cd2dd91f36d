"""The data plane without transport: every protocol asks here for predictions and brings its labels here.

One request is one SQLite transaction: the stored answer if the id is known, else vector, score, decision, their record, and the event in the online
state, all or nothing. What a vector was computed from is therefore exactly what was committed before it, which its `read_seq` names.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from feature_repo.engine.online import BadEvent, OnlineState
from feature_repo.engine.plan import FeaturePlan
from serving.bounds import arrival_us, check_amount, check_labels
from serving.contract.policy import decide
from serving.contract.verdicts import verdict_events
from serving.database import open_database
from serving.history import find, find_of
from serving.releases import Champion
from serving.settings import ServingSettings
from serving.values import Answer, BadInput, Conflict, Label, LabelReceipt, NoModel, Reason, StoreBusy, Transaction

TRANSACTIONS, VERDICTS = "transactions", "verdicts"
REASONS = 3  # an analyst reads no more of them
INSERT = """INSERT INTO decisions (seq, prediction_id, kind, event_us, created_us, customer_id, merchant_id, amount, is_declined, features, read_seq,
fraud_score, decision, review_threshold, block_threshold, model_version, reasons, degraded, maturity_us, payload_digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SUBJECT = """SELECT event_us, created_us, customer_id, merchant_id, amount, is_declined, decision, maturity_us
FROM decisions WHERE prediction_id = ? AND kind = 'transaction'"""
STORED = """SELECT prediction_id, fraud_score, decision, review_threshold, block_threshold, model_version, reasons, degraded, payload_digest
FROM decisions WHERE prediction_id = ?"""


@dataclass(frozen=True)
class _Sequence:
    last: int
    clock_us: int
    newest_us: int


@dataclass(frozen=True)
class _Subject:
    """The transaction that a label is about."""

    event: Mapping[str, object]
    event_us: int
    created_us: int
    blocked: bool
    maturity_us: int

    def verdicts(self, labels: Sequence[tuple[int, bool]]) -> list[tuple[int, bool]]:
        return verdict_events(self.event_us, labels, self.blocked, self.maturity_us, self.created_us)


class DataPlane:
    """Predictions and labels over one SQLite connection. Safe to call from several threads; several processes may share the file."""

    def __init__(self, settings: ServingSettings, champion: Callable[[], Champion | None], wall_us: Callable[[], int]) -> None:
        self._settings, self._champion, self._wall_us = settings, champion, wall_us
        self._lock = threading.RLock()
        self._state: OnlineState | None = None
        self._plan: FeaturePlan | None = None
        self._floor_us = 0  # the newest event that came with the lake
        self._connection = open_database(settings)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def predict_transaction(self, transaction: Transaction) -> Answer:
        """Score a payment against its history, record the decision, and add the payment to that history.

        Raises `NoModel`, `StoreBusy`, `Conflict`, or `BadInput` for an event too old, too far ahead, or with a value that cannot be used.
        """
        digest = _digest(
            "transaction",
            [transaction.event_us, transaction.customer_id, transaction.merchant_id, float(transaction.amount), transaction.is_declined],
        )
        with self._transaction() as (champion, state):
            if stored := self._stored(transaction.transaction_id, digest):
                return stored
            if champion is None or state is None:
                raise NoModel("no model is loaded yet")
            at = self._sequence()
            event_us = transaction.event_us
            check_amount(transaction.amount, champion.release.amount_range or self._settings.limits.amount_range)
            created_us = arrival_us(self._settings, transaction, at.clock_us, at.newest_us, self._wall_us())
            vector = self._vector(state, transaction)
            answer = self._answer(champion, transaction.transaction_id, vector)
            self._insert(champion, answer, "transaction", event_us, created_us, transaction, vector, at.last, digest)
            event = transaction.event()
            self._push(state, TRANSACTIONS, event, event_us, created_us)
            subject = _Subject(event, event_us, created_us, answer.decision == "BLOCK", champion.maturity_us)
            for known_us, is_fraud in subject.verdicts(self._labels(transaction.transaction_id)):
                self._push(state, VERDICTS, _verdict(event, is_fraud), known_us, known_us)
            clock_us = max(at.clock_us, created_us)
            self._connection.execute(
                "UPDATE sequence SET last = ?, clock_us = ?, newest_us = ?", (at.last + 1, clock_us, max(at.newest_us, event_us))
            )
            return answer

    def predict_features(self, features: Mapping[str, float | None], prediction_id: str | None = None) -> Answer:
        """Score a ready-made vector, which has to hold exactly the model's features, and record the decision."""
        named = prediction_id is not None
        prediction_id = prediction_id if prediction_id is not None else uuid.uuid4().hex
        digest = _digest("features", features)
        with self._transaction() as (champion, _):
            if named and (stored := self._stored(prediction_id, digest)):
                return stored
            if champion is None:
                raise NoModel("no model is loaded yet")
            vector = _in_order(features, champion.release.features)
            at = self._sequence()
            now = self._wall_us() if self._settings.clock == "wall" or not at.clock_us else at.clock_us
            answer = self._answer(champion, prediction_id, vector)
            self._insert(champion, answer, "features", now, now, None, vector, at.last, digest)
            self._connection.execute("UPDATE sequence SET last = ?", (at.last + 1,))
            return answer

    def check_labels(self, labels: Sequence[Label]) -> None:
        """Whether their times can be accepted, by the clock as it stands now; `BadInput` names the first that cannot."""
        with self._transaction():
            check_labels(self._settings, labels, self._sequence().clock_us)

    def add_labels(self, labels: Sequence[Label], checked: bool = False) -> list[LabelReceipt]:
        """Record labels and bring the verdicts of their transactions up to date, in one commit.

        A transaction that is nowhere to be found leaves its label in the log with `known` false. The same label again changes nothing.
        `checked`: they are a part of what `check_labels` has seen as a whole, which must not be refused half-way.
        """
        if not checked:
            self.check_labels(labels)
        with self._transaction() as (champion, state):
            if champion is None or state is None:
                raise NoModel("no model is loaded yet: what a label means for the features cannot be said")
            now_us = self._wall_us()
            return [self._add_label(champion, state, label, now_us if label.label_us is None else label.label_us) for label in labels]

    def _add_label(self, champion: Champion, state: OnlineState, label: Label, label_us: int) -> LabelReceipt:
        found = self._subject(champion, state, label.transaction_id)
        at = self._sequence()
        row = (at.last + 1, label.transaction_id, label.is_fraud, label_us, found is not None)
        query = "INSERT OR IGNORE INTO labels (seq, transaction_id, is_fraud, label_us, known) VALUES (?, ?, ?, ?, ?)"
        before = self._labels(label.transaction_id)
        if not self._connection.execute(query, row).rowcount:
            return LabelReceipt(label.transaction_id, found is not None, duplicate=True)
        self._connection.execute("UPDATE sequence SET last = ?, clock_us = ?", (at.last + 1, max(at.clock_us, label_us)))
        if found is not None:
            self._bring_up_to_date(state, found, before, (label_us, label.is_fraud))
        return LabelReceipt(label.transaction_id, found is not None, duplicate=False)

    def _bring_up_to_date(self, state: OnlineState, found: _Subject, before: Sequence[tuple[int, bool]], new: tuple[int, bool]) -> None:
        """Make the transaction's verdicts in the online state what the one rule says, now that a label came."""
        stored = find_of(self._connection, state.plan, VERDICTS, str(found.event["transaction_id"]))
        present = {(_int(e["event_us"]), bool(e["is_fraud"])) for e in stored}
        # Verdicts that came with the lake stand for labels that this log never held.
        inherited = present - set(found.verdicts([])) - set(found.verdicts(before))
        wanted = set(found.verdicts([*before, *inherited, new]))
        for known_us, is_fraud in present - wanted:
            state.remove(VERDICTS, _event_id(VERDICTS, _verdict(found.event, is_fraud), known_us))
        for known_us, is_fraud in wanted - present:
            self._push(state, VERDICTS, _verdict(found.event, is_fraud), known_us, known_us)

    def _subject(self, champion: Champion, state: OnlineState, transaction_id: str) -> _Subject | None:
        """The transaction that a label is about, from the log or from the history that came with the lake."""
        if row := self._connection.execute(SUBJECT, (transaction_id,)).fetchone():
            event_us, created_us, customer_id, merchant_id, amount, is_declined, decision, maturity_us = row
            known = Transaction(transaction_id, event_us, customer_id, merchant_id, amount, bool(is_declined))
            return _Subject(known.event(), event_us, created_us, decision == "BLOCK", maturity_us)
        if (event := find(self._connection, state.plan, TRANSACTIONS, transaction_id)) is None:
            return None
        event_us, created_us = _int(event["event_us"]), _int(event["created_us"])
        return _Subject({**event, "transaction_id": transaction_id}, event_us, created_us, blocked=False, maturity_us=champion.maturity_us)

    def _labels(self, transaction_id: str) -> list[tuple[int, bool]]:
        query = "SELECT label_us, is_fraud FROM labels WHERE transaction_id = ? ORDER BY label_us, is_fraud DESC"
        return [(label_us, bool(is_fraud)) for label_us, is_fraud in self._connection.execute(query, (transaction_id,))]

    def _vector(self, state: OnlineState, transaction: Transaction) -> dict[str, float | None]:
        keys = {"customer_id": transaction.customer_id, "merchant_id": transaction.merchant_id}
        return state.vector(keys, transaction.event_us, {"amount": transaction.amount, "event_time_us": transaction.event_us})

    def _answer(self, champion: Champion, prediction_id: str, vector: Mapping[str, float | None]) -> Answer:
        release, row = champion.release, [math.nan if value is None else value for value in vector.values()]
        score = champion.scorer.score_one(row)
        decision = decide(score, release.policy)
        reasons = () if decision == "ALLOW" else _reasons(champion, vector, row)
        return Answer(prediction_id, score, decision, release.policy.review, release.policy.block, champion.version, reasons, degraded=False)

    def _push(self, state: OnlineState, stream: str, event: Mapping[str, object], event_us: int, created_us: int) -> None:
        try:
            state.push(stream, _event_id(stream, event, event_us), event, event_us, created_us)
        except BadEvent as error:
            raise BadInput("bad_value", ("transaction", error.field), str(error)) from error

    def _sequence(self) -> _Sequence:
        last, clock_us, newest_us = self._connection.execute("SELECT last, clock_us, newest_us FROM sequence").fetchone()
        return _Sequence(last, max(clock_us, self._floor_us), max(newest_us, self._floor_us))

    def _stored(self, prediction_id: str, digest: bytes) -> Answer | None:
        row = self._connection.execute(STORED, (prediction_id,)).fetchone()
        if row is None:
            return None
        if row[-1] != digest:
            raise Conflict(prediction_id)
        reasons = tuple(Reason(**reason) for reason in orjson.loads(row[6]))
        prediction_id, score, decision, review, block, version, _, degraded, _ = row
        return Answer(prediction_id, score, decision, review, block, version, reasons, bool(degraded), repeated=True)

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
            ),
        )

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Champion | None, OnlineState | None]]:
        """All or nothing, under one champion from beginning to end."""
        with self._lock:
            champion = self._champion()
            if champion is not None and champion.release.plan is not self._plan:
                with self._committed():
                    self._state, self._plan = OnlineState(self._connection, champion.release.plan), champion.release.plan
                    self._floor_us = max(self._floor_us, self._state.last_event_us(TRANSACTIONS) or 0)
            with self._committed():
                yield champion, self._state

    @contextmanager
    def _committed(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusy("the online store is locked") from error
            raise
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _reasons(champion: Champion, vector: Mapping[str, float | None], row: list[float]) -> tuple[Reason, ...]:
    """The features that pushed the score up most."""
    contributions = champion.scorer.contributions(row)
    ranked = sorted(zip(contributions, vector.items(), strict=True), key=lambda pair: -pair[0])
    return tuple(Reason(name, value, round(contribution, 6)) for contribution, (name, value) in ranked[:REASONS] if contribution > 0)


def _in_order(features: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float | None]:
    if missing := [name for name in names if name not in features]:
        raise BadInput("bad_value", ("features", missing[0]), f"missing; the model takes {len(names)} features")
    if len(features) > len(names):
        unknown = next(name for name in features if name not in set(names))
        raise BadInput("bad_value", ("features", unknown[:100]), "not a feature of the model")
    return {name: features[name] for name in names}


def _verdict(event: Mapping[str, object], is_fraud: bool) -> dict[str, object]:
    kept = {name: event[name] for name in ("transaction_id", "customer_id", "merchant_id", "amount")}
    return {**kept, "is_fraud": is_fraud}


def _event_id(stream: str, event: Mapping[str, object], event_us: int) -> str:
    """As `FeaturePlan.event_id` has it: a contradicting verdict is a further event on the same transaction."""
    return f"{event['transaction_id']}:{event_us}" if stream == VERDICTS else str(event["transaction_id"])


def _digest(kind: str, payload: object) -> bytes:
    return hashlib.blake2b(orjson.dumps([kind, payload], option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {value!r}")
    return value
