"""When Python looks through everything that the service holds for garbage.

With a full memory of keys that takes 40 to 200 ms, for which requests wait. Nearly everything is freed
without it, by counting references. So it happens while hardly anybody asks, and otherwise some times a day.
"""

from __future__ import annotations

import asyncio
import gc
import time

# New objects that start a collection of the new ones, collections of those until one of the younger ones, and
# collections of the younger ones until one of all. With Python's 700, 10 and 10 the first two took 3 to 15 ms
# at 1,000 events a second, and all objects were looked through every 40 s.
THRESHOLDS = (200, 10, 4_000)
LOOK_EVERY_S = 1.0
IDLE_SHARE = 0.02  # Of the processor's time that the thread of the requests used in between.
AT_MOST_EVERY_S = 600.0


def keep_what_is_there() -> None:
    """Look through all objects for the last time. Those that are there now are never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def collect_while_idle() -> None:
    """Look through all other objects after a second of few requests or none, on their thread."""
    next_s = time.monotonic() + AT_MOST_EVERY_S
    while True:
        before_s = time.thread_time()
        await asyncio.sleep(LOOK_EVERY_S)
        idle = time.thread_time() - before_s < IDLE_SHARE * LOOK_EVERY_S
        if idle and time.monotonic() >= next_s:
            gc.collect()
            next_s = time.monotonic() + AT_MOST_EVERY_S
