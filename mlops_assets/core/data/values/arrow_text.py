"""What the readers of values share: masks, types and bytes of Arrow arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def kept_where(mask: pa.Array, array: pa.Array) -> pa.Array:
    """The array with null where the mask is false."""
    return pc.if_else(mask, array, pa.scalar(None, array.type))


def is_number(kind: pa.DataType) -> bool:
    """Whether the type is an integer, a float or a decimal."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_utf8(value: bytes) -> bool:
    """Whether the bytes are text in UTF-8."""
    return value.decode(errors="replace").encode() == value


def all_bytes(array: pa.Array) -> np.ndarray:
    """The bytes of all values of a text column as one array of `uint8`."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[[array.offset, array.offset + len(array)]]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[1]]


def as_text(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """The array with text and bytes as `string`, and the rows whose bytes are not UTF-8.

    Old writers of Parquet store text as bytes. An array of another type is returned unchanged.
    """
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string()), []
    if not (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return array, []
    try:
        return array.cast(pa.binary()).cast(pa.string()), []
    except pa.ArrowInvalid:
        values = array.to_pylist()
        broken = [row for row, value in enumerate(values) if value is not None and not is_utf8(value)]
        texts = [None if value is None or not is_utf8(value) else value.decode() for value in values]
        return pa.array(texts, pa.string()), broken
