"""A connection of the server that serves predictions itself, and sends every answer in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.metrics import HUNG_UP

if TYPE_CHECKING:
    from serving.protocols.native.direct_route import DirectRoute

CONTINUE = b"HTTP/1.1 100 "  # No answer yet: the client waits for it before it sends its body.
CLOSE = b"connection: close\r\n"
# The head of an answer up to its length.
ANSWERED = STATUS_LINE[200] + b"content-type: application/json\r\ncontent-length: "


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a short way for the routes in `direct` of the application.

    The short way takes an ordinary request that the guard lets in: HTTP/1.1, a body of a known length, and no
    other request of the connection in flight. Anything else goes uvicorn's way, which answers the same. The
    short way writes no access log and no headers of the server. This service has both switched off.

    uvicorn writes head and body apart, and the system sends each of them at once. A second sending costs an
    answer some 15 µs, and wakes the client for a head without a body.
    """

    _line: asyncio.Transport
    _sender: Sender

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct: Mapping[bytes, DirectRoute] = getattr(self.app, "direct", {})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Writes of uvicorn go through a `Sender`."""
        self._line, self._sender = transport, Sender(transport)
        super().connection_made(self._sender)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's. A request whose body was not whole is at its end."""
        super().connection_lost(exc)
        if (exchange := self._exchange) is not None:
            exchange.lost()
        elif isinstance(self.cycle, Exchange):
            self.forget()

    def on_message_begin(self) -> None:
        """uvicorn's own work is left until it is known to be needed."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Take the request, or leave it to uvicorn."""
        route = self._direct.get(self.url)
        if route is not None and self._is_ordinary() and route.lets_in(dict(self.headers)):
            exchange = Exchange(self, route, self.parser.should_keep_alive())
            self.cycle = cast("RequestResponseCycle", exchange)
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # The scope holds this very list.
        super().on_headers_complete()

    def _is_ordinary(self) -> bool:
        """Whether a request is one for the short way, by its head and the state of the connection."""
        return (
            self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self.parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        """A part of the body of the newest request."""
        if (exchange := self._exchange) is not None:
            exchange.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The newest request is whole."""
        if (exchange := self._exchange) is not None:
            exchange.begin()
        else:
            super().on_message_complete()

    @property
    def _exchange(self) -> Exchange | None:
        """The request that is on the short way now. One that has its answer stays until the next one."""
        cycle: Any = self.cycle
        return cycle if isinstance(cycle, Exchange) and not cycle.response_complete else None

    def on_response_complete(self) -> None:
        """An answer without a body is sent now."""
        self._sender.answered()
        super().on_response_complete()

    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._line.is_closing()

    def answer(self, data: bytes, keep_alive: bool) -> None:
        """Send the answer of an exchange in one piece. The next request may begin."""
        if self._line.is_closing():
            self.forget()
        else:
            self._line.write(data)
            if not keep_alive:
                self._line.close()
        self.on_response_complete()

    def forget(self) -> None:
        """The client is gone. Nothing holds the connection then, so that it is freed at once."""
        self.cycle = None  # type: ignore[assignment]

    def close(self) -> None:
        """Send what was written, and close."""
        self._line.close()


class Exchange:
    """A request on the short way, and what waits for its answer.

    It stands where uvicorn keeps its `RequestResponseCycle`, and has what uvicorn's connection asks of that.
    """

    __slots__ = (
        "_begun", "_connection", "_entered", "_route", "body", "disconnected", "keep_alive", "message_event",
        "response_complete",
    )  # fmt: skip

    def __init__(self, connection: Connection, route: DirectRoute, keep_alive: bool) -> None:
        self._connection, self._route, self.keep_alive = connection, route, keep_alive
        self.body = bytearray()
        self._begun = self.response_complete = self.disconnected = False
        self.message_event = _NOBODY
        self._entered = route.guard.enter()

    def begin(self) -> None:
        """The body is whole. The answer comes in a later iteration of the loop, an error in the request too.

        An answer from within the parser would let it go on with a request for a connection that was closed.
        """
        self._begun = True
        try:
            body, self.body = bytes(self.body), bytearray()
            self._route.handler(body, self._hung_up, self)
        except Exception as error:
            self._connection.loop.call_soon(self.set_exception, error)

    def lost(self) -> None:
        """The client hung up. Where its body was not whole, that is the end."""
        if not self._begun:
            self.set_exception(ClientDisconnect())

    async def _hung_up(self) -> bool:
        return self._connection.is_lost()

    def done(self) -> bool:
        """Whether the request has its answer, or needs none any more."""
        return self.response_complete

    def set_result(self, body: bytes) -> None:
        """Send an answer. It is JSON."""
        end = b"\r\n" if self.keep_alive else b"\r\n" + CLOSE
        self._end(200, b"%b%d%b\r\n%b" % (ANSWERED, len(body), end, body))

    def set_exception(self, error: BaseException) -> None:
        """Send the answer that tells an error. After a fault of the service the connection is closed."""
        if isinstance(error, ClientDisconnect):
            self.response_complete = True
            self._connection.forget()
            self._route.guard.leave(self._route.path, HUNG_UP, self._entered)
            return
        try:
            response, is_fault = self._route.refused(error)
        except Exception as fault:  # Otherwise the client would wait for ever.
            response, is_fault = self._route.fault(fault)
        head = b"".join(_lines(response.raw_headers)) + (b"" if self.keep_alive else CLOSE)
        self._end(response.status_code, STATUS_LINE[response.status_code] + head + b"\r\n" + response.body)
        if is_fault:
            self._connection.close()

    def _end(self, status: int, data: bytes) -> None:
        self.response_complete = True
        try:
            self._connection.answer(data, self.keep_alive)
        finally:
            self._route.guard.leave(self._route.path, status, self._entered)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    for name, value in headers:
        yield b"%b: %b\r\n" % (name, value)


class _Nobody:
    """Nobody waits for the event."""

    def set(self) -> None:
        """As an event's."""


_NOBODY = _Nobody()


class Sender:
    """A transport that holds the head of an answer until the answer's first part, or its end, is there."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._begun, self._held = False, b""

    def write(self, data: bytes) -> None:
        """As a transport's."""
        if self._begun:
            self._send(data)
        elif data.startswith(CONTINUE):
            self._transport.write(data)
        else:
            self._begun, self._held = True, data

    def is_closing(self) -> bool:
        """As a transport's."""
        return self._transport.is_closing()

    def answered(self) -> None:
        """Send what is held. The next write begins an answer."""
        self._send()
        self._begun = False

    def close(self) -> None:
        """As a transport's: what was written is sent before."""
        self._send()
        self._transport.close()

    def _send(self, more: bytes = b"") -> None:
        data, self._held = self._held + more, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
