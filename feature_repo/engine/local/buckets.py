"""Rows that do not fit into memory, in scratch files by the hash of their key.

A bucket holds all rows of its keys, so that each bucket is computed alone. Its file has one batch for each
table that was added, in that order: the rows of the table that belong to the bucket.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MULTIPLIER = np.uint64(
    0x9E3779B97F4A7C15
)  # 2^64 by the golden ratio: its products differ in their high bits.
MOST_BUCKETS = 256  # Files that are open at once, several times over; systems often allow 1024.


def buckets_for(rows: int, rows_at_once: int) -> int:
    """How many buckets keep each below so many rows."""
    return min(max(math.ceil(rows / rows_at_once), 1), MOST_BUCKETS)


def by_bucket(keys: pa.ChunkedArray, buckets: int) -> tuple[Ints, Ints]:
    """The places of the rows, those of each bucket after those of the bucket before, each in their order;
    and how many rows each bucket has.

    The first bucket has the null keys.
    """
    codes, hashes = [], np.zeros(1, np.uint64)
    if len(keys):
        encoded = keys.dictionary_encode()
        hashes = np.append(_hashes(encoded.chunk(0).dictionary), np.uint64(0))
        codes = [np.asarray(pc.fill_null(c.indices, len(hashes) - 1)) for c in encoded.chunks]
    # The low bits of a product depend on few of its factors' bits.
    bucket = ((hashes >> np.uint64(32)) % np.uint64(buckets)).astype(np.uint16)[
        np.concatenate([np.empty(0, np.int32), *codes])
    ]
    return np.argsort(bucket, kind="stable"), np.bincount(bucket, minlength=buckets)


class Buckets:
    """One scratch file for each bucket, written first and read after. The caller removes the folder."""

    def __init__(self, folder: str, name: str, count: int) -> None:
        self.count = count
        self._paths = [f"{folder}/{name}-{number}.arrow" for number in range(count)]
        self._writers: list[Any] = []

    def split(self, table: pa.Table, key: str) -> list[pa.RecordBatch]:
        """The rows of every bucket."""
        order, counts = by_bucket(table[key], self.count)
        placed = one_batch(table.take(pa.array(order)))
        return [
            placed.slice(start, rows)
            for start, rows in zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)
        ]

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """One more batch for each bucket."""
        if not self._writers:
            self._writers = [pa.ipc.new_file(path, batches[0].schema) for path in self._paths]
        for bucket, batch in enumerate(batches):
            self._writers[bucket].write_batch(batch)

    def write_one(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> None:
        """All the batches of one bucket."""
        first, *rest = batches
        with pa.ipc.new_file(self._paths[bucket], first.schema) as writer:
            for batch in (first, *rest):
                writer.write_batch(batch)

    def close(self) -> None:
        """No more batches come: from here on they can be read."""
        for writer in self._writers:
            writer.close()

    def read(self, bucket: int, batch: int | None = None) -> pa.Table:
        """The rows of a bucket, or of one of its batches."""
        with pa.OSFile(self._paths[bucket]) as file, pa.ipc.open_file(file) as reader:
            wanted = range(reader.num_record_batches) if batch is None else [batch]
            return pa.Table.from_batches([reader.get_batch(n) for n in wanted], reader.schema)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The whole table as one batch."""
    batches = table.combine_chunks().to_batches()
    return (
        batches[0]
        if batches
        else pa.RecordBatch.from_arrays([pa.array([], f.type) for f in table.schema], schema=table.schema)
    )


def _hashes(keys: pa.Array) -> NDArray[np.uint64]:
    """A number for each string, the same wherever it occurs: eight bytes at a time, each time mixed with what
    came before.
    """
    large = keys.cast(pa.large_string())
    offsets = np.frombuffer(large.buffers()[1], np.int64)[large.offset : large.offset + len(large) + 1]
    text = np.frombuffer(bytes(large.buffers()[2] or b"") + bytes(8), np.uint8)
    words = np.ndarray(len(text) - 7, "<u8", text.data, strides=(1,))  # the eight bytes from every place on
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max(initial=0)), 8):
        longer = np.flatnonzero(lengths > done)
        excess = np.maximum(8 - (lengths[longer] - done), 0).astype(np.uint64) * np.uint64(8)
        word = words[offsets[longer] + done] << excess
        mixed = (hashes[longer] ^ word) * MULTIPLIER
        hashes[longer] = mixed ^ (mixed >> np.uint64(32))
    return hashes
