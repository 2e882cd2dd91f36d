"""The history of decisions on versions: a file to which lines are appended.

Each line holds the digest of the line before it, so every later change of a line is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlops_assets.errors import PlatformError

ORIGIN = "0" * 64  # The first line holds it as the digest of the line before


class HistoryError(PlatformError):
    """The history does not hold what was written. The message names the file and the line."""


@dataclass(frozen=True)
class Head:
    """The end of a history: the number of its lines, and the digest of the last line."""

    rows: int
    digest: str

    def to_json(self) -> str:
        """The head as the registered model keeps it."""
        return json.dumps({"rows": self.rows, "digest": self.digest}, sort_keys=True)


@dataclass(frozen=True)
class History:
    """The decisions in the file `path`, one JSON object a line.

    A line holds `previous`, the digest of the line before it, and `digest`, the SHA-256 of its own canonical
    JSON without that field. The first lines may have no digests, because earlier versions wrote none. The
    first digest after them seals all of them. A torn last line, as a crash leaves it, does not count.
    """

    path: str

    def append(self, entry: Mapping[str, object]) -> dict[str, Any]:
        """Add one line as a whole, and return it.

        Writers wait for each other. The line is on disk when the method returns.
        """
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(Path(self.path).with_suffix(".lock")), open(self.path, "a+b") as handle:
            handle.seek(0)
            content = handle.read()
            kept = self._lines(content)
            row = sealed(entry, _head(self._verified(kept)[1]).digest)
            if (end := sum(len(line) + 1 for line in kept)) < len(content):
                handle.truncate(end)  # A torn line
            handle.write((b"\n" if end > len(content) else b"") + _canonical(row) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        return row

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the oldest first.

        `HistoryError` where a line was altered, inserted, or removed before the last line.
        """
        return self._verified(self._lines(self._read()))[0]

    def head(self, rows: int | None = None) -> Head:
        """The end of the history, or of its first `rows` lines."""
        return _head(self._verified(self._lines(self._read()))[1][:rows])

    def line(self, row: Mapping[str, Any]) -> int:
        """The number, from 1, of the line that `append` returned as `row`."""
        return [entry.get("digest") for entry in self.entries()].index(row["digest"]) + 1

    def unconfirmed(self, kept_elsewhere: str | None) -> list[dict[str, Any]]:
        """The lines after the head that `kept_elsewhere` holds as JSON. A crash prevented their note.

        `HistoryError` where the end of the file is missing, or the file was written again from the start. The
        file alone cannot show either.
        """
        rows, digests = self._verified(self._lines(self._read()))
        if kept_elsewhere is None:
            return rows
        known = Head(**json.loads(kept_elsewhere))
        if len(rows) < known.rows:
            raise HistoryError(
                f"{self.path}: line {len(rows) + 1} is missing: it has {len(rows)} lines, and MLflow knows of"
                f" {known.rows}"
            )
        if _head(digests[: known.rows]) != known:
            raise HistoryError(
                f"{self.path}: line {known.rows} is not the line that MLflow knows of: the file was"
                " written again"
            )
        return rows[known.rows :]

    def _read(self) -> bytes:
        return Path(self.path).read_bytes() if Path(self.path).exists() else b""

    def _lines(self, content: bytes) -> list[bytes]:
        """The lines that count: all lines, without a last line that a crash has torn."""
        *lines, last = content.split(b"\n")
        return [*lines, *[last] * (_entry(last) is not None)]

    def _verified(self, lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], list[str]]:
        """The entries of the lines, and the digest up to each of them."""
        rows: list[dict[str, Any]] = []
        digests: list[str] = []
        before, chained, unchained = ORIGIN, False, hashlib.sha256()
        for number, line in enumerate(lines, 1):
            where, row = f"{self.path}: line {number}", _entry(line)
            if row is None:
                raise HistoryError(f"{where} is no entry: {line[:80]!r}")
            if "digest" in row:
                if (
                    _canonical(
                        sealed(
                            {k: v for k, v in row.items() if k not in ("digest", "previous")},
                            row.get("previous"),
                        )
                    )
                    != line
                ):
                    raise HistoryError(f"{where} was altered: its digest is not that of its content")
                if row["previous"] != before:
                    raise HistoryError(
                        f"{where} does not follow from the line before it: one was removed, put in or altered"
                        " there"
                    )
                before, chained = row["digest"], True
            elif chained:
                raise HistoryError(f"{where} has no digest, and the lines before it do")
            else:
                unchained.update(line + b"\n")
                before = unchained.hexdigest()
            rows.append(row)
            digests.append(before)
        return rows, digests


def sealed(entry: Mapping[str, object], previous: object) -> dict[str, Any]:
    """The entry as a line of the chain."""
    row = {**entry, "previous": previous}
    return {**row, "digest": hashlib.sha256(_canonical(row)).hexdigest()}


def _head(digests: Sequence[str]) -> Head:
    return Head(len(digests), digests[-1] if digests else ORIGIN)


def _canonical(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, sort_keys=True, allow_nan=False).encode()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
