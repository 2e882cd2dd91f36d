"""The lake as assets use it. Partitions are days, and a table of many days is written day by day."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from dagster import ConfigurableResource

from feature_repo.lake.datasets import Lake, LakeError, Manifest
from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home_owner import Owner


class NotValidated(PlatformError, LakeError):
    """A partition exists, and its checks have not passed."""


class LakeResource(ConfigurableResource[Lake]):
    """The lake of a home: immutable Parquet files and one manifest a partition, under `root`.

    `root` is a folder or an fsspec address such as s3://bucket/prefix. `home` has to belong to `use_case`.
    `declarations` is the package of its feature declarations.
    """

    root: str
    home: str
    use_case: str
    declarations: str

    def open(self) -> Lake:
        """The lake. Nothing of the lake is read or made yet.

        The home belongs to the use case afterwards. `ForeignHome` where the home belongs to another use case.
        """
        Owner(self.use_case, self.declarations).claim(Path(self.home))
        return Lake(self.root)


def lake_of(settings: Settings, case: UseCase) -> LakeResource:
    """The lake of the platform's home, for the use case."""
    return LakeResource(
        root=settings.lake_root,
        home=str(settings.home),
        use_case=case.name,
        declarations=case.feast_package,
    )


def write_days(
    lake: Lake, dataset: str, table: pa.Table, column: str, days: Sequence[str]
) -> dict[str, Manifest]:
    """Write the rows of every one of `days`, by the UTC day of `column`. Returns the manifest of each day.

    A day without rows is written empty. The days are marked as validated, because their rows are made from
    validated rows. `LakeError` for a row of another day.
    """
    day = pc.strftime(table.column(column), format="%Y-%m-%d")
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(day).to_pylist()}
    if foreign := sorted(set(counts) - set(days), key=str):
        raise LakeError(
            f"{dataset}: {counts[foreign[0]]} rows belong to {foreign[0]}, which this run does not make"
        )
    position = pa.array(range(table.num_rows), pa.int64())  # Keeps the order of rows within a day
    order = pc.sort_indices(
        pa.table({"day": day, "position": position}),
        sort_keys=[("day", "ascending"), ("position", "ascending")],
    )
    placed, offset, written = table.take(order), 0, {}
    for one in sorted(days):
        rows = counts.get(one, 0)
        written[one] = lake.write(dataset, one, placed.slice(offset, rows), validated=True)
        offset += rows
    return written


def read_validated(lake: Lake, dataset: str, days: Sequence[str], columns: Sequence[str] = ()) -> pa.Table:
    """The rows of `days`, with all columns or some.

    `NotValidated` for a day whose checks have not passed, `MissingPartitions` for a day that does not exist.
    `LakeError` for a day that was made before a column was declared; it names both.
    """
    for manifest in require_validated(lake, dataset, days):
        if absent := [column for column in columns if column not in manifest.schema]:
            raise LakeError(
                f"{dataset}: {manifest.partition} has no {', '.join(absent)}, which was declared later;"
                " materialize that day again"
            )
    return lake.read(dataset, days, columns or None)


def require_validated(lake: Lake, dataset: str, days: Sequence[str]) -> list[Manifest]:
    """The manifests of `days`.

    `NotValidated` for a day whose checks have not passed, `MissingPartitions` for a day that does not exist.
    """
    manifests = lake.manifests(dataset, days)
    if bad := [m.partition for m in manifests if not m.validated]:
        raise NotValidated(
            f"{dataset}: {', '.join(bad[:3])}{' and more' if len(bad) > 3 else ''} did not pass validation"
        )
    return manifests


def day_range(first: str, last: str) -> list[str]:
    """All days from `first` to `last`, both included, as ISO strings."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


def shift(day: str, days: int) -> str:
    """The ISO date `days` later, or earlier where `days` is negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A pandas frame with microsecond UTC timestamps, as the core takes it."""
    return table.to_pandas(timestamp_as_object=False)


def to_table(frame: pd.DataFrame, schema: pa.Schema | None = None) -> pa.Table:
    """The Arrow form of a frame; a `schema` gives an empty frame its types."""
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
