"""The bank as the service sees it: payments and labels, in the order in which they become known."""

from __future__ import annotations

import heapq
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

Investigate = Callable[[pa.Table, dict[str, str]], pa.Table]


@dataclass
class Bank:
    """Sends days through the service, over one connection that is kept alive.

    Reviewed and blocked payments are investigated, which gives labels. All other payments may come back as
    chargebacks.
    """

    port: int
    investigate: Investigate
    requests: int = 0
    failed: int = 0
    first_failure: str | None = None
    versions: list[str] = field(default_factory=list)
    _decisions: dict[str, str] = field(default_factory=dict)
    _due: list[tuple[datetime, str, bool, bool]] = field(default_factory=list)
    _connection: http.client.HTTPConnection | None = None

    def play(self, day: date, transactions: pa.Table, chargebacks: pa.Table) -> None:
        """Send the payments that arrive on a day and the labels that become known on it, in order of time."""
        for row in chargebacks.to_pylist():
            heapq.heappush(self._due, (row["label_timestamp"], row["transaction_id"], row["is_fraud"], False))
        ordered = transactions.sort_by([("created_timestamp", "ascending"), ("transaction_id", "ascending")])
        for position, row in enumerate(ordered.to_pylist()):
            self._report_until(row["created_timestamp"])
            answer = self._post("/predict", {"transaction": _payment(row)})
            if answer is None:
                continue
            self._decisions[row["transaction_id"]] = answer["decision"]
            if not self.versions or self.versions[-1] != answer["model_version"]:
                self.versions.append(answer["model_version"])
            if answer["decision"] != "ALLOW":
                looked_at = self.investigate(
                    ordered.slice(position, 1), {row["transaction_id"]: answer["decision"]}
                )
                for label in looked_at.to_pylist():
                    heapq.heappush(
                        self._due,
                        (label["label_timestamp"], label["transaction_id"], label["is_fraud"], True),
                    )
        self._report_until(datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC))
        self._hang_up()  # The night is longer than a server keeps an idle connection

    def health(self) -> dict[str, Any]:
        """The answer of the service to `GET /health`."""
        connection = self._connected()
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read())
        self._hang_up()
        return answer

    def _report_until(self, moment: datetime) -> None:
        """Send the labels that became known before the moment. A stopped payment has no chargeback."""
        batch = []
        while self._due and self._due[0][0] < moment:
            known, transaction_id, is_fraud, investigated = heapq.heappop(self._due)
            if not investigated and self._decisions.get(transaction_id, "ALLOW") != "ALLOW":
                continue
            batch.append(
                {"transaction_id": transaction_id, "is_fraud": is_fraud, "label_timestamp": known.isoformat()}
            )
        for start in range(0, len(batch), 500):
            self._post("/labels", {"labels": batch[start : start + 500]})

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        connection = self._connected()
        self.requests += 1
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            self._failure(f"{path}: {type(error).__name__}: {error}")
            return None
        if response.status != 200:
            self._failure(f"{path}: {response.status} {content[:300].decode(errors='replace')}")
            return None
        return json.loads(content)

    def _failure(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return self._connection


def _payment(row: dict[str, Any]) -> dict[str, Any]:
    kept = {
        name: row[name] for name in ("transaction_id", "customer_id", "merchant_id", "amount", "is_declined")
    }
    return {
        **kept,
        "event_timestamp": row["event_timestamp"].isoformat(),
        "created_timestamp": row["created_timestamp"].isoformat(),
    }
