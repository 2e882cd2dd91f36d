"""What `/predict` and `/predict/batch` do with a request: bytes in, the data plane's answer out as bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import orjson
from pydantic import ValidationError

from serving.contract.records import Answer
from serving.metrics import Metrics
from serving.protocols.grouping import Grouping
from serving.protocols.native.error_responses import FAULT, REFUSED, refusal_of
from serving.protocols.native.plain_routes import Handler
from serving.protocols.native.wire import Wire
from serving.protocols.patience import HungUp, patiently
from serving.service import Service

log = logging.getLogger("serving")


def prediction_handlers(service: Service, wire: Callable[[], Wire]) -> dict[str, Handler]:
    """The handlers by path. `wire` gives the messages of the use case that is served.

    Their docstrings are the documentation of their routes.
    """
    plane, metrics, deadline_s = service.plane, service.metrics, service.settings.limits.store_deadline_s
    grouping = Grouping(plane, deadline_s)

    async def predict(body: bytes, hung_up: HungUp) -> bytes:
        """Score an event against its history, or a ready-made vector.

        A repeated id gets its stored answer; with another payload, 409.
        """
        messages = wire()
        answer = await grouping.decide(messages.asked(body), hung_up)
        _count(metrics, answer)
        return orjson.dumps(messages.shown(answer))

    async def predict_batch(body: bytes, hung_up: HungUp) -> bytes:
        """Answer rows as if they had been sent one after the other. They are committed together.

        Each row has the status and the answer or refusal that it would have had alone.
        """
        messages = wire()
        asked = messages.asked_in_rows(body)
        readable = [row for row in asked if not isinstance(row, ValidationError)]
        outcomes = iter(await patiently(partial(plane.predict_many, readable), deadline_s, hung_up))
        rows = [row if isinstance(row, ValidationError) else next(outcomes) for row in asked]
        return orjson.dumps({"rows": [row_told(messages, number, row) for number, row in enumerate(rows)]})

    def row_told(messages: Wire, number: int, row: Answer | Exception) -> dict[str, object]:
        if isinstance(row, Answer):
            _count(metrics, row)
            return {"status": 200, **messages.shown(row)}
        if isinstance(row, REFUSED):
            refusal = refusal_of(row, ("body", "rows", number))
        else:
            log.error("a row of a batch failed", exc_info=row)
            refusal = FAULT
        refusal.count(metrics)
        return {"status": refusal.status, "detail": refusal.detail}

    return {"/predict": predict, "/predict/batch": predict_batch}


def _count(metrics: Metrics, answer: Answer) -> None:
    if answer.repeated:
        metrics.repeats.inc()
        return
    metrics.decisions[answer.decision].inc()
    metrics.freshness(answer.freshness)
    if answer.degraded:
        metrics.degraded.inc()
