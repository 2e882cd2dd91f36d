"""Scratch files for rows that do not fit into memory, one file for each range of key hashes.

A bucket holds all rows of its keys, so each bucket is computed alone. The file of a bucket has one batch for
each table that was added, in that order. A batch holds the rows of the table that belong to the bucket.
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
)  # 2^64 divided by the golden ratio. The products of this factor differ in their high bits.
MOST_BUCKETS = 256  # Each bucket is an open file. Systems often allow 1,024.


def buckets_for(rows: int, rows_at_once: int) -> int:
    """The number of buckets that keeps each bucket below the given number of rows."""
    return min(max(math.ceil(rows / rows_at_once), 1), MOST_BUCKETS)


def by_bucket(keys: pa.ChunkedArray, buckets: int) -> tuple[Ints, Ints]:
    """The positions of the rows, bucket after bucket, and how many rows each bucket has.

    The rows of a bucket keep their order. The first bucket has the null keys.
    """
    codes, hashes = [], np.zeros(1, np.uint64)
    if len(keys):
        encoded = keys.dictionary_encode()
        hashes = np.append(_hashes(encoded.chunk(0).dictionary), np.uint64(0))
        codes = [np.asarray(pc.fill_null(c.indices, len(hashes) - 1)) for c in encoded.chunks]
    # The low bits of a product depend on few bits of the factors.
    bucket = ((hashes >> np.uint64(32)) % np.uint64(buckets)).astype(np.uint16)[
        np.concatenate([np.empty(0, np.int32), *codes])
    ]
    return np.argsort(bucket, kind="stable"), np.bincount(bucket, minlength=buckets)


class Buckets:
    """One scratch file for each bucket. All of them are written first, then read. The caller removes the
    folder.
    """

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
        """Add one batch to each bucket."""
        if not self._writers:
            self._writers = [pa.ipc.new_file(path, batches[0].schema) for path in self._paths]
        for bucket, batch in enumerate(batches):
            self._writers[bucket].write_batch(batch)

    def write_one(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> None:
        """Write all the batches of one bucket."""
        first, *rest = batches
        with pa.ipc.new_file(self._paths[bucket], first.schema) as writer:
            for batch in (first, *rest):
                writer.write_batch(batch)

    def close(self) -> None:
        """End the writing. From then on the buckets can be read."""
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
    """A number for each string, which is the same wherever the string occurs.

    Eight bytes at a time are mixed with the number so far.
    """
    large = keys.cast(pa.large_string())
    offsets = np.frombuffer(large.buffers()[1], np.int64)[large.offset : large.offset + len(large) + 1]
    text = np.frombuffer(bytes(large.buffers()[2] or b"") + bytes(8), np.uint8)
    # The eight bytes from every position on
    words = np.ndarray(len(text) - 7, "<u8", text.data, strides=(1,))
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max(initial=0)), 8):
        longer = np.flatnonzero(lengths > done)
        excess = np.maximum(8 - (lengths[longer] - done), 0).astype(np.uint64) * np.uint64(8)
        word = words[offsets[longer] + done] << excess
        mixed = (hashes[longer] ^ word) * MULTIPLIER
        hashes[longer] = mixed ^ (mixed >> np.uint64(32))
    return hashes
