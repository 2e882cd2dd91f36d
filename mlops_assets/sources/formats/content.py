"""What a file is, told by its first bytes: a suffix may be missing, or lie.

A reader of one kind of file (`delimited`, `parquet`) gives `Raw`; what it cannot read is `ContentError`, with
the place in the file.
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
    """What cannot be read in a file, without the file's name.

    `place` is a line or a row of it, None where it is the file as a whole.
    """

    def __init__(self, what: str, place: str | None = None) -> None:
        self.what, self.place = what, place
        super().__init__(f"{place}: {what}" if place else what)


@dataclass(frozen=True)
class Raw:
    """The wanted columns of one file under the feed's names, as they stand there.

    `places` says where rows (from 0) are, for people: `line 14`.
    """

    table: pa.Table
    names: list[str]  # of all the columns that the file has
    places: Callable[[np.ndarray], list[str]]


def unpacked(content: bytes) -> bytes:
    """The content without its compression, however often it was compressed."""
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
