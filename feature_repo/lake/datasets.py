"""The lake: immutable Parquet files named by their digest, and one manifest a partition that names its files.

A partition changes in one step, when its new manifest is moved in place. Readers read the files of the
manifest and never search a folder. A killed writer therefore leaves the old content visible.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fsspec
import pyarrow as pa

from feature_repo.errors import DamagedPartition, LakeError, MissingPartitions
from feature_repo.lake.files import LakeFile, decode, encode, schema_of, stored_schema, write_whole
from feature_repo.lake.manifests import MANIFEST, Manifest, digest_of, read_manifest

__all__ = [
    "MANIFEST",
    "DamagedPartition",
    "Lake",
    "LakeError",
    "LakeFile",
    "Manifest",
    "MissingPartitions",
    "digest_of",
    "encode",
    "schema_of",
]


class Lake:
    """Datasets of partitions under one root, a local folder or any fsspec address (`s3://bucket/prefix`)."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = str(root).rstrip("/")
        self.fs, self._path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        self._local = "file" in (
            self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        )

    def write(
        self,
        dataset: str,
        partition: str,
        table: pa.Table,
        *,
        validated: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Replace the content of one partition. Returns its new manifest.

        Readers see the old content until the manifest is moved in place, and the new content afterwards.
        `LakeError` where the partition cannot be written.
        """
        content, file = encode(table)
        self._put(f"{dataset}/{partition}/{file.name}", content)
        schema, kept = stored_schema(content), dict(metadata or {})
        manifest = Manifest(dataset, partition, table.num_rows, schema, (file,), validated, kept)
        self._put(f"{dataset}/{partition}/{MANIFEST}", manifest.to_json().encode())
        return manifest

    def manifest(self, dataset: str, partition: str) -> Manifest | None:
        """The partition's manifest; None where the partition was never written.

        `DamagedPartition` where the manifest cannot be read.
        """
        try:
            content = self.fs.cat_file(f"{self._path}/{dataset}/{partition}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return read_manifest(content, dataset, partition)

    def partitions(self, dataset: str) -> list[str]:
        """Every partition that has a manifest, in order."""
        return self.between(dataset, "", "\U0010ffff")

    def between(self, dataset: str, first: str, last: str, *, validated: bool = False) -> list[str]:
        """The written partitions from `first` to `last`, both included, in order.

        With `validated`, only partitions whose checks have passed.
        """
        try:
            names = [
                str(path).rstrip("/").rsplit("/", 1)[1]
                for path in self.fs.ls(f"{self._path}/{dataset}", detail=False)
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = sorted(name for name in names if first <= name <= last)
        if validated:
            return [
                name
                for name in names
                if (manifest := self.manifest(dataset, name)) is not None and manifest.validated
            ]
        return [name for name in names if self.fs.exists(f"{self._path}/{dataset}/{name}/{MANIFEST}")]

    def manifests(self, dataset: str, partitions: Iterable[str]) -> list[Manifest]:
        """The manifests of the partitions, in the order of the argument.

        `MissingPartitions` names the partitions that were never written.
        """
        found = {p: self.manifest(dataset, p) for p in partitions}
        if missing := sorted(p for p, m in found.items() if m is None):
            raise MissingPartitions(dataset, missing)
        return [m for m in found.values() if m is not None]

    def files(self, dataset: str, partitions: Iterable[str]) -> list[str]:
        """The full paths of the data files, for engines that read Parquet."""
        return [
            f"{self.root}/{m.dataset}/{m.partition}/{f.name}"
            for m in self.manifests(dataset, partitions)
            for f in m.files
        ]

    def read(self, dataset: str, partitions: Iterable[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the partitions, in the order of the argument.

        `MissingPartitions` for partitions that were never written, `DamagedPartition` for files that do not
        hold what their manifest says. `LakeError` where the partitions have different columns.
        """
        manifests = self.manifests(dataset, partitions)
        if not manifests:
            raise LakeError(f"{dataset}: asked for no partition at all")
        tables = [self._table(m, f, columns) for m in manifests for f in m.files]
        try:
            return pa.concat_tables(tables)
        except pa.ArrowInvalid as error:
            raise DamagedPartition(
                f"{dataset}: its partitions have different columns or types ({error})"
            ) from error

    def _table(self, manifest: Manifest, file: LakeFile, columns: Sequence[str] | None) -> pa.Table:
        place = f"{manifest.dataset}/{manifest.partition}/{file.name}"
        path = f"{self._path}/{place}"
        try:
            # Arrow's threads may still hold the file when the interpreter ends. The process would abort if
            # the file were a Python object.
            with pa.OSFile(path) if self._local else self.fs.open(path, "rb") as handle:
                table, schema = decode(handle, place, file, columns, threads=self._local)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DamagedPartition(f"{place}: cannot be read ({error})") from error
        if schema != manifest.schema:
            raise DamagedPartition(f"{place}: its columns are not those of its manifest")
        return table

    def _put(self, place: str, content: bytes) -> None:
        """Write one object as a whole. Object stores always do."""
        try:
            if self._local:
                write_whole(f"{self._path}/{place}", content)
            else:
                self.fs.pipe_file(f"{self._path}/{place}", content)
        except OSError as error:
            raise LakeError(f"{self.root}/{place}: cannot be written ({error.strerror or error})") from error
