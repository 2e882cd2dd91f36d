"""The guard at the door: what it turns away when too many come at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.access.guard import Guard
from serving.access.middleware import Door
from serving.metrics import Metrics
from serving.settings import Limits


@pytest.mark.fault(7)
def test_over_the_limit_requests_get_503_with_retry_after_while_probes_answer() -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/predict":
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def scenario() -> tuple[list[int], int, dict[bytes, bytes]]:
        metrics = Metrics()
        metrics.know_routes(["/predict"])
        limits = Limits(in_flight=3)
        door = Door(slow, Guard(limits, metrics), metrics, limits.body_bytes)
        in_flight = [asyncio.create_task(ask(door, "/predict")) for _ in range(3)]
        await asyncio.sleep(0)
        refused, probe = await ask(door, "/predict"), await ask(door, "/health/live")
        release.set()
        finished = [(await task)["status"] for task in in_flight]
        assert (await ask(door, "/predict"))["status"] == 200
        return [refused["status"], *finished], probe["status"], dict(refused["headers"])

    statuses, probe, headers = asyncio.run(scenario())
    assert statuses == [503, 200, 200, 200]
    assert probe == 200
    assert headers[b"retry-after"] == b"1"


async def ask(door: Door, path: str) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    await door({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return sent[0]
