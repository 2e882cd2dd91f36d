"""A connection of the server that sends an answer in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's connection. It writes head and body apart, and the system sends each of them at once.

    A second sending costs an answer some 15 µs, and wakes the client for a head without a body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Writes go through a `Sender`."""
        super().connection_made(Sender(transport, self.loop))  # type: ignore[arg-type]


class Sender:
    """A transport that holds a first write until the second one, or until the loop's iteration ends."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, b""

    def write(self, data: bytes) -> None:
        """As a transport's."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """As a transport's: what was written is sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        data, self._held = self._held, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
