"""An answer leaves the server in one piece, and nothing of it is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn.server

from serving.connection import Connection, Sender


class Line(asyncio.Transport):
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent, self.closed = list[bytes](), False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        pass


def sent(answer: Callable[[Any], Awaitable[None]], *requests: bytes) -> Line:
    """What a connection sends for an application that answers each request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await answer(send)

    async def asked() -> Line:
        config = uvicorn.Config(app, http=Connection, lifespan="off", server_header=False, date_header=False)
        config.load()
        line, connection = Line(), Connection(config, uvicorn.server.ServerState(), {})
        connection.connection_made(line)
        for request in requests:
            connection.data_received(request)
            for _ in range(5):
                await asyncio.sleep(0)
        connection.connection_lost(None)
        return line

    return asyncio.run(asked())


def start(length: int) -> dict[str, Any]:
    headers = [(b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def whole(send: Any) -> None:
    await send(start(2))
    await send({"type": "http.response.body", "body": b"ab"})


GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"


def test_an_answer_is_sent_in_one_piece() -> None:
    assert sent(whole, GET, GET).sent == [ANSWER, ANSWER]


def test_what_is_closed_at_once_is_sent_before() -> None:
    line = sent(whole, GET.replace(b"localhost", b"localhost\r\nconnection: close"))
    assert b"".join(line.sent) == ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert line.closed


def test_a_head_without_a_body_is_not_held_back() -> None:
    assert sent(whole, GET.replace(b"GET", b"HEAD")).sent == [ANSWER[:-2]]


def test_a_body_in_parts_is_sent_to_its_end() -> None:
    async def parts(send: Any) -> None:
        await send(start(3))
        for part in (b"a", b"b", b"c"):
            await send({"type": "http.response.body", "body": part, "more_body": part != b"c"})

    assert b"".join(sent(parts, GET).sent) == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"


def test_a_client_is_told_to_go_on_before_it_sends_its_body() -> None:
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
    assert sent(whole, head, b"x").sent == [b"HTTP/1.1 100 Continue\r\n\r\n", ANSWER]


def test_a_connection_that_was_lost_is_not_written_to() -> None:
    line = Line()
    sender = Sender(line)
    sender.write(b"HTTP/1.1 200 OK")
    line.close()
    sender.write(b"ab")
    sender.answered()
    assert line.sent == []
