"""What a decision and a label mean for the online state: one rule for the service that takes them and for a
rebuild that replays its log.

The tables of the log (`serving.store.sqlite.decision_log`) and the state share a file; callers own the
connection and its transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from feature_repo.online.base import OnlineState
from serving.contract.verdicts import verdict_events

TRANSACTIONS, VERDICTS = "transactions", "verdicts"
ROWS_A_STEP = 100  # about 10 ms of replay under the lock of the file, for which a payment waits up to 250

Labels = Sequence[tuple[int, bool]]  # when it became known, and whether it says fraud

SUBJECT = (
    "transaction_id, event_us, created_us, customer_id, merchant_id, amount, is_declined, decision,"
    " maturity_us"
)
DECISION = (
    f"SELECT {SUBJECT.replace('transaction_id', 'prediction_id')} FROM decisions WHERE prediction_id = ? AND"
    " kind = 'transaction'"
)
DECISIONS = f"""SELECT seq, {SUBJECT.replace("transaction_id", "prediction_id")} FROM decisions
WHERE kind = 'transaction' AND created_us >= ? AND seq > ? ORDER BY seq LIMIT ?"""
LABELS_OF = """SELECT label_us, is_fraud FROM labels WHERE transaction_id = :id
UNION SELECT label_us, is_fraud FROM waiting_labels WHERE transaction_id = :id ORDER BY label_us, is_fraud DESC"""
LABELS = "SELECT seq, transaction_id FROM labels WHERE label_us >= ? AND seq > ? ORDER BY seq LIMIT ?"


@dataclass(frozen=True)
class Subject:
    """The transaction that a label is about."""

    event: Mapping[str, object]
    event_us: int
    created_us: int
    blocked: bool
    maturity_us: int

    def verdicts(self, labels: Labels) -> list[tuple[int, bool]]:
        return verdict_events(self.event_us, labels, self.blocked, self.maturity_us, self.created_us)


def add_transaction(state: OnlineState, subject: Subject, labels: Labels) -> None:
    """The payment, and the verdicts that it has: silence to come counts as one, unless a label says
    otherwise.
    """
    _push(state, TRANSACTIONS, subject.event, subject.event_us, subject.created_us)
    for known_us, is_fraud in subject.verdicts(labels):
        _push(state, VERDICTS, _verdict(subject.event, is_fraud), known_us, known_us)


def add_labels(state: OnlineState, subject: Subject, before: Labels, new: Labels) -> None:
    """Make the transaction's verdicts what the one rule says, now that `new` labels came to those `before`."""
    stored = state.find_of(VERDICTS, str(subject.event["transaction_id"]))
    present = {(_int(e["event_us"]), bool(e["is_fraud"])) for e in stored}
    # Verdicts that came with the lake stand for labels that this log never held.
    inherited = (
        present
        - set(subject.verdicts([]))
        - set(subject.verdicts(before))
        - set(subject.verdicts([*before, *new]))
    )
    wanted = set(subject.verdicts([*before, *inherited, *new]))
    for known_us, is_fraud in present - wanted:
        state.remove(VERDICTS, state.plan.event_id(VERDICTS, _verdict(subject.event, is_fraud), known_us))
    for known_us, is_fraud in wanted - present:
        _push(state, VERDICTS, _verdict(subject.event, is_fraud), known_us, known_us)


def labels_of(connection: sqlite3.Connection, transaction_id: str) -> list[tuple[int, bool]]:
    """Every label of a transaction that the log holds, or that waits for it in the lake, by the time that it
    became known.
    """
    return [
        (label_us, bool(is_fraud))
        for label_us, is_fraud in connection.execute(LABELS_OF, {"id": transaction_id})
    ]


def keep_waiting(connection: sqlite3.Connection, labels: Iterable[tuple[str, int, bool]]) -> None:
    """Put the labels that wait in the lake for their transactions (id, when they became known, fraud) in the
    place of those that did before.

    They are no part of the log: the days on which they came are not days that the service took labels on.
    """
    connection.execute("DELETE FROM waiting_labels")
    connection.executemany("INSERT OR IGNORE INTO waiting_labels VALUES (?, ?, ?)", labels)


def subject_of(
    connection: sqlite3.Connection, state: OnlineState, transaction_id: str, maturity_us: int
) -> Subject | None:
    """The transaction from the log, or from the history that came with the lake, where `maturity_us` applies;
    None where it is in neither.
    """
    if row := connection.execute(DECISION, (transaction_id,)).fetchone():
        return _subject(row)
    if (event := state.find(TRANSACTIONS, transaction_id)) is None:
        return None
    known = {**event, "transaction_id": transaction_id}
    return Subject(
        known, _int(event["event_us"]), _int(event["created_us"]), blocked=False, maturity_us=maturity_us
    )


def replay(
    connection: sqlite3.Connection, state: OnlineState, since_us: int, maturity_us: int
) -> Iterator[int]:
    """Bring into a state what the log took at or after a moment; yields the number of rows after each few, so
    that a caller can commit.

    Doing it again changes nothing, and neither does a service that writes the same events meanwhile.
    """
    after = -1
    while rows := connection.execute(DECISIONS, (since_us, after, ROWS_A_STEP)).fetchall():
        for _, *row in rows:
            subject = _subject(row)
            labels = labels_of(connection, str(subject.event["transaction_id"]))
            add_transaction(state, subject, labels)
            if labels:  # it may have been taken before one of them was known to wait for it
                add_labels(state, subject, [], labels)
        after = rows[-1][0]
        yield len(rows)
    after = -1
    while rows := connection.execute(LABELS, (since_us, after, ROWS_A_STEP)).fetchall():
        for _, transaction_id in rows:
            if about := subject_of(connection, state, transaction_id, maturity_us):
                add_labels(state, about, [], labels_of(connection, transaction_id))
        after = rows[-1][0]
        yield len(rows)


def _subject(row: Sequence[object]) -> Subject:
    (
        transaction_id,
        event_us,
        created_us,
        customer_id,
        merchant_id,
        amount,
        is_declined,
        decision,
        maturity_us,
    ) = row
    event = {
        "transaction_id": transaction_id,
        "customer_id": customer_id,
        "merchant_id": merchant_id,
        "amount": amount,
    }
    return Subject(
        {**event, "is_declined": bool(is_declined)},
        _int(event_us),
        _int(created_us),
        decision == "BLOCK",
        _int(maturity_us),
    )


def _push(
    state: OnlineState, stream: str, event: Mapping[str, object], event_us: int, created_us: int
) -> None:
    state.push(stream, state.plan.event_id(stream, event, event_us), event, event_us, created_us)


def _verdict(event: Mapping[str, object], is_fraud: bool) -> dict[str, object]:
    kept = {name: event[name] for name in ("transaction_id", "customer_id", "merchant_id", "amount")}
    return {**kept, "is_fraud": is_fraud}


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {value!r}")
    return value
