"""One line for every decision on a version, each sealed with the digest of the line before it: appended, and
never changed unseen.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource

from mlops_assets.errors import PlatformError

ORIGIN = "0" * 64  # what the first line names as the one before it


class HistoryError(PlatformError):
    """The history is not what was written; the message names the file and the line."""


@dataclass(frozen=True)
class Head:
    """How far a history goes: the number of its lines, and the digest of the last one."""

    rows: int
    digest: str

    def to_json(self) -> str:
        return json.dumps({"rows": self.rows, "digest": self.digest}, sort_keys=True)


class History(ConfigurableResource[Any]):
    """The decisions, in `path`, one JSON object a line.

    What a crash left of a line was never promised to anybody, and does not count.

    A line holds `previous`, the digest of the line before it, and `digest`, the SHA-256 of its own canonical
    JSON without that field. Lines that were written before there were digests may stand at the beginning; the
    first digest after them seals them all.
    """

    path: str

    def append(self, entry: Mapping[str, object]) -> dict[str, Any]:
        """Add one line as a whole and return it; writers take turns, and the line is on disk when this
        returns.
        """
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            content = handle.read()
            kept = self._lines(content)
            row = sealed(entry, _head(self._verified(kept)[1]).digest)
            if (end := sum(len(line) + 1 for line in kept)) < len(content):
                handle.truncate(end)  # a torn line
            handle.write((b"\n" if end > len(content) else b"") + _canonical(row) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        return row

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the oldest first.

        Where one was altered, removed from the middle, or put in, `HistoryError`.
        """
        return self._verified(self._lines(self._read()))[0]

    def head(self, rows: int | None = None) -> Head:
        """How far it goes, or went with that many lines."""
        return _head(self._verified(self._lines(self._read()))[1][:rows])

    def line(self, row: Mapping[str, Any]) -> int:
        """The number, from 1, of the line that was returned as `row`."""
        return [entry.get("digest") for entry in self.entries()].index(row["digest"]) + 1

    def unconfirmed(self, kept_elsewhere: str | None) -> list[dict[str, Any]]:
        """The lines after those that `kept_elsewhere` (a head's JSON) knows of: a crash came before they were
        noted there.

        What the file itself cannot show is `HistoryError`: lines that are missing at its end, and a file that
        was written anew.
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
                f"{self.path}: line {known.rows} is another one than MLflow knows of: the file was written"
                " anew"
            )
        return rows[known.rows :]

    def _read(self) -> bytes:
        return Path(self.path).read_bytes() if Path(self.path).exists() else b""

    def _lines(self, content: bytes) -> list[bytes]:
        """Those that count: the last one only where no crash has torn it."""
        *lines, last = content.split(b"\n")
        return [*lines, *[last] * (_entry(last) is not None)]

    def _verified(self, lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], list[str]]:
        """The lines' entries, and the digest up to each of them."""
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
