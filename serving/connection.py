"""A connection of the server that sends an answer in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONTINUE = b"HTTP/1.1 100 "  # No answer yet: the client waits for it before it sends its body.


class Connection(HttpToolsProtocol):
    """uvicorn's connection. It writes head and body apart, and the system sends each of them at once.

    A second sending costs an answer some 15 µs, and wakes the client for a head without a body.
    """

    _sender: Sender

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Writes go through a `Sender`."""
        self._sender = Sender(transport)
        super().connection_made(self._sender)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """An answer without a body is sent now."""
        self._sender.answered()
        super().on_response_complete()


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
