"""What `/predict` and `/predict/batch` do with a request: bytes in, the data plane's answer out as bytes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import orjson
from pydantic import ValidationError

from serving.contract.records import Answer
from serving.metrics import Metrics
from serving.protocols.grouping import Grouping, Reply
from serving.protocols.native.error_responses import FAULT, REFUSED, refusal_of
from serving.protocols.native.plain_routes import Handler
from serving.protocols.native.wire import Wire
from serving.protocols.patience import HungUp, patiently
from serving.service import Service

log = logging.getLogger("serving")


# The body of a request, whether its client has hung up by now, and what waits for the body of the answer.
Predict = Callable[[bytes, HungUp, Reply[bytes]], None]


def direct_prediction(service: Service, wire: Callable[[], Wire]) -> Predict:
    """What answers one prediction, without waiting. An error in the request is raised at once."""
    grouping = Grouping(service.plane, service.settings.limits.store_deadline_s)

    def predict(body: bytes, hung_up: HungUp, reply: Reply[bytes]) -> None:
        messages = wire()
        grouping.decide(messages.asked(body), hung_up, _Shown(messages, service.metrics, reply))

    return predict


def prediction_handlers(service: Service, wire: Callable[[], Wire], direct: Predict) -> dict[str, Handler]:
    """The handlers by path. `wire` gives the messages of the use case that is served.

    Their docstrings are the documentation of their routes.
    """
    plane, metrics, deadline_s = service.plane, service.metrics, service.settings.limits.store_deadline_s

    async def predict(body: bytes, hung_up: HungUp) -> bytes:
        """Score an event against its history, or a ready-made vector.

        A repeated id gets its stored answer; with another payload, 409.
        """
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        direct(body, hung_up, reply)
        return await reply

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


class _Shown:
    """Counts an answer, and passes it on as it is sent."""

    __slots__ = ("_messages", "_metrics", "_reply", "done", "set_exception")

    def __init__(self, messages: Wire, metrics: Metrics, reply: Reply[bytes]) -> None:
        self._messages, self._metrics, self._reply = messages, metrics, reply
        self.done, self.set_exception = reply.done, reply.set_exception

    def set_result(self, answer: Answer) -> None:
        try:
            _count(self._metrics, answer)
            shown = orjson.dumps(self._messages.shown(answer))
        except Exception as error:
            self.set_exception(error)
        else:
            self._reply.set_result(shown)


def _count(metrics: Metrics, answer: Answer) -> None:
    if answer.repeated:
        metrics.repeats.inc()
        return
    metrics.decisions[answer.decision].inc()
    metrics.freshness(answer.freshness)
    if answer.degraded:
        metrics.degraded.inc()
