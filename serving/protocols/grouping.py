"""Requests for predictions that wait at the same moment are decided in one commit.

A commit takes as long as all the rest of a ready vector, and one of several vectors hardly longer. No
request waits for a clock: what came in one iteration of the event loop is a group, and one request alone is a
group of one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol, TypeVar

from starlette.requests import ClientDisconnect

from serving.contract.records import Answer
from serving.data_plane import DataPlane
from serving.messages import ReadyVector, ScoredEvent
from serving.protocols.patience import RETRY_EVERY_S, HungUp
from serving.store.base import StoreBusy

# A group of 16 events holds the store and the event loop for 6 ms. Another worker waits 20 ms for its turn
# before it does other work. Larger groups gain little: on a busy machine a ready vector took 151, 86, 79 and
# 74 µs in groups of 1, 8, 16 and 64.
MOST_ROWS = 16

log = logging.getLogger("serving")
Given = TypeVar("Given", contravariant=True)


class Reply(Protocol[Given]):
    """What waits for an answer, such as a future. A connection that sends it at once is faster than one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Given, /) -> None:
        """Take the answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take the error in the answer's place."""


class _Waiting(NamedTuple):
    row: ScoredEvent | ReadyVector
    hung_up: HungUp
    deadline_s: float  # On the clock of the event loop.
    reply: Reply[Answer]


class Grouping:
    """Decides rows in the order in which they came, several in one commit. One event loop uses it."""

    def __init__(self, plane: DataPlane, deadline_s: float) -> None:
        self._plane, self._deadline_s = plane, deadline_s
        self._waiting: list[_Waiting] = []
        self._retry: asyncio.Task[None] | None = None

    def decide(self, row: ScoredEvent | ReadyVector, hung_up: HungUp, reply: Reply[Answer]) -> None:
        """Decide a row in this iteration of the loop. The reply gets the answer once it is committed.

        In the answer's place the reply gets the error that the row alone would have raised. That is
        `StoreBusy` where the store is locked for longer than the deadline, `ClientDisconnect` where the
        client hung up while the store was locked, and `StoreError` where the commit of the row's group
        failed. Then nothing of the row is kept.
        """
        loop = asyncio.get_running_loop()
        self._waiting.append(_Waiting(row, hung_up, loop.time() + self._deadline_s, reply))
        if len(self._waiting) == 1:
            loop.call_soon(self._decide)

    def _decide(self) -> None:
        """Decide the first rows that wait. The others follow in the next iteration of the loop."""
        group, self._waiting = self._waiting[:MOST_ROWS], self._waiting[MOST_ROWS:]
        group = [one for one in group if not one.reply.done()]  # A request may have been cancelled.
        try:
            outcomes = self._plane.predict_many([one.row for one in group]) if group else []
        except StoreBusy as busy:
            self._waiting = group + self._waiting
            self._retry = asyncio.ensure_future(self._later(busy))
            return
        except Exception as error:
            outcomes = [error] * len(group)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._decide)
        for one, outcome in zip(group, outcomes, strict=True):
            _tell(one, outcome)

    async def _later(self, busy: StoreBusy) -> None:
        """Try again when the store may be free, without those who hung up or have waited for too long."""
        try:
            await asyncio.sleep(RETRY_EVERY_S)
            now_s = asyncio.get_running_loop().time()
            for one in list(self._waiting):
                if await one.hung_up():
                    _tell(one, ClientDisconnect())
                elif now_s > one.deadline_s:
                    _tell(one, busy)
        finally:
            self._decide()


def _tell(waiting: _Waiting, outcome: Answer | Exception) -> None:
    """Give a row its outcome. Where that fails, the others still get theirs."""
    try:
        if isinstance(outcome, Answer):
            waiting.reply.set_result(outcome)
        elif not waiting.reply.done():
            # A future takes any other error.
            error = RuntimeError(repr(outcome)) if isinstance(outcome, StopIteration) else outcome
            waiting.reply.set_exception(error)
    except Exception:
        log.exception("an answer could not be given")
