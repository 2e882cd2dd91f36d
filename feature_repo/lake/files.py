"""One data file of the lake: how a table becomes bytes and back, and how a file is put in place whole."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import DamagedPartition


@dataclass(frozen=True)
class LakeFile:
    """What a manifest says of a file: its name in the partition's folder, and what it holds."""

    name: str
    rows: int
    bytes: int
    sha256: str


def encode(table: pa.Table) -> tuple[bytes, LakeFile]:
    """A table as the file that the lake would hold. The same rows in the same order give the same bytes."""
    buffer = io.BytesIO()
    # Dictionaries of ids and averages, most of which occur once, take longer to make than all the rest, and
    # save nothing that zstd does not.
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return content, LakeFile(f"{digest[:32]}.parquet", table.num_rows, len(content), digest)


def stored_schema(content: bytes) -> dict[str, str]:
    """The columns and types of an encoded table: Parquet renames and rounds some types."""
    return schema_of(pq.read_schema(pa.BufferReader(content)))


def decode(
    handle: Any, place: str, file: LakeFile, columns: Sequence[str] | None, threads: bool
) -> tuple[pa.Table, dict[str, str]]:
    """The rows of an open data file, and its whole schema.

    A file of another size or number of rows raises `DamagedPartition`, which names `place`. Arrow's own
    errors come through.
    """
    if (size := handle.seek(0, os.SEEK_END)) != file.bytes:
        raise DamagedPartition(f"{place}: {size} bytes where its manifest says {file.bytes}")
    handle.seek(0)
    # Without its checksums Parquet does not notice a changed value.
    parquet = pq.ParquetFile(handle, page_checksum_verification=True)
    schema = schema_of(parquet.schema_arrow)
    table = parquet.read(columns=list(columns) if columns is not None else None, use_threads=threads)
    if table.num_rows != file.rows:
        raise DamagedPartition(f"{place}: {table.num_rows} rows where its manifest says {file.rows}")
    return table, schema


def schema_of(schema: pa.Schema) -> dict[str, str]:
    """Columns and their types, as a manifest keeps them."""
    return {field.name: str(field.type) for field in schema}


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file in place in one step, and keep it through a power cut. Missing folders are made.

    A reader sees the old content or the new one, never a part. A failure leaves the old content and no
    temporary file behind; it raises `OSError`.
    """
    folder, name = os.path.split(os.fspath(path))
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
