"""Two lakes read as one, so that partitions can be made and read beside a lake that must not change."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from feature_repo.lake.datasets import Lake, LakeFile, Manifest


class LayeredLake(Lake):
    """A lake with the partitions of another lake on top. Writes go to the other lake alone."""

    def __init__(self, lake: Lake, further: Lake) -> None:
        super().__init__(lake.root)
        self._further = further
        self._places: set[tuple[str, str]] = set()

    def write(
        self,
        dataset: str,
        partition: str,
        table: pa.Table,
        *,
        validated: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        made = self._further.write(dataset, partition, table, validated=validated, metadata=metadata)
        self._places.add((dataset, partition))
        return made

    def manifest(self, dataset: str, partition: str) -> Manifest | None:
        if (dataset, partition) in self._places:
            return self._further.manifest(dataset, partition)
        return super().manifest(dataset, partition)

    def between(self, dataset: str, first: str, last: str, *, validated: bool = False) -> list[str]:
        days = super().between(dataset, first, last, validated=validated)
        return sorted({*days, *self._further.between(dataset, first, last, validated=validated)})

    def _table(self, manifest: Manifest, file: LakeFile, columns: Sequence[str] | None) -> pa.Table:
        if (manifest.dataset, manifest.partition) in self._places:
            return self._further._table(manifest, file, columns)
        return super()._table(manifest, file, columns)
