"""How long a request waits for the lock of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect

from serving.store.base import StoreBusy

RETRY_EVERY_S = 0.002

Result = TypeVar("Result")
HungUp = Callable[[], Awaitable[bool]]


async def patiently(work: Callable[[], Result], deadline_s: float, hung_up: HungUp | None = None) -> Result:
    """Do the work once the store's lock is free. Other requests go on while this one waits.

    `StoreBusy` after `deadline_s` seconds. `ClientDisconnect` where the client hung up before that.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            return work()
        except StoreBusy:
            if hung_up is not None and await hung_up():
                raise ClientDisconnect from None
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(RETRY_EVERY_S)
