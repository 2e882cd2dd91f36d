"""Decisions and labels as the service writes them, each with all that its replay needs."""

from __future__ import annotations

import sqlite3

import orjson

from feature_repo.online.base import Versions
from serving.contract.records import Answer, Reason
from serving.contract.subject import Subject
from serving.store.base import DecisionRow, LabelRow


class DecisionLog:
    """Decisions and labels of one use case, over a caller's connection and commits."""

    def __init__(self, connection: sqlite3.Connection, subject: Subject) -> None:
        self._connection = connection
        own, event_id = subject.event.names[1:], subject.event.id
        columns = (
            "seq", "prediction_id", "kind", "event_us", "created_us", *own, "features", "read_seq",
            "read_versions", "made_versions", subject.score, "decision", "review_threshold",
            "block_threshold", "model_version", "reasons", "degraded", "maturity_us", "payload_digest",
            "freshness",
        )  # fmt: skip
        self._insert = (
            f"INSERT INTO decisions ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        )
        self._none = (None,) * len(own)
        self._find = (
            f"SELECT {subject.score}, decision, review_threshold, block_threshold, model_version, reasons,"
            " degraded, freshness, payload_digest FROM decisions WHERE prediction_id = ?"
        )
        label = f"seq, {event_id}, {subject.labels.name}, label_us, known, given_us"
        self._insert_label = f"INSERT OR IGNORE INTO labels ({label}) VALUES (?, ?, ?, ?, ?, ?)"

    def find(self, prediction_id: str) -> tuple[Answer, bytes] | None:
        """The stored answer to an id, and the digest of what was asked; None where the id is new."""
        row = self._connection.execute(self._find, (prediction_id,)).fetchone()
        if row is None:
            return None
        score, decision, review, block, version, reasons, degraded, freshness, digest = row
        told = tuple(Reason(**reason) for reason in orjson.loads(reasons))
        policy, aged = (review, block, version), orjson.loads(freshness)
        answer = Answer(prediction_id, score, decision, *policy, told, bool(degraded), aged, repeated=True)
        return answer, digest

    def add(self, row: DecisionRow) -> None:
        """Record a decision, which has read what came before it in the log."""
        answer = row.answer
        self._connection.execute(
            self._insert,
            (
                row.seq,
                answer.prediction_id,
                row.kind,
                row.event_us,
                row.created_us,
                *(self._none if row.values is None else row.values),
                orjson.dumps(row.vector).decode(),
                row.seq - 1,
                None if row.read is None else orjson.dumps(row.read).decode(),
                None if row.made is None else orjson.dumps(row.made).decode(),
                answer.score,
                answer.decision,
                answer.threshold,
                answer.block_threshold,
                answer.model_version,
                orjson.dumps(answer.reasons).decode(),
                answer.degraded,
                row.maturity_us,
                row.digest,
                orjson.dumps(answer.freshness).decode(),
            ),
        )

    def add_label(self, row: LabelRow) -> bool:
        """Record a label; False where this very label was there already."""
        return self._connection.execute(self._insert_label, row).rowcount > 0

    def add_made(self, row: LabelRow, made: Versions) -> None:
        """Add to a label the versions that its verdicts made."""
        said = orjson.dumps(made).decode()
        self._connection.execute("UPDATE labels SET made_versions = ? WHERE seq = ?", (said, row.seq))
