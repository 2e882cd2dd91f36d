"""One line for every promotion and refusal, appended and never changed."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource


class History(ConfigurableResource[Any]):
    """The decisions of the gate, in `path`, one JSON object a line."""

    path: str

    def append(self, entry: dict[str, object]) -> None:
        """Add one line as a whole; writers take turns, and the line is on disk when this returns."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.write(json.dumps(entry, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the oldest first."""
        if not Path(self.path).exists():
            return []
        return [json.loads(line) for line in Path(self.path).read_text(encoding="utf-8").splitlines()]
