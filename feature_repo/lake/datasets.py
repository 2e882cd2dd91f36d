"""The lake is the truth: immutable Parquet files named by their digest, and one manifest a partition that
says which of them count.

A partition changes in one step, when its manifest is moved in place; readers go by manifests and never by
globs, so that a killed writer leaves the old content visible and its neighbours untouched.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import FeatureError
from feature_repo.lake.files import write_whole

MANIFEST = "manifest.json"
FORMAT = 1


class LakeError(FeatureError):
    """Something about the lake itself is wrong; the message names the dataset and the partition."""


class MissingPartitions(LakeError):
    """Partitions that a reader needs were never written."""

    def __init__(self, dataset: str, partitions: Sequence[str]) -> None:
        self.dataset, self.partitions = dataset, tuple(partitions)
        few = ", ".join(partitions[:3]) + (f" and {len(partitions) - 3} more" if len(partitions) > 3 else "")
        super().__init__(f"{dataset}: nothing materialized for {few}")


class DamagedPartition(LakeError):
    """A manifest or one of its files does not hold what it says."""


@dataclass(frozen=True)
class DataFile:
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What one partition holds. `validated` says that the checks which guard what is downstream have passed."""

    dataset: str
    partition: str
    rows: int
    schema: Mapping[str, str]
    files: tuple[DataFile, ...]
    validated: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the files, the same for the same content."""
        return digest_of(self.files)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("written by another version of the platform")
        return cls(**{**values, "files": tuple(DataFile(**f) for f in values["files"])})


def encode(table: pa.Table) -> tuple[bytes, DataFile]:
    """A table as the file that the lake would hold. The same rows in the same order give the same bytes."""
    buffer = io.BytesIO()
    # Dictionaries of ids and averages, most of which occur once, take longer to make than all the rest, and
    # save nothing that zstd does not.
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return content, DataFile(f"{digest[:32]}.parquet", table.num_rows, len(content), digest)


def schema_of(schema: pa.Schema) -> dict[str, str]:
    """Columns and their types, as a manifest keeps them."""
    return {field.name: str(field.type) for field in schema}


def digest_of(files: Iterable[DataFile]) -> str:
    """One SHA-256 for all the files, in their order."""
    return hashlib.sha256("\n".join(f.sha256 for f in files).encode()).hexdigest()


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
        """Replace the content of one partition.

        Readers see the old content until the manifest moves, and the new one after.
        """
        content, file = encode(table)
        self._put(f"{dataset}/{partition}/{file.name}", content)
        schema = schema_of(
            pq.read_schema(pa.BufferReader(content))
        )  # Parquet names and rounds some types anew
        manifest = Manifest(
            dataset, partition, table.num_rows, schema, (file,), validated, dict(metadata or {})
        )
        self._put(f"{dataset}/{partition}/{MANIFEST}", manifest.to_json().encode())
        return manifest

    def manifest(self, dataset: str, partition: str) -> Manifest | None:
        """The partition's manifest, or None where it was never written.

        A manifest that cannot be read is `DamagedPartition`.
        """
        try:
            content = self.fs.cat_file(f"{self._path}/{dataset}/{partition}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            manifest = Manifest.from_json(content.decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedPartition(f"{dataset}/{partition}: its manifest cannot be read ({error})") from error
        if (manifest.dataset, manifest.partition) != (dataset, partition):
            raise DamagedPartition(
                f"{dataset}/{partition}: its manifest is of {manifest.dataset}/{manifest.partition}"
            )
        return manifest

    def partitions(self, dataset: str) -> list[str]:
        """Every partition that has a manifest, in order."""
        return self.between(dataset, "", "\U0010ffff")

    def between(self, dataset: str, first: str, last: str, *, validated: bool = False) -> list[str]:
        """The written partitions from `first` to `last`, both included; with `validated`, only those whose
        checks have passed.
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
        """The manifests of all the partitions asked for; any that is missing raises `MissingPartitions` with
        its name.
        """
        found = {p: self.manifest(dataset, p) for p in partitions}
        if missing := sorted(p for p, m in found.items() if m is None):
            raise MissingPartitions(dataset, missing)
        return [m for m in found.values() if m is not None]

    def files(self, dataset: str, partitions: Iterable[str]) -> list[str]:
        """Full paths of the data files, for engines that read Parquet themselves."""
        return [
            f"{self.root}/{m.dataset}/{m.partition}/{f.name}"
            for m in self.manifests(dataset, partitions)
            for f in m.files
        ]

    def read(self, dataset: str, partitions: Iterable[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the partitions, in the order asked for.

        Partitions never written raise `MissingPartitions`.
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

    def _table(self, manifest: Manifest, file: DataFile, columns: Sequence[str] | None) -> pa.Table:
        place = f"{manifest.dataset}/{manifest.partition}/{file.name}"
        try:
            # Arrow's threads may still hold the file as the interpreter ends, which aborts the process if the
            # file is a Python object.
            with (
                pa.OSFile(f"{self._path}/{place}")
                if self._local
                else self.fs.open(f"{self._path}/{place}", "rb")
            ) as handle:
                if (size := handle.seek(0, os.SEEK_END)) != file.bytes:
                    raise DamagedPartition(f"{place}: {size} bytes where its manifest says {file.bytes}")
                handle.seek(0)
                # Without its checksums Parquet does not notice a changed value.
                parquet = pq.ParquetFile(handle, page_checksum_verification=True)
                schema = schema_of(parquet.schema_arrow)
                table = parquet.read(
                    columns=list(columns) if columns is not None else None, use_threads=self._local
                )
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DamagedPartition(f"{place}: cannot be read ({error})") from error
        if schema != manifest.schema:
            raise DamagedPartition(f"{place}: its columns are not those of its manifest")
        if table.num_rows != file.rows:
            raise DamagedPartition(f"{place}: {table.num_rows} rows where its manifest says {file.rows}")
        return table

    def _put(self, place: str, content: bytes) -> None:
        """Write one object as a whole: on a disk by way of a temporary name, fsync and rename; object stores
        do it by themselves.
        """
        try:
            if self._local:
                write_whole(f"{self._path}/{place}", content)
            else:
                self.fs.pipe_file(f"{self._path}/{place}", content)
        except OSError as error:
            raise LakeError(f"{self.root}/{place}: cannot be written ({error.strerror or error})") from error
