"""A lake of three days, the middle one of which tests disturb."""

from pathlib import Path

import pyarrow as pa

from feature_repo.lake.datasets import Lake

BEFORE, DAY, AFTER = "2025-03-01", "2025-03-02", "2025-03-03"
ROWS = 2_000


def three_days(root: Path) -> Lake:
    made = Lake(root)
    for n, day in enumerate((BEFORE, DAY, AFTER), start=100):
        made.write("x", day, content(1 if day == DAY else n))
    return made


def content(n: int, rows: int = ROWS) -> pa.Table:
    return pa.table({"version": pa.array([n] * rows, pa.int64()), "text": [f"{n}-{i}" for i in range(rows)]})


def version(lake: Lake, day: str = DAY) -> int:
    """The one version that the partition holds whole; a mixture or a part of one fails."""
    table = lake.read("x", [day])
    found = table.column("version")[0].as_py()
    assert table.equals(content(found))
    return int(found)


def neighbours_are_untouched(lake: Lake) -> None:
    assert lake.partitions("x") == [BEFORE, DAY, AFTER]
    assert (version(lake, BEFORE), version(lake, AFTER)) == (100, 102)


def data_file(lake: Lake, day: str = DAY) -> Path:
    (path,) = lake.files("x", [day])
    return Path(path)


def manifest_file(lake: Lake, day: str = DAY) -> Path:
    return Path(lake.root, "x", day, "manifest.json")
