"""What people decide on versions: a promotion, a refusal, a rollback, and the history of all of it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.platform import CommandError, configured, padded, registry_exists, untrained

if TYPE_CHECKING:
    from mlops_assets.resources.environments import Settings
    from mlops_assets.resources.promotion import Lifecycle


def promote(number: str, reason: str, refuse: bool) -> dict[str, Any]:
    """A person's word on a version, which may overrule the gate's judgement and nothing that would break
    serving or trust.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.resources.promotion import lifecycle_of

    settings = configured()
    lifecycle = lifecycle_of(settings)
    if not registry_exists(settings):
        raise CommandError(f"there is no version {number}: {untrained(settings)}")
    if refuse:
        return _told(settings, lifecycle, lifecycle.decline(number, _now(), _person(), reason))
    from mlops_assets.steps.judge import standing_against
    from mlops_assets.use_cases import USE_CASES

    case, lake = USE_CASES[settings.use_case], Lake(settings.lake_root)
    barred = standing_against(case, settings, lake, lifecycle.registry, lifecycle.registry.version(number))
    return _told(settings, lifecycle, lifecycle.approve(number, _now(), _person(), reason, barred))


def rollback(reason: str) -> dict[str, Any]:
    """Back to the champion before this one, as one bundle."""
    from mlops_assets.resources.promotion import lifecycle_of

    settings = configured()
    if not registry_exists(settings):
        raise CommandError(f"there is no champion to roll back: {untrained(settings)}")
    lifecycle = lifecycle_of(settings)
    return _told(settings, lifecycle, lifecycle.roll_back(_now(), _person(), reason))


def history(as_data: bool) -> dict[str, Any] | None:
    """Every decision, the oldest first, after the chain was verified; what is not whole is an error."""
    from mlops_assets.resources.promotion import lifecycle_of

    settings = configured()
    lifecycle = lifecycle_of(settings)
    cut_off = len(lifecycle.unconfirmed()) if registry_exists(settings) else 0
    entries, head = lifecycle.history.entries(), lifecycle.history.head()
    unchained = sum("digest" not in entry for entry in entries)
    if as_data:
        return {
            "entries": entries,
            "whole": True,
            "rows": head.rows,
            "digest": head.digest,
            "unchained": unchained,
            "unconfirmed": cut_off,
        }
    print(_history_table(entries), end="")
    if unchained:
        sealed = "by the first digest after them" if unchained < head.rows else "by the next decision"
        print(f"The first {unchained} are from before there were digests, and are sealed {sealed}")
    if cut_off:
        print(f"A crash came before MLflow was told of the last {cut_off}; the next decision makes up for it")
    known = "" if cut_off else ", and MLflow knows of the last one"
    print(
        f"{head.rows} entries, whole: each follows from the one before it{known}"
        if entries
        else f"no entries: nothing was decided in {settings.home} yet"
    )
    return None


def decision(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history for a person, without what seals it."""
    from mlops_assets.core.lifecycle.champions import kind

    names = ("version", "as_of", "champion", "to", "by", "at", "reasons", "overruled")
    return {"kind": kind(row), **{name: row[name] for name in names if name in row}}


def _told(settings: Settings, lifecycle: Lifecycle, row: Mapping[str, Any]) -> dict[str, Any]:
    """The decision for a person, once Dagster has it as an observation of `promoted_version`.

    The history is the truth. Where Dagster cannot be told, the decision stands, and one line on stderr says
    so.
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


def _observe(settings: Settings, lifecycle: Lifecycle, row: Mapping[str, Any]) -> None:
    from dagster import DagsterInstance

    from mlops_assets.cli.instance import prepare_instance
    from mlops_assets.graph.checks import observed_decision

    prepare_instance(settings.home)
    with DagsterInstance.get() as instance:
        instance.report_runless_asset_event(observed_decision(row, lifecycle.history.line(row)))


def _history_table(entries: Sequence[Mapping[str, Any]]) -> str:
    from mlops_assets.core.lifecycle.champions import GATE, kind

    lines = [("at (UTC)", "decision", "version", "as of", "champion before", "by", "reason")]
    for row in entries:
        reasons = [*row["reasons"], *row.get("overruled", ())]
        what = kind(row).replace("_", " ") + (f" to {row['to']}" if "to" in row else "")
        reason = reasons[0] + (f" (and {len(reasons) - 1} more)" if reasons[1:] else "")
        lines.append(
            (
                row.get("at", "")[:19],
                what,
                row["version"],
                row["as_of"],
                row["champion"] or "none",
                row.get("by", GATE),
                reason,
            )
        )
    return padded(lines) if entries else ""


def _now() -> datetime:
    return datetime.now(UTC)


def _person() -> str:
    """Who runs this process, as the system names the user; the number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
