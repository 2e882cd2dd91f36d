"""Work on several items at once, a few items ahead of whoever takes the results.

NumPy, Arrow and the disk release the interpreter while they work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads would wait for the interpreter, because one thread holds it at a time.
THREADS = min(os.cpu_count() or 1, 4)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items.

    An item is started only as results are taken, so the number of unfinished items stays bounded. An error of
    an item is raised in the place of its result.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > THREADS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
