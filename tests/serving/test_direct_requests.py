"""What a connection answers itself is, byte for byte, what the application answers through uvicorn."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from http_kit import Door
from serving_kit import payment
from uvicorn.server import ServerState

from serving.connection import Connection
from serving.contract.bundle import Release
from serving.settings import Limits

Result = TypeVar("Result")
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class Client:
    """A connection to the service, for bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        """The service receives the parts one after the other."""
        for part in parts:
            self._writer.write(part)
            await asyncio.sleep(0.02)

    async def received(self) -> tuple[bytes, bool]:
        """What has come, and whether the service closed."""
        came = b""
        while True:
            try:
                more = await asyncio.wait_for(self._reader.read(1_000_000), 0.05)
            except TimeoutError:
                return came, False
            if not more:
                return came, True
            came += more

    def hang_up(self) -> None:
        self._writer.close()


class Server:
    """The application behind uvicorn's connections, on this loop."""

    port = 0

    def __init__(self, app: Any) -> None:
        self.state, self.through_asgi, self.clients = ServerState(), list[str](), list[Client]()

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            self.through_asgi.append(scope["path"])
            await app(scope, receive, send)

        noted.direct = app.direct  # type: ignore[attr-defined]
        self._config = uvicorn.Config(
            noted, http=Connection, ws="none", lifespan="off", log_config=None, proxy_headers=False
        )
        self._config.load()

    def connection(self) -> Connection:
        return Connection(self._config, self.state, {})

    async def client(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def quiet(self) -> None:
        """Until each request that came has its answer."""
        while any(is_busy(connection) for connection in self.state.connections):
            await asyncio.sleep(0.005)


def is_busy(connection: Any) -> bool:
    cycle = connection.cycle
    return bool(connection.pipeline) or (cycle is not None and not cycle.response_complete)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Server]:
    server = Server(app)
    listening = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for client in server.clients:
            client.hang_up()
        await gone(server)
        await asyncio.sleep(0.01)


def run(door: Door, scene: Callable[[Server], Coroutine[Any, Any, Result]]) -> Result:
    async def played() -> Result:
        async with serving(door.app) as server:
            return await asyncio.wait_for(scene(server), 60)

    return asyncio.run(played())


def request(number: int, *headers: str, head: bytes = HEAD, **body: Any) -> bytes:
    content = json.dumps(body or {"transaction": payment(number)}).encode()
    return framed(content, *headers, head=head)


def framed(content: bytes, *headers: str, head: bytes = HEAD) -> bytes:
    named = "".join(f"{header}\r\n" for header in headers).encode()
    return head + named + b"content-length: %d\r\n\r\n" % len(content) + content


def chunked(*parts: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks


ONE, TWO, THREE = request(1), request(2), request(3)
BODY = ONE.partition(b"\r\n\r\n")[2]
GET = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
CASES: dict[str, list[bytes]] = {
    "one": [ONE],
    "one after the other": [ONE, TWO, GET, THREE],
    "pipelined": [ONE + TWO + THREE],
    "pipelined with another route between": [ONE + GET + TWO],
    "pipelined in parts": [ONE + TWO[:20], TWO[20:250], TWO[250:] + THREE],
    "half a head": [ONE[:40], ONE[40:]],
    "half a header's name": [ONE[:60], ONE[60:61], ONE[61:]],
    "half a body": [ONE[:-30], ONE[-30:-1], ONE[-1:]],
    "close": [request(1, "connection: close")],
    "close, and another after it": [request(1, "connection: close") + TWO],
    "refused, close, and another after it": [framed(b"{", "connection: close") + TWO],
    "HTTP/1.0": [request(1, head=HEAD.replace(b"1.1", b"1.0"))],
    "HTTP/1.0 that would stay": [request(1, "connection: keep-alive", head=HEAD.replace(b"1.1", b"1.0"))],
    "to go on": [request(1, "expect: 100-continue")[: -len(BODY)], BODY, TWO],
    "chunked": [chunked(BODY[:9], BODY[9:]) + TWO],
    "over the limit": [HEAD + b"content-length: 1000001\r\n\r\n"],
    "over the limit, with white space": [HEAD + b"content-length: 1000001 \t\r\n\r\n"],
    "over the limit, with zeros": [HEAD + b"content-length: " + b"0" * 5_000 + b"1000001\r\n\r\n"],
    "a length with many zeros": [HEAD + b"content-length: " + b"0" * 5_000 + b"2\r\n\r\n{}", ONE],
    "a host without end": [request(1, head=HEAD.replace(b"localhost", b"l" * 10_000)), TWO],
    "a long body within the limit": [framed(b" " * 300_000 + BODY), TWO],
    "without a length": [HEAD + b"\r\n"],
    "of length 0": [framed(b""), ONE],
    "a foreign host": [request(1, head=HEAD.replace(b"localhost", b"evil.example")), TWO],
    "no JSON by its type": [request(1, head=HEAD.replace(b"application/json", b"text/plain"))],
    "JSON with its letters": [request(1, head=HEAD.replace(b"json", b"JSON; charset=utf-8"))],
    "a query": [request(1, head=HEAD.replace(b"predict", b"predict?a=b"))],
    "another method": [request(1, head=HEAD.replace(b"POST", b"PUT")), TWO],
    "an upgrade that nobody knows": [request(1, "connection: upgrade", "upgrade: h2c")],
    "no JSON": [framed(b"{"), ONE],
    "no JSON, and another behind it": [framed(b"{") + ONE],
    "wrong fields": [request(1, a=1), ONE],
    "a conflict": [ONE, request(1, transaction=payment(1, amount=1))],
    "the same again": [ONE, ONE],
    "what is no HTTP behind a request": [ONE + b"\x00\r\n\r\n"],
    "a length twice": [ONE.replace(b"content-length", b"content-length: 1\r\ncontent-length")],
    "a batch": [
        request(0, head=HEAD.replace(b"predict", b"predict/batch"), rows=[{"transaction": payment(1)}]), TWO,
    ],
}  # fmt: skip


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_the_short_way_answers_byte_for_byte_what_uvicorns_way_does(
    tmp_path: Path, release: Release, parts: list[bytes]
) -> None:
    ways = list[tuple[bytes, bool, list[str]]]()
    for direct in (True, False):
        door = Door(tmp_path / str(direct), release)
        door.promote()
        if not direct:
            door.app.direct = {}

        async def talk(server: Server) -> tuple[bytes, bool]:
            client = await server.client()
            await client.send(*parts)
            await server.quiet()
            return await client.received()

        ways.append((*run(door, talk), counted(door)))
        door.service.plane.close()
    assert ways[0] == ways[1]
    assert ways[0][0].startswith(b"HTTP/1.1 ")


def test_ordinary_requests_do_not_pass_through_asgi(door: Door) -> None:
    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(ONE[:40], ONE[40:-9], ONE[-9:], framed(b"{"), request(2, "connection: close"))
        answered, closed = await client.received()
        assert (answered.count(b"HTTP/1.1 200"), answered.count(b"HTTP/1.1 400"), closed) == (2, 1, True)
        assert server.through_asgi == []
        assert server.state.total_requests == 3

    run(door, talk)


def test_without_a_model_the_refusal_is_the_same(tmp_path: Path, release: Release) -> None:
    door = Door(tmp_path, release)

    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(ONE)
        short, closed = await client.received()
        door.app.direct.clear()
        await client.send(ONE)
        assert (short, closed) == await client.received()
        assert short.startswith(b"HTTP/1.1 503")
        assert server.through_asgi == ["/predict"]

    run(door, talk)
    door.service.plane.close()


def test_a_fault_is_told_without_its_words_logged_and_ends_the_connection(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(rows: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(door.service.plane, "predict_many", fails)

    async def talk(server: Server) -> None:
        told = list[tuple[bytes, bool]]()
        for direct in (True, False):
            if not direct:
                door.app.direct.clear()
            client = await server.client()
            await client.send(ONE)
            await server.quiet()
            told.append(await client.received())
        assert told[0] == told[1]
        assert told[0][0].startswith(b"HTTP/1.1 500")
        assert (told[0][1], b"secret" in told[0][0]) == (True, False)

    run(door, talk)
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        ZeroDivisionError
    ] * 2
    assert 'serving_requests_total{route="/predict",status="5xx"} 2.0' in counted(door)


def test_a_client_that_hangs_up_between_two_requests_or_in_a_body_is_forgotten(door: Door) -> None:
    async def talk(server: Server) -> None:
        for more in (b"", TWO[:30], TWO[:-9]):
            client = await server.client()
            await client.send(ONE)
            assert (await client.received())[0].startswith(b"HTTP/1.1 200")
            await client.send(more)
            client.hang_up()
            await gone(server)

    run(door, talk)
    assert [line for line in counted(door) if "/predict" in line and not line.endswith(" 0.0")] == [
        'serving_requests_total{route="/predict",status="2xx"} 3.0',
        'serving_requests_total{route="/predict",status="499"} 1.0',
    ]
    assert decided(door) == ["t1"]
    assert is_empty(door)


def test_a_client_that_hangs_up_while_its_request_waits_for_the_store_leaves_nothing(door: Door) -> None:
    async def talk(server: Server) -> None:
        await warm(server)
        client = await server.client()
        with held(door):
            await client.send(ONE)
            client.hang_up()
            await gone(server)
            await asyncio.sleep(0.05)

    run(door, talk)
    assert 'serving_requests_total{route="/predict",status="499"} 1.0' in counted(door)
    assert decided(door) == ["t0"]
    assert is_empty(door)


def test_a_request_for_a_websocket_repeats_no_answer_and_leaves_no_place_behind(door: Door) -> None:
    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(framed(b"{"))
        assert (await client.received())[0].count(b"HTTP/1.1 ") == 1
        await client.send(GET[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert (await client.received())[0].startswith(b"HTTP/1.1 200")

    run(door, talk)
    assert 'serving_requests_total{route="/predict",status="4xx"} 1.0' in counted(door)
    assert is_empty(door)


def test_a_connection_whose_client_is_gone_is_freed_without_a_collection_of_garbage(door: Door) -> None:
    async def talk(server: Server) -> list[weakref.ref[Any]]:
        await warm(server)
        known = list[weakref.ref[Any]]()
        for part in (b"", TWO[:-9]):
            client = await server.client()
            await client.send(ONE, part)
            known += [weakref.ref(connection) for connection in server.state.connections]
            client.hang_up()
        return known

    gc.disable()
    try:
        known = run(door, talk)
        assert len(known) == 2
        assert [one() for one in known] == [None] * len(known)
    finally:
        gc.enable()


def test_an_error_that_cannot_be_told_is_a_fault_and_its_place_comes_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: object) -> None:
        raise KeyError("nobody counts it")

    monkeypatch.setattr("serving.protocols.native.direct_route.refusal_of", fails)

    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(framed(b"{"))
        answered, closed = await client.received()
        assert answered.startswith(b"HTTP/1.1 500")
        assert closed

    run(door, talk)
    assert is_empty(door)


def test_at_a_shutdown_what_waits_for_the_store_is_answered_and_then_the_connection_closes(
    door: Door,
) -> None:
    async def talk(server: Server) -> None:
        await warm(server)
        waits, idles = await server.client(), await server.client()
        with held(door):
            await waits.send(ONE)
            for connection in list(server.state.connections):
                connection.shutdown()
            assert await idles.received() == (b"", True)
            assert await waits.received() == (b"", False)
        await server.quiet()
        answered, closed = await waits.received()
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nconnection: close\r\n\r\n{" in answered
        assert closed
        assert server.through_asgi == []

    run(door, talk)
    assert decided(door) == ["t0", "t1"]


def test_too_many_requests_in_flight_are_refused_and_the_places_come_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.app.direct[b"/predict"].guard, "_limits", Limits(in_flight=1))

    async def talk(server: Server) -> None:
        await warm(server)
        first, second = await server.client(), await server.client()
        with held(door):
            await first.send(ONE)
            await second.send(TWO)
            assert (await second.received())[0].startswith(b"HTTP/1.1 503")
        await server.quiet()
        assert (await first.received())[0].startswith(b"HTTP/1.1 200")
        await second.send(TWO)
        await server.quiet()
        assert (await second.received())[0].startswith(b"HTTP/1.1 200")

    run(door, talk)
    assert 'serving_refused_total{reason="overload"} 1.0' in counted(door)
    assert is_empty(door)


def test_a_client_that_does_not_read_gets_no_further_answer_until_it_reads(door: Door) -> None:
    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(ONE)
        (connection,) = server.state.connections
        first, _ = await client.received()
        connection.pause_writing()
        await client.send(TWO)
        assert await client.received() == (b"", False)
        connection.resume_writing()
        await server.quiet()
        second, _ = await client.received()
        assert first.startswith(b"HTTP/1.1 200")
        assert second.startswith(b"HTTP/1.1 200")

    run(door, talk)


def test_a_connection_that_stays_idle_after_an_answer_is_closed(door: Door) -> None:
    async def talk(server: Server) -> None:
        client = await server.client()
        await client.send(ONE[:40])
        (connection,) = server.state.connections
        connection.timeout_keep_alive = 0.1  # type: ignore[union-attr]
        await client.send(ONE[40:])
        await gone(server)
        answered, closed = await client.received()
        assert answered.startswith(b"HTTP/1.1 200")
        assert closed

    run(door, talk)
    assert decided(door) == ["t1"]


def counted(door: Door) -> list[str]:
    """The counters of requests, without what a scrape counts of itself."""
    names = ("serving_requests_total", "serving_refused_total", "serving_decisions_total")
    return [
        line for line in door.ask("GET", "/metrics").text.splitlines()
        if line.startswith((*names, "serving_predict_seconds_count")) and "/metrics" not in line
    ]  # fmt: skip


def decided(door: Door) -> list[str]:
    with closing(sqlite3.connect(door.service.settings.database)) as connection:
        return [row[0] for row in connection.execute("SELECT prediction_id FROM decisions ORDER BY seq")]


def is_empty(door: Door) -> bool:
    """Whether no request holds a place of the guard's."""
    return door.app.direct[b"/predict"].guard._in_flight == 0


@contextmanager
def held(door: Door) -> Iterator[None]:
    """Another process has the lock of the store."""
    with closing(sqlite3.connect(door.service.settings.database, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")


async def warm(server: Server) -> None:
    """One request is answered, so that the state is there."""
    client = await server.client()
    await client.send(request(0))
    await server.quiet()
    client.hang_up()
    await gone(server)


async def gone(server: Server) -> None:
    """Until the service has seen that every client hung up."""
    while server.state.connections:
        await asyncio.sleep(0.005)
