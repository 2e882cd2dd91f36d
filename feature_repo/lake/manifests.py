"""The manifest of a partition: which files belong to the partition, and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from feature_repo.errors import DamagedPartition
from feature_repo.lake.files import LakeFile

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What one partition holds.

    `validated`: the checks that have to pass before anything is made from the partition have passed.
    """

    dataset: str
    partition: str
    rows: int
    schema: Mapping[str, str]
    files: tuple[LakeFile, ...]
    validated: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the files. Equal content has an equal digest."""
        return digest_of(self.files)

    def to_json(self) -> str:
        """The content of the manifest's file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest of a text that `to_json` gave.

        `ValueError`, `KeyError` or `TypeError` where the text is no manifest of this format.
        """
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("written by another version of the platform")
        return cls(**{**values, "files": tuple(LakeFile(**f) for f in values["files"])})


def read_manifest(content: bytes, dataset: str, partition: str) -> Manifest:
    """The manifest in a file of the partition. `DamagedPartition` where the file holds no manifest of it."""
    try:
        manifest = Manifest.from_json(content.decode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedPartition(f"{dataset}/{partition}: its manifest cannot be read ({error})") from error
    if (manifest.dataset, manifest.partition) != (dataset, partition):
        raise DamagedPartition(
            f"{dataset}/{partition}: its manifest is of {manifest.dataset}/{manifest.partition}"
        )
    return manifest


def digest_of(files: Iterable[LakeFile]) -> str:
    """One SHA-256 for all the files, in their order."""
    return hashlib.sha256("\n".join(f.sha256 for f in files).encode()).hexdigest()
