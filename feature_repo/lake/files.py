"""A file is written as a whole or not at all."""

from __future__ import annotations

import os
import uuid


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
