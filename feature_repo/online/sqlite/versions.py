"""The versions of histories: a counter for each key, which every change raises in its own commit.

The counters are no part of a generation, so a rebuild does not fill them. A switch begins an epoch: the
moment of the switch in microseconds, below which no version lies afterwards. So the counters of before are
forgotten. The new state holds everything that was committed before the switch, from this file and from a file
that was lost. All of it then has a smaller version than what a question reads. A new file begins with an
epoch too. Versions would come twice only if a key changed more than a million times a second, or if the
machine's clock went back before a new file was made.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Sequence

from feature_repo.engine.plan import FeaturePlan
from feature_repo.online.base import Keys
from feature_repo.online.sqlite.memory import Memory
from feature_repo.online.sqlite.queries import StreamTable

History = tuple[int, str]  # The number of a history's name, and a key.
NOW_US = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
TABLES = f"""
CREATE TABLE IF NOT EXISTS online_epoch (id INTEGER PRIMARY KEY CHECK (id = 0), began_us INTEGER);
INSERT OR IGNORE INTO online_epoch VALUES (0, {NOW_US});
CREATE TABLE IF NOT EXISTS online_versions (
    key TEXT, history INTEGER, version INTEGER, PRIMARY KEY (key, history)
) WITHOUT ROWID
"""

WRITE = (
    "INSERT INTO online_versions (history, key, version) VALUES (?, ?, ?)"
    " ON CONFLICT (key, history) DO UPDATE SET version = excluded.version"
)
BEFORE_EPOCH = "version <= (SELECT began_us FROM online_epoch)"


def begin_epoch(connection: sqlite3.Connection) -> None:
    """Let every version be at least the present moment. A clock that went back changes nothing."""
    connection.execute(f"UPDATE online_epoch SET began_us = max(began_us, {NOW_US})")


def before_epoch(connection: sqlite3.Connection) -> int:
    """How many histories have not changed in this epoch."""
    query = f"SELECT count(*) FROM online_versions WHERE {BEFORE_EPOCH}"
    found: int = connection.execute(query).fetchone()[0]
    return found


def forget_before_epoch(connection: sqlite3.Connection, limit: int) -> int:
    """Forget up to `limit` versions of histories that have not changed in this epoch. Returns their number.

    No answer changes, because the epoch's beginning is their version.
    """
    some = f"SELECT key, history FROM online_versions WHERE {BEFORE_EPOCH} LIMIT ?"
    delete = f"DELETE FROM online_versions WHERE (key, history) IN ({some})"
    return connection.execute(delete, (limit,)).rowcount


class HistoryVersions:
    """The versions of the histories that a plan's views read, in the epoch that the file is in.

    What was read or raised is kept while the memory holds (see `Memory`).
    """

    def __init__(self, connection: sqlite3.Connection, plan: FeaturePlan, memory: Memory) -> None:
        self._connection, self._memory = connection, memory
        self._epoch_us: int = connection.execute("SELECT began_us FROM online_epoch").fetchone()[0]
        asked = {view.asked_history: view for view in plan.views}
        # The number of each history, its name, and the key that a question has for it.
        self._asked = [(_number(view.history), name, view.asked_by) for name, view in asked.items()]
        # By stream: the number of each history, its name, and the place of its key in a row of the stream.
        self._of: dict[str, list[tuple[int, str, int]]] = {}
        for history, view in {view.history: view for view in plan.views}.items():
            place = StreamTable.of(view.stream, plan).columns.index(view.entity)
            self._of.setdefault(view.stream, []).append((_number(history), history, place))
        # Raised in the open transaction, and not written yet.
        self._raised: dict[History, int] = {}

    def read(self, keys: Keys) -> dict[str, int]:
        """The versions of the histories at these keys, by `ViewPlan.asked_history`; none for a null key."""
        asked = [
            (name, (number, key))
            for number, name, asked_by in self._asked
            if (key := keys[asked_by]) is not None
        ]
        return self._found(asked)

    def raised(self, stream: str, row: Sequence[object], later: bool) -> dict[str, int]:
        """Raise the version of each key of an event, which has the columns of its `StreamTable`.

        Returns the new versions by `ViewPlan.history`. With `later` the file gets them by `write`.
        """
        keyed = [
            (name, (number, str(key)))
            for number, name, place in self._of[stream]
            if (key := row[place]) is not None
        ]
        made = {name: version + 1 for name, version in self._found(keyed).items()}
        for name, history in keyed:
            self._raised[history] = made[name]
        if not later:
            self.write()
        return made

    def write(self) -> None:
        """Write what was raised. The caller's transaction holds the write lock since it was raised."""
        raised, self._raised = self._raised, {}
        if raised:
            self._connection.executemany(WRITE, [(*history, version) for history, version in raised.items()])
            self._memory.keep_versions(raised)

    def undo(self) -> None:
        """Forget what was raised and not written."""
        self._raised.clear()

    def _found(self, named: Sequence[tuple[str, History]]) -> dict[str, int]:
        """The versions of some histories, by the names that the caller has for them."""
        found: dict[str, int] = {}
        absent: list[tuple[str, History]] = []
        raised, held = self._raised, self._memory.versions
        for name, history in named:
            if (version := raised.get(history) or held.get(history)) is None:
                absent.append((name, history))
            else:
                found[name] = version
        if absent:
            stored = self._stored({history[1] for _, history in absent})
            read = {history: max(stored.get(history, 0), self._epoch_us) for _, history in absent}
            self._memory.keep_versions(read)
            found |= {name: read[history] for name, history in absent}
        return {name: found[name] for name, _ in named}  # In one order, whatever was held.

    def _stored(self, keys: Collection[str]) -> dict[History, int]:
        """The versions that the file has at some keys. A key has few histories."""
        places = ", ".join("?" * len(keys))
        rows = self._connection.execute(
            f"SELECT history, key, version FROM online_versions WHERE key IN ({places})", tuple(keys)
        )
        return {(number, key): version for number, key, version in rows}


def _number(history: str) -> int:
    """A number for the name of a history, so that a row is small."""
    return int.from_bytes(hashlib.sha256(history.encode()).digest()[:4]) >> 1
