"""Routes in ASGI without a framework, for the requests that somebody waits for.

The framework's way from the path to the handler and back costs a request 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.metrics import Metrics
from serving.protocols.native.error_responses import FAULT, REFUSED, refusal_of
from serving.protocols.patience import HungUp

# The body of a request, and whether its client has hung up by now; returns the body of the answer.
Handler = Callable[[bytes, HungUp], Awaitable[bytes]]


class Plain:
    """A handler of JSON as an ASGI application.

    An error of `REFUSED` is answered as a refusal. Any other error is answered 500 and raised, so that the
    server logs it.
    """

    def __init__(self, handler: Handler, metrics: Metrics) -> None:
        self._handler, self._metrics = handler, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hung_up() -> bool:
            return await Request(scope, receive).is_disconnected()

        try:
            body = await self._handler(await _body(receive), hung_up)
        except REFUSED as error:
            await refusal_of(error).response(self._metrics)(scope, receive, send)
            return
        except ClientDisconnect:
            raise
        except Exception:
            await FAULT.response(self._metrics)(scope, receive, send)
            raise
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class ByPath:
    """Hands a POST to the plain route of its path, and everything else to the framework."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self.app, self._routes = app, {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        try:
            await (route.app if scope["method"] == "POST" else self.app)(scope, receive, send)
        finally:
            scope["route"] = route  # The door counts requests by it. The framework may have set another.


async def _body(receive: Receive) -> bytes:
    """The whole body of a request; `ClientDisconnect` where the client hangs up before the end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
