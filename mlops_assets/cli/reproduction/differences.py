"""The differences between a rebuilt version and its record, in the order from cause to effect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.resources.provenance import COMPUTING, Days, Record, code_digest, lock_digest

DAYS_NAMED = 3


def outcome(
    partitions: Mapping[str, Days], training_set: str | None, models: Mapping[str, str]
) -> dict[str, str | None]:
    """The digests that a person compares, by name."""
    vectors = json.dumps(sorted(partitions.get(FEATURE_VECTORS, {}).items()))
    return {
        "feature_vectors": hashlib.sha256(vectors.encode()).hexdigest(),
        "training_set": training_set,
        "evaluation_fit": models.get("evaluation"),
        "model": models.get("release"),
    }


def differing_code(record: Record, code: Path, rebuilt: Record | None) -> list[str]:
    """The differences in code, use case, lock file, versions, configuration and declarations, in words.

    A difference of versions names the recorded version, then the present version.
    """
    differs = []
    if code_digest(code) != record.code["code_digest"]:
        commit, dirty = record.code["git_commit"][:12], record.code["git_dirty"] != "false"
        differs.append(
            f"commit {commit} has "
            + ("a dirty tree: what was changed is not recorded" if dirty else "code of another digest")
        )
    of_case = [one.code.get("use_case_commit", "none")[:12] for one in (record, rebuilt or record)]
    if of_case[0] != of_case[1]:
        differs.append(f"use case of commit {of_case[0]} against {of_case[1]}")
    if lock_digest(code) != record.code["lock_digest"]:
        differs.append("lock file")
    now = rebuilt.runtime if rebuilt else record.runtime
    differs += [
        f"{'package ' if name in COMPUTING else ''}{name} {version} against {now.get(name, 'none')}"
        for name, version in record.runtime.items()
        if now.get(name) != version
    ]
    if hashlib.sha256(record.config.encode()).hexdigest() != record.code["config_digest"]:
        differs.append("configuration")
    if rebuilt and rebuilt.plan_digest != record.plan_digest:
        differs.append("declarations of features")
    return differs


def differing_days(
    record: Record, days: Mapping[str, Days], unvalidated: Mapping[str, Sequence[str]]
) -> list[str]:
    """The datasets that differ, with their days, from cause to effect."""
    differs = []
    for dataset, recorded in record.partitions.items():
        there, changed = (
            days.get(dataset, {}),
            set(record.unvalidated.get(dataset, ())) ^ set(unvalidated.get(dataset, ())),
        )
        if missing := [day for day in recorded if day not in there]:
            differs.append(f"{dataset} {_named(missing)} (not there)")
        if other := [
            day for day in recorded if day in there and (there[day] != recorded[day] or day in changed)
        ]:
            differs.append(f"{dataset} {_named(other)}")
    return differs


def _named(days: Sequence[str]) -> str:
    return ", ".join(days) if len(days) <= DAYS_NAMED else f"{days[0]} to {days[-1]} ({len(days)} days)"
