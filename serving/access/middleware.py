"""The guard before every route, in ASGI without a framework."""

from __future__ import annotations

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access.guard import BodyTooLarge, Guard, Refused
from serving.metrics import HUNG_UP, UNMATCHED, Metrics


class Door:
    """Lets in what the guard lets in, and answers the rest at once.

    A client that hangs up before its request is whole, or while the request waits for the store, gets no
    answer. The request counts as 499.
    """

    def __init__(self, app: ASGIApp, guard: Guard, metrics: Metrics, body_bytes: int) -> None:
        self.app, self._guard, self._metrics, self._body_bytes = app, guard, metrics, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._guard.refusal(scope["method"], scope["path"], dict(scope["headers"]))
        entered, status = self._guard.enter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refused is not None:
                self._metrics.refused[refused.kind].inc()
                await _answer(counted, refused)
            else:
                await self.app(scope, _limited(receive, self._body_bytes), counted)
        except ClientDisconnect:
            status = HUNG_UP
        finally:
            self._guard.leave(getattr(scope.get("route"), "path", UNMATCHED), status, entered)


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


async def _answer(send: Send, refused: Refused) -> None:
    body = orjson.dumps({"detail": [{"type": refused.kind, "loc": [], "msg": refused.message}]})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refused.headers,
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
