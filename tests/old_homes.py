"""A home that an earlier version of the platform made."""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "data" / "home-of-format-3.tar.gz"


def unpack_home(folder: Path) -> None:
    """Put a home of format 3 into a folder, with its `mlops.toml`."""
    with tarfile.open(ARCHIVE) as archive:
        # Python asks for a filter from 3.12 on, and knows none before 3.11.4.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
