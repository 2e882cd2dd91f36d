"""Feast's registry as one file, replaced as a whole: an apply is seen entirely or not at all, and a damaged file is never taken for an empty one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from google.protobuf.message import DecodeError

from feature_repo.engine import roots


class DamagedRegistry(Exception):
    """The registry file does not hold a registry."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: {why}; the definitions are code: move the file away and apply them again")


class HomeRegistryStore(FileRegistryStore):
    def __init__(self, registry_config: Any, repo_path: Path | None) -> None:
        self._filepath = roots.resolve(registry_config.path)

    def get_registry_proto(self) -> RegistryProto:
        if not self._filepath.exists():
            raise FileNotFoundError(self._filepath)
        content = self._filepath.read_bytes()
        if not content:
            raise DamagedRegistry(self._filepath, "it is empty")
        try:
            return RegistryProto.FromString(content)
        except DecodeError as error:
            raise DamagedRegistry(self._filepath, f"it cannot be read ({error})") from error

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.GetCurrentTime()
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._filepath.with_name(f".{self._filepath.name}.{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as handle:
                handle.write(registry_proto.SerializeToString())
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, self._filepath)
        finally:
            temporary.unlink(missing_ok=True)
