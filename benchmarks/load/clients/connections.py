"""Kept-alive HTTP/1.1 connections of one process without a framework, so that the client costs little."""

from __future__ import annotations

import socket
from dataclasses import dataclass

HEAD_END, LENGTH = b"\r\n\r\n", b"content-length:"
READ_BYTES = 262_144
GIVE_UP_S = 30.0  # For a connection to be made.


class BrokenConnection(Exception):
    """The server hung up, or sent something other than an HTTP answer with a length."""


@dataclass(frozen=True)
class Response:
    """An answer: its status, and its body as bytes."""

    status: int
    body: bytes


class KeptConnection:
    """A connection on which one request at a time is under way. `select` can wait for it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._unsent, self._read = b"", bytearray()

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    @property
    def local_port(self) -> int:
        """The port of this end, by which the process at the other end can be found."""
        return int(self._socket.getsockname()[1])

    @property
    def unsent(self) -> bool:
        """Whether a part of the request still has to be sent: `send_more` once the socket can take it."""
        return bool(self._unsent)

    @property
    def hung_up(self) -> bool:
        """Whether the server has closed the connection, as it does with one that was idle for long."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def post(self, path: bytes, body: bytes) -> None:
        """Send a request, or as much of it as the socket takes."""
        self._unsent = (
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (path, len(body), body)
        )
        self.send_more()

    def send_more(self) -> None:
        """Send the rest of the request, or as much of it as the socket takes."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise BrokenConnection(str(error)) from error

    def receive(self) -> Response | None:
        """The answer, once the whole of it is there; None before that. `BrokenConnection` without one."""
        try:
            part = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise BrokenConnection(str(error)) from error
        if not part:
            raise BrokenConnection("the server hung up")
        self._read += part
        end = self._read.find(HEAD_END)
        if end < 0:
            return None
        head = bytes(self._read[:end]).lower()
        at = head.find(LENGTH)
        if at < 0:
            raise BrokenConnection(f"an answer without a length: {head[:200]!r}")
        whole = end + len(HEAD_END) + int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
        if len(self._read) < whole:
            return None
        body = bytes(self._read[end + len(HEAD_END) : whole])
        self._read.clear()
        return Response(int(head[9:12]), body)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
