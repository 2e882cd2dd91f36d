"""What `/predict` does with a request: bytes in, the data plane's answer out as bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import orjson

from serving.contract.records import Answer
from serving.messages import ScoredEvent
from serving.metrics import Metrics
from serving.protocols.native.patience import HungUp, patiently
from serving.protocols.native.plain_routes import Handler
from serving.protocols.native.wire import Wire
from serving.service import Service


def prediction_handlers(service: Service, wire: Callable[[], Wire]) -> dict[str, Handler]:
    """The handlers by path. `wire` gives the messages of the use case that is served.

    Their docstrings are the documentation of their routes.
    """
    plane, metrics, deadline_s = service.plane, service.metrics, service.settings.limits.store_deadline_s

    async def predict(body: bytes, hung_up: HungUp) -> bytes:
        """Score an event against its history, or a ready-made vector.

        A repeated id gets its stored answer; with another payload, 409.
        """
        messages = wire()
        asked = messages.asked(body)
        decide = (
            partial(plane.predict_event, asked)
            if isinstance(asked, ScoredEvent)
            else partial(plane.predict_features, asked.features, asked.prediction_id)
        )
        answer = await patiently(decide, deadline_s, hung_up)
        _count(metrics, answer)
        return orjson.dumps(messages.shown(answer))

    return {"/predict": predict}


def _count(metrics: Metrics, answer: Answer) -> None:
    if answer.repeated:
        metrics.repeats.inc()
        return
    metrics.decisions[answer.decision].inc()
    metrics.freshness(answer.freshness)
    if answer.degraded:
        metrics.degraded.inc()
