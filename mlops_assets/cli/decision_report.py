"""A person's decision on a version: who took it, and how the person and Dagster's UI are told of it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops_assets.resources.environments import Settings
    from mlops_assets.resources.promotion import Lifecycle


def decision(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history as a person reads it, without its digests."""
    from mlops_assets.core.lifecycle.champions import kind

    names = ("version", "as_of", "champion", "to", "by", "at", "reasons", "overruled")
    return {"kind": kind(row), **{name: row[name] for name in names if name in row}}


def reported(settings: Settings, lifecycle: Lifecycle, row: Mapping[str, Any]) -> dict[str, Any]:
    """The decision as a person reads it. Dagster gets it as an observation of `promoted_version`.

    The history is the truth. The decision stands even where Dagster cannot be told, and stderr gets one line
    then.
    """
    try:
        _observe(settings, lifecycle, row)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(
            f"mlops: this is decided and in the history, but Dagster's UI does not show it ({why})",
            file=sys.stderr,
        )
    return decision(row)


def now() -> datetime:
    """The moment of a person's decision."""
    return datetime.now(UTC)


def person() -> str:
    """The user who runs this process: the system's name, or the number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _observe(settings: Settings, lifecycle: Lifecycle, row: Mapping[str, Any]) -> None:
    from dagster import DagsterInstance

    from mlops_assets.cli.instance import prepare_instance
    from mlops_assets.graph.checks import observed_decision

    prepare_instance(settings.home)
    with DagsterInstance.get() as instance:
        instance.report_runless_asset_event(observed_decision(row, lifecycle.history.line(row)))
