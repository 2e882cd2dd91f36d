"""One line for every promotion and refusal, appended and never changed."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource


class HistoryError(Exception):
    """The history cannot be read; the message names the file and the line."""


class History(ConfigurableResource[Any]):
    """The decisions of the gate, in `path`, one JSON object a line. What a crash left of a line was never promised to anybody, and does not count."""

    path: str

    def append(self, entry: dict[str, object], *, once: tuple[str, ...] = ()) -> bool:
        """Add one line as a whole; writers take turns, and the line is on disk when this returns.

        Where `once` names fields and an entry with the same values in them is there already, nothing is added: False.
        """
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            content = handle.read()
            if once and any(all(old.get(name) == entry[name] for name in once) for old in self._parsed(content)):
                return False
            torn = content.rpartition(b"\n")[2]
            if torn and _entry(torn) is None:
                handle.truncate(len(content) - len(torn))
                torn = b""
            handle.write((b"\n" if torn else b"") + json.dumps(entry, sort_keys=True).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        return True

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the oldest first. One that was altered is `HistoryError`."""
        return self._parsed(Path(self.path).read_bytes()) if Path(self.path).exists() else []

    def _parsed(self, content: bytes) -> list[dict[str, Any]]:
        *lines, last = content.split(b"\n")  # the last one is empty, or a crash has torn it
        found = [_entry(line) for line in lines]
        if None in found:
            raise HistoryError(f"{self.path}: line {found.index(None) + 1} is no entry: {lines[found.index(None)][:80]!r}")
        return [entry for entry in (*found, _entry(last)) if entry is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
