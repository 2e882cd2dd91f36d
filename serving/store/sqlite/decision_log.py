"""Decisions and labels as the service writes them, each with all that its replay needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

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
        # One statement for any number of ids.
        self._known = (
            "SELECT prediction_id FROM decisions WHERE prediction_id IN (SELECT value FROM json_each(?))"
        )
        label = f"seq, {event_id}, {subject.labels.name}, label_us, known, given_us"
        self._insert_label = f"INSERT OR IGNORE INTO labels ({label}) VALUES (?, ?, ?, ?, ?, ?)"

    def known(self, prediction_ids: Sequence[str]) -> frozenset[str]:
        """Those of some ids that have a decision."""
        found = self._connection.execute(self._known, (_json(prediction_ids),))
        return frozenset(prediction_id for (prediction_id,) in found)

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

    def add(self, rows: Iterable[DecisionRow]) -> None:
        """Record decisions, each of which has read what came before it in the log."""
        self._connection.executemany(self._insert, map(self._stored, rows))

    def _stored(self, row: DecisionRow) -> tuple[object, ...]:
        answer = row.answer
        return (
            row.seq,
            answer.prediction_id,
            row.kind,
            row.event_us,
            row.created_us,
            *(self._none if row.values is None else row.values),
            _json(row.vector),
            row.seq - 1,
            None if row.read is None else _json(row.read),
            None if row.made is None else _json(row.made),
            answer.score,
            answer.decision,
            answer.threshold,
            answer.block_threshold,
            answer.model_version,
            _json(answer.reasons),
            answer.degraded,
            row.maturity_us,
            row.digest,
            _json(answer.freshness),
        )

    def add_label(self, row: LabelRow) -> bool:
        """Record a label; False where this very label was there already."""
        return self._connection.execute(self._insert_label, row).rowcount > 0

    def add_made(self, row: LabelRow, made: Versions) -> None:
        """Add to a label the versions that its verdicts made."""
        said = _json(made)
        self._connection.execute("UPDATE labels SET made_versions = ? WHERE seq = ?", (said, row.seq))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
