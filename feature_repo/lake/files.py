"""The files of the lake: how a table becomes bytes and back, and how a file is replaced in one step."""

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
    """The file that the lake would hold for a table, as bytes, and its description.

    The same rows in the same order give the same bytes.
    """
    buffer = io.BytesIO()
    # Most ids and averages occur once. A dictionary of them takes longer than the rest of the writing, and
    # saves nothing beyond zstd.
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return content, LakeFile(f"{digest[:32]}.parquet", table.num_rows, len(content), digest)


def stored_schema(content: bytes) -> dict[str, str]:
    """The columns and types of an encoded table. Parquet renames and rounds some types."""
    return schema_of(pq.read_schema(pa.BufferReader(content)))


def decode(
    handle: Any, place: str, file: LakeFile, columns: Sequence[str] | None, threads: bool
) -> tuple[pa.Table, dict[str, str]]:
    """The rows of an open data file, and its whole schema.

    `DamagedPartition` names `place` where the file has another size or number of rows. Arrow's own errors are
    not caught.
    """
    if (size := handle.seek(0, os.SEEK_END)) != file.bytes:
        raise DamagedPartition(f"{place}: {size} bytes where its manifest says {file.bytes}")
    handle.seek(0)
    # Parquet notices a changed value by its checksums only.
    parquet = pq.ParquetFile(handle, page_checksum_verification=True)
    schema = schema_of(parquet.schema_arrow)
    table = parquet.read(columns=list(columns) if columns is not None else None, use_threads=threads)
    if table.num_rows != file.rows:
        raise DamagedPartition(f"{place}: {table.num_rows} rows where its manifest says {file.rows}")
    return table, schema


def schema_of(schema: pa.Schema) -> dict[str, str]:
    """The names and types of the columns, as a manifest holds them."""
    return {field.name: str(field.type) for field in schema}


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file in one step that survives a power cut. Missing folders are made.

    A reader sees the old content or the new content, never a part. `OSError` where that fails. A failure
    leaves the old content and no temporary file.
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
