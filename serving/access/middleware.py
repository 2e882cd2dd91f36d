"""The guard before every route, in ASGI without a framework.

It refuses foreign hosts, writes from other sites, bodies without end and too many requests at once, and it
counts every request.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ServingError
from serving.metrics import HUNG_UP, UNMATCHED, Metrics
from serving.settings import Limits, is_loopback

PROBES = "/health"
JSON = b"application/json"


class BodyTooLarge(ServingError):
    """The request's body is over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is over {limit} bytes")


class Door:
    """Counts every request, and refuses some of them at once.

    The refusals are 400 for a foreign Host, 415 for a POST that is not JSON, 413 for a body over the limit,
    and 503 when too many requests are in flight.

    A client that hangs up before its request is whole, or while the request waits for the store, gets no
    answer. The request counts as 499.

    A page from another site can make a browser on this machine POST text or a form here. For JSON the browser
    first asks this service for permission, and the service gives none. So only JSON is taken.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self._limits, self._metrics = app, limits, metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._in_flight += 1
        try:
            if refused := self._refusal(scope):
                self._metrics.refused[refused[1]].inc()
                await _answer(counted, *refused)
            else:
                await self.app(scope, _limited(receive, self._limits.body_bytes), counted)
        except ClientDisconnect:
            status = HUNG_UP
        finally:
            self._in_flight -= 1
            self._metrics.request(
                getattr(scope.get("route"), "path", UNMATCHED), status, time.perf_counter() - started
            )

    def _refusal(self, scope: Scope) -> tuple[int, str, str, list[tuple[bytes, bytes]]] | None:
        host, length, kind = b"", b"", b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"content-length":
                length = value
            elif name == b"content-type":
                kind = value
        if not _is_loopback(host):
            return 400, "foreign_host", "the Host header names another host", []
        if scope["method"] == "POST" and kind.partition(b";")[0].strip().lower() != JSON:
            return 415, "not_json", "the Content-Type has to be application/json", [(b"connection", b"close")]
        if length.isdigit() and int(length) > self._limits.body_bytes:
            return 413, "too_large", str(BodyTooLarge(self._limits.body_bytes)), [(b"connection", b"close")]
        if self._in_flight > self._limits.in_flight and not scope["path"].startswith(PROBES):
            return 503, "overload", "too many requests at once", [(b"retry-after", b"1")]
        return None


def _limited(receive: Receive, limit: int) -> Receive:
    """Raises `BodyTooLarge` while the body is received, for bodies that do not say their length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLarge(limit)
        return message

    return limited


async def _answer(
    send: Send, status: int, kind: str, message: str, headers: list[tuple[bytes, bytes]]
) -> None:
    body = orjson.dumps({"detail": [{"type": kind, "loc": [], "msg": message}]})
    start: dict[str, Any] = {"type": "http.response.start", "status": status}
    start["headers"] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send(start)
    await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=64)  # Clients of a service name one or two hosts, in every request.
def _is_loopback(header: bytes) -> bool:
    host = header.decode("latin-1")
    name, _, port = host.rpartition(":")
    with_port = name and port.isdigit() and (name.endswith("]") or ":" not in name)
    return is_loopback(name if with_port else host)
