"""A plain route without ASGI, for a connection that takes the request and sends the answer itself.

uvicorn's way through ASGI (a task, a scope, three messages) costs a request 40 µs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi.responses import Response

from serving.access.guard import Guard
from serving.metrics import Metrics
from serving.protocols.native.error_responses import FAULT, REFUSED, refusal_of
from serving.protocols.native.predictions import Predict

log = logging.getLogger("serving")


class DirectRoute:
    """What a connection needs to know of a route: whom to let in, what answers, and how an error is told."""

    def __init__(self, path: str, handler: Predict, guard: Guard, metrics: Metrics) -> None:
        self.path, self.handler, self.guard, self._metrics = path, handler, guard, metrics

    def lets_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the request says the length of its body, and the guard does not turn it away."""
        return b"content-length" in headers and self.guard.refusal("POST", self.path, headers) is None

    def refused(self, error: BaseException) -> tuple[Response, bool]:
        """An error as a response, and whether the error is a fault of the service. A fault is logged."""
        if isinstance(error, REFUSED):
            return refusal_of(error).response(self._metrics), False
        return self.fault(error)

    def fault(self, error: BaseException) -> tuple[Response, bool]:
        """A fault of the service as `refused` gives it."""
        log.error("a request failed", exc_info=error)
        return FAULT.response(self._metrics), True
