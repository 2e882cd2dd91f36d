"""The meaning of a history of decisions: the champions, the target of a rollback, and versions held back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROMOTED, REFUSED, AWAITING, DECLINED, ROLLED_BACK = (
    "promoted",
    "refused",
    "awaiting",
    "declined",
    "rolled_back",
)
GATE, GUARD = (
    "gate",
    "guard",
)  # who decides besides persons: the gate before a version serves, the guard after that

Row = Mapping[str, Any]


def kind(row: Row) -> str:
    """The decision of a row, such as PROMOTED. Old rows, without a chain of digests, name it `verdict`."""
    return str(row["kind"] if "kind" in row else row["verdict"])


def moved_to(row: Row) -> str | None:
    """The version that the row made champion. None where the champion stayed."""
    return {PROMOTED: row["version"], ROLLED_BACK: row.get("to")}.get(kind(row))


def champions(rows: Sequence[Row]) -> list[str]:
    """The champions that a rollback can return to, and the version that serves as the last one.

    Versions that were rolled back are not among them.
    """
    line: list[str] = []
    for row in rows:
        if kind(row) == PROMOTED:
            line = line or [row["champion"]] * bool(row["champion"])
            line += [row["version"]] * (line[-1:] != [row["version"]])
        elif kind(row) == ROLLED_BACK:
            while line and line[-1] != row["to"]:
                line.pop()
            line = line or [row["to"]]
    return line


def back_to(rows: Sequence[Row]) -> str | None:
    """The target of a rollback: the newest champion before the present one that was not rolled back.

    None where there is no such champion.
    """
    line = champions(rows)
    return next(
        (
            version
            for version in reversed(line[:-1])
            if version != line[-1] and held_back(rows, version) is None
        ),
        None,
    )


def held_back(rows: Sequence[Row], version: str, serves: str | None = None) -> str | None:
    """Why only a person may promote this version. None where the gate may.

    `serves` is a digest of what the version serves. A version with the same digest is held back as well.
    """
    for row in reversed(rows):
        if row["version"] != version and (serves is None or row.get("serves") != serves):
            continue
        if kind(row) == PROMOTED:
            return None
        if kind(row) in (ROLLED_BACK, DECLINED):
            what = (
                f"version {version}"
                if row["version"] == version
                else f"the same, as version {row['version']},"
            )
            return f"{what} was {latch(row)}: only a person promotes it again"
    return None


def latch(row: Row) -> str:
    """The decision in words, as in the tag of the version."""
    return f"{kind(row).replace('_', ' ')} by {row['by']} at {row['at']}: {'; '.join(row['reasons'])}"
