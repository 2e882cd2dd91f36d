"""Work on several items at once, a few ahead of whoever takes the results.

NumPy, Arrow and the disk release the interpreter meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads would wait for the interpreter, which one of them holds at a time.
THREADS = min(os.cpu_count() or 1, 4)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items.

    Items are taken only as results are taken, so that the work under way stays bounded. An error of an item
    is raised where its result would be.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > THREADS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
