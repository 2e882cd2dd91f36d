"""Feast's registry as one file, replaced as a whole: an apply is seen entirely or not at all, and a damaged
file is never taken for an empty one.

Two files stand beside it. `<name>.holds` lists the names that the registry must hold: a file that lacks some
was cut off or is an old copy. `<name>.good` is the last content that was written. Names that a write removes
leave the list before the registry changes and new ones join it after, so that a crash in between leaves a
registry that holds whatever the list says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from google.protobuf.message import DecodeError

from feature_repo import roots

KINDS = (
    "entities",
    "data_sources",
    "feature_views",
    "stream_feature_views",
    "on_demand_feature_views",
    "feature_services",
)
_held = threading.local()


class DamagedRegistry(Exception):
    """The registry file does not hold the registry that was written."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: {why}; the definitions are code: move the file away and apply them again")


class RegistryChanged(Exception):
    """Another process wrote the registry between reading and writing; nothing was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: another process changed the registry meanwhile; do it again")


class HomeRegistryStore(FileRegistryStore):
    def __init__(self, registry_config: Any, repo_path: Path | None) -> None:
        self._filepath = roots.resolve(registry_config.path)

    def get_registry_proto(self) -> RegistryProto:
        if not self._filepath.exists():
            raise FileNotFoundError(self._filepath)
        # The list first: a write between the two reads can only add to what the file holds, or has shortened
        # the list already.
        listed = _listed(self._filepath)
        registry = _parsed(self._filepath, self._filepath)
        if listed - names(registry):
            listed = _listed(self._filepath)  # the write took names away
        if lost := sorted(listed - names(registry)):
            raise DamagedRegistry(self._filepath, f"it lacks {', '.join(lost)}, which were applied")
        return registry

    def teardown(self) -> None:
        for path in (self._filepath, _holds(self._filepath), _good(self._filepath)):
            path.unlink(missing_ok=True)

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        with locked(self._filepath.parent):
            if self._filepath.exists():
                current = self.get_registry_proto()
                if current.version_id != registry_proto.version_id:
                    if registry_proto.version_id or names(registry_proto):
                        raise RegistryChanged(self._filepath)
                    registry_proto.CopyFrom(
                        current
                    )  # Feast found no file and makes an empty one, but meanwhile there is one
                    return
                kept = _listed(self._filepath) & names(registry_proto)
            else:
                kept = set()
            registry_proto.version_id = str(uuid.uuid4())
            registry_proto.last_updated.GetCurrentTime()
            content = registry_proto.SerializeToString()
            _list(self._filepath, kept)
            replace(self._filepath, content)
            _list(self._filepath, names(registry_proto))
            replace(_good(self._filepath), content)


def set_aside(path: Path) -> None:
    """Move a damaged registry away, and put the last good one in its place, if there is one."""
    path.replace(path.with_suffix(".damaged"))
    _holds(path).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, DamagedRegistry):
        replace(path, _parsed(_good(path), path).SerializeToString())


def names(registry: RegistryProto) -> set[str]:
    """What a registry holds, as `kind name`."""
    return {
        f"{kind.removesuffix('s')} {o.name if kind == 'data_sources' else o.spec.name}"
        for kind in KINDS
        for o in getattr(registry, kind)
    }


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process and thread at a time; whoever holds the lock may take it again."""
    held: set[Path] = _held.__dict__.setdefault("folders", set())
    if folder in held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "apply.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        held.add(folder)
        yield
    finally:
        held.discard(folder)
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Put a file in place in one step."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _parsed(file: Path, registry: Path) -> RegistryProto:
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
        replace(_holds(path), json.dumps(sorted(held)).encode())
