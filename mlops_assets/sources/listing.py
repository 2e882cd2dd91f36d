"""The files of a folder that belong to the feed, by their names.

Links are followed, and each file counts once. Files that are no tables are left out and listed, so that a
person can see why their rows are missing. A table in an unknown packing is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mlops_assets.core.data.base import SourceError

TABLES = ("parquet", "pq", "csv", "tsv", "tab", "psv")
PACKINGS = ("gz", "zst", "zstd", "bz2", "xz")
# Half-written tables and checksums hold no rows of the feed.
LEFTOVERS = (
    "tmp",
    "temp",
    "part",
    "partial",
    "filepart",
    "crdownload",
    "swp",
    "bak",
    "old",
    "crc",
    "md5",
    "sha1",
    "sha256",
    "ok",
    "done",
)
_TABLE = re.compile(rf"\.({'|'.join(TABLES)})(\.({'|'.join(PACKINGS)}))?$", re.IGNORECASE)
_TEXT = re.compile(rf"\.txt(\.({'|'.join(PACKINGS)}))?$", re.IGNORECASE)
_PACKED_TABLE = re.compile(rf"\.({'|'.join(TABLES)})\.(?P<packing>[a-z0-9]+)$", re.IGNORECASE)
_LEFTOVER = re.compile(rf"(~|\.({'|'.join(LEFTOVERS)}))$", re.IGNORECASE)
_DAY = re.compile(
    r"(?<!\d)(20\d\d)[-_./]?(0[1-9]|1[0-2])[-_./]?(0[1-9]|[12]\d|3[01])"
    # A time of day may follow, as in 20260301T061500.
    r"(?=T?(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?(?!\d)|(?!\d))"
)


@dataclass(frozen=True)
class DataFile:
    """One file of the feed.

    `name` is its path below the feed. `named_day` is the last day in this path. `size` is in bytes, and -1
    for a broken link.
    """

    path: str
    name: str
    size: int
    stamp: str  # changes with the file
    named_day: date | None


@dataclass(frozen=True)
class Listing:
    """The files of a feed.

    `left_out` are other visible files that are neither tables nor leftovers of tables.
    """

    files: tuple[DataFile, ...]
    left_out: tuple[str, ...]


def find(path: str) -> tuple[Any, Listing]:
    """The filesystem of an address, and its files in the order of their paths.

    The address of a single file may have any suffix. Raises `SourceError` where there is no file, or a table
    in an unknown packing.
    """
    try:
        fs, root = fsspec.core.url_to_fs(path)
        found = _local_files(root) if isinstance(fs, LocalFileSystem) else fs.find(root, detail=True)
        exists = bool(found) or fs.exists(root)
    except (OSError, ImportError, ValueError) as error:
        raise SourceError(f"{path}: cannot be listed ({error})") from error
    if not exists:
        raise SourceError(
            f"{path}: no such file or folder"
            + (f"; {beside(Path(root))}" if isinstance(fs, LocalFileSystem) else "")
        )
    single = list(found) == [root]
    base = root.rsplit("/", 1)[0] if single else root
    files, left_out = [], []
    for name, facts in sorted(found.items()):
        below = name[len(base) :].lstrip("/")
        if not single and _is_no_content(below):
            continue
        if single or _is_table(name, below):
            files.append(DataFile(name, below, int(facts["size"] or 0), _stamp(facts), named_day(below)))
        else:
            left_out.append(name)
    if not files:
        there = f"; there are {', '.join(left_out[:5])}" if left_out else ""
        suffixes = ", ".join(f".{suffix}" for suffix in TABLES)
        raise SourceError(
            f"{path}: holds no file that ends in {suffixes} (alone, or with .{', .'.join(PACKINGS)}){there}"
        )
    return fs, Listing(tuple(files), tuple(left_out))


def beside(path: Path, suffix: str = "") -> str:
    """What the nearest folder of a missing path holds, in words. Only files with the `suffix` are listed."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(suffix) and entry.name[0] != "."
    )
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{folder} holds {shown}"
        if names
        else f"{folder} holds no file{' that ends in ' + suffix if suffix else ''}"
    )


def named_day(path: str) -> date | None:
    """The last day in a path, as in `2026-03-01.csv`, `tx_20260301T0615.csv` and `2026/03/01/part-0.csv`."""
    for year, month, day in reversed(_DAY.findall(path)):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


def _is_table(path: str, below: str) -> bool:
    if _TABLE.search(below):
        return True
    if _TEXT.search(below):  # A readme is no file of the feed.
        return named_day(below) is not None
    if packed := _PACKED_TABLE.search(below):
        raise SourceError(
            f"{path}: a table that ends in .{packed['packing']} cannot be read; unpack it, or move it out of"
            " the folder"
        )
    return False


def _is_no_content(below: str) -> bool:
    return _hidden(below) or _LEFTOVER.search(below) is not None


def _hidden(below: str) -> bool:
    return any(part.startswith((".", "_", "~")) for part in below.split("/"))


def _stamp(facts: dict[str, Any]) -> str:
    return str(
        next(
            (
                facts[name]
                for name in ("mtime", "LastModified", "last_modified", "updated", "etag", "ETag")
                if name in facts
            ),
            "",
        )
    )


def _local_files(root: str) -> dict[str, dict[str, Any]]:
    """Files below a local folder. A file that is reached twice counts once, under its own path."""
    if not os.path.isdir(root):
        return {root: _facts(root)} if os.path.lexists(root) else {}
    found: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    links = [root]
    while links:
        entered = links.pop(0)
        for path, is_link in _entered(entered, seen):
            if is_link:
                links.append(path)
            else:
                found[path] = _facts(path)
        links.sort()
    return found


def _entered(path: str, seen: set[str]) -> Iterator[tuple[str, bool]]:
    """The files and links below a path, with whether each is a link. Links are not followed here.

    Real paths in `seen` are skipped.
    """
    real = os.path.realpath(path)
    if real in seen:
        return
    seen.add(real)
    if not os.path.isdir(path):
        yield path, False
        return
    with os.scandir(path) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        below = f"{path.rstrip('/')}/{entry.name}"
        if _hidden(entry.name):
            continue
        if entry.is_symlink():
            yield below, True
        else:
            yield from _entered(below, seen)


def _facts(path: str) -> dict[str, Any]:
    try:
        stat = os.stat(path)
    except OSError:  # a broken or circular link
        return {"size": -1}
    return {"size": stat.st_size, "mtime": stat.st_mtime_ns}
