"""Feast's registry as one file that is replaced as a whole.

A reader sees all of an apply or nothing of it. A damaged file is never taken for an empty registry.

Two files stand beside the registry. `<name>.holds` lists the names that the registry has to hold. A registry
that lacks some of them was cut off, or is an old copy. `<name>.good` is the last content that was written. A
write removes names from the list before the registry changes, and adds names after it. A crash in between
leaves a registry that holds everything on the list.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from filelock import FileLock
from google.protobuf.message import DecodeError

from feature_repo import roots
from feature_repo.errors import FeatureError
from feature_repo.lake.files import write_whole

KINDS = (
    "entities",
    "data_sources",
    "feature_views",
    "stream_feature_views",
    "on_demand_feature_views",
    "feature_services",
)


class DamagedRegistry(FeatureError):
    """The registry file does not hold the registry that was written. `path` is the file."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: {why}; the definitions are code: move the file away and apply them again")


class RegistryChanged(FeatureError):
    """Another process wrote the registry between reading and writing. Nothing was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: another process changed the registry meanwhile; do it again")


class HomeRegistryStore(FileRegistryStore):
    """The registry of one home."""

    def __init__(self, registry_config: Any, repo_path: Path | None) -> None:
        self._filepath = roots.resolve(registry_config.path)

    def get_registry_proto(self) -> RegistryProto:
        """The registry in the file.

        Raises `FileNotFoundError` where there is no file, and `DamagedRegistry` where the file does not hold
        the registry that was written.
        """
        if not self._filepath.exists():
            raise FileNotFoundError(self._filepath)
        # The list is read first. A write between the two reads can only add to the file, or has shortened the
        # list already.
        listed = _listed(self._filepath)
        registry = _parsed(self._filepath, self._filepath)
        if listed - names(registry):
            listed = _listed(self._filepath)  # The write has removed names.
        if lost := sorted(listed - names(registry)):
            raise DamagedRegistry(self._filepath, f"it lacks {', '.join(lost)}, which were applied")
        return registry

    def teardown(self) -> None:
        """Delete the registry and the two files beside it."""
        for path in (self._filepath, _holds(self._filepath), _good(self._filepath)):
            path.unlink(missing_ok=True)

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        with locked(self._filepath.parent):
            if self._filepath.exists():
                current = self.get_registry_proto()
                if current.version_id != registry_proto.version_id:
                    if registry_proto.version_id or names(registry_proto):
                        raise RegistryChanged(self._filepath)
                    # Feast found no file and makes an empty registry. Another process has made one meanwhile.
                    registry_proto.CopyFrom(current)
                    return
                kept = _listed(self._filepath) & names(registry_proto)
            else:
                kept = set()
            registry_proto.version_id = str(uuid.uuid4())
            registry_proto.last_updated.GetCurrentTime()
            content = registry_proto.SerializeToString()
            _list(self._filepath, kept)
            write_whole(self._filepath, content)
            _list(self._filepath, names(registry_proto))
            write_whole(_good(self._filepath), content)


def set_aside(path: Path) -> None:
    """Move a damaged registry to `<name>.damaged`.

    The last good registry takes its place, if there is one.
    """
    path.replace(path.with_suffix(".damaged"))
    _holds(path).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, DamagedRegistry):
        write_whole(path, _parsed(_good(path), path).SerializeToString())


def names(registry: RegistryProto) -> set[str]:
    """The contents of a registry, as `kind name`."""
    return {
        f"{kind.removesuffix('s')} {o.name if kind == 'data_sources' else o.spec.name}"
        for kind in KINDS
        for o in getattr(registry, kind)
    }


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process and thread at a time work on a folder, which is made where it is missing.

    Whoever holds the lock may take it again. Others wait. The system frees the lock when its process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # One lock object for each file, so that a thread that holds the lock can take it again.
    with FileLock(folder / "apply.lock", is_singleton=True):
        yield


def _parsed(file: Path, registry: Path) -> RegistryProto:
    """The content of a file. `DamagedRegistry` names the registry where the file holds no registry."""
    content = file.read_bytes()
    if not content:
        raise DamagedRegistry(registry, "it is empty")
    try:
        return RegistryProto.FromString(content)
    except DecodeError as error:
        raise DamagedRegistry(registry, f"it cannot be read ({error})") from error


def _holds(path: Path) -> Path:
    return path.with_name(f"{path.name}.holds")


def _good(path: Path) -> Path:
    return path.with_name(f"{path.name}.good")


def _listed(path: Path) -> set[str]:
    try:
        return set(json.loads(_holds(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return set()
    except ValueError as error:
        raise DamagedRegistry(
            path, f"{_holds(path).name}, the list of what it must hold, cannot be read ({error})"
        ) from error


def _list(path: Path, held: set[str]) -> None:
    if not _holds(path).exists() or _listed(path) != held:
        write_whole(_holds(path), json.dumps(sorted(held)).encode())
