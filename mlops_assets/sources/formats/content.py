"""The kind of a file by its first bytes. Its suffix can be missing or wrong.

The reader of each kind of file (`delimited`, `parquet`) returns `Raw`, and raises `ContentError` with the
place in the file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mlops_assets.errors import PlatformError

PARQUET = b"PAR1"
_PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"PARE": "Parquet whose footer is encrypted",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"SQLite format 3": "a SQLite database",
    b"%PDF": "a PDF",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
}


class ContentError(PlatformError):
    """A problem in the content of a file. The message does not name the file.

    `place` is a line or a row; None for the file as a whole.
    """

    def __init__(self, what: str, place: str | None = None) -> None:
        self.what, self.place = what, place
        super().__init__(f"{place}: {what}" if place else what)


@dataclass(frozen=True)
class Raw:
    """The wanted columns of one file, with the names and values of the feed.

    `places` returns the places of rows (from 0) in words, such as `line 14`.
    """

    table: pa.Table
    names: list[str]  # all columns of the file
    places: Callable[[np.ndarray], list[str]]


def unpacked(content: bytes) -> bytes:
    """The content without its compression, up to three layers of it.

    Raises `ContentError` for damaged compression and for a file of a foreign kind.
    """
    for _ in range(3):
        packing = next((name for magic, name in _PACKINGS.items() if content.startswith(magic)), None)
        if packing is None:
            break
        content = _unpacked(content, packing)
    if foreign := next((name for magic, name in _FOREIGN.items() if content.startswith(magic)), None):
        raise ContentError(f"is {foreign}; export it as CSV or Parquet")
    return content


def _unpacked(content: bytes, packing: str) -> bytes:
    try:
        if packing == "zstd":
            return pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
        return {"gzip": gzip.decompress, "bzip2": bz2.decompress, "xz": lzma.decompress}[packing](content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ContentError(
            f"is cut off or damaged: its {packing} compression cannot be read to the end ({error}); fetch it"
            " again"
        ) from error
