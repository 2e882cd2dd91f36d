"""The source that `[source]` of the configuration names: files, or a kind of the use case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops_assets.core.config_tables import nearest, read_table
from mlops_assets.core.data.base import Source, SourceError
from mlops_assets.core.use_case import FILES, SourceKind, UseCase
from mlops_assets.sources.file_source import FileSource
from mlops_assets.sources.files_config import FilesConfig, files_config


def open_source(case: UseCase, values: Mapping[str, Any], base: Path) -> Source:
    """The source that `[source]` describes.

    A relative path starts at `base`, the folder of the configuration file. No file is opened. Raises
    `SourceError` with every problem of the table.
    """
    kinds: dict[str, SourceKind] = {
        **case.sources,
        FILES: (files_config(case), lambda config: FileSource(_located(config, base))),
    }
    if "kind" not in values:
        raise SourceError(f"[source] kind: is missing; there are {', '.join(kinds)}")
    kind = str(values["kind"])
    if kind not in kinds:
        raise SourceError(
            f"[source] kind {kind!r} is not known{nearest(kind, list(kinds))}; there are {', '.join(kinds)}. "
            "For any other source, such as a database or a queue, export files and read these"
        )
    config_class, opened = kinds[kind]
    config, problems = read_table(config_class, values, "[source]")
    if config is None:
        raise SourceError(*problems)
    return opened(config)


def _located(config: FilesConfig, base: Path) -> FilesConfig:
    """The configuration with absolute paths."""
    changes: dict[str, Any] = {"path": _place(config.path, base)}
    if config.labels is not None and config.labels.path is not None:
        changes["labels"] = config.labels.model_copy(update={"path": _place(config.labels.path, base)})
    if config.further:
        feeds = {
            name: one.model_copy(update={"path": _place(one.path, base)})
            for name, one in config.further.items()
        }
        changes["feeds"] = config.feeds.model_copy(update=feeds)  # type: ignore[attr-defined]
    return config.model_copy(update=changes)


def _place(path: str, base: Path) -> str:
    return path if "://" in path else str((base / path).resolve())
