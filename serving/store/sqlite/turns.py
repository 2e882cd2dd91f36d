"""Several processes take the write lock of a file in turns.

SQLite gives the lock to whoever asks at the right moment. A busy process asks again at once, so that another
one could miss the moment for as long as a request may wait. A process that waits for the write lock to decide
on requests therefore holds the lock of a second file, and no other one decides on requests meanwhile.
Housekeeping takes no turn. Of three processes, two may wait for the turn, and either of them gets it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from serving.store.base import StoreBusy

# How long a process waits for the turn, and then for the write lock: 16 events of another one take 6 ms. It
# has nothing else to do meanwhile, since all that it does needs the store.
TURN_S = 0.02
ASK_EVERY_S = 0.0002


class Turns:
    """The turns of one opened file."""

    def __init__(self, file: Path) -> None:
        """`OSError` where the second file cannot be opened."""
        self._descriptor = os.open(f"{file}.turn", os.O_RDONLY | os.O_CREAT, 0o644)

    def take(self) -> None:
        """Wait until nobody else waits for the write lock. `StoreBusy` after `TURN_S`."""
        until_s = time.monotonic() + TURN_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise StoreBusy("the online store is locked") from None
                time.sleep(ASK_EVERY_S)
            else:
                return

    def give(self) -> None:
        """The write lock is held, or was not to be had. The turn is the next one's."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the turn, and close the file."""
        os.close(self._descriptor)
