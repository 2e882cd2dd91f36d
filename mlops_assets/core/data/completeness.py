"""Rows of a feed that count nowhere: rows of days that are already ingested, and labels without an event.

Validation cannot find them, because each single row is correct.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# A sound feed matches most of its labels, and some even on a platform that is a few days old. Short ids
# match by chance in one label of fifty.
NEARLY_NONE = 0.02
# The number of labels from which ids without a likely cause count as broken. A platform that is younger than
# its feed has fewer.
FEWEST = 10
# A way of writing is the cause if it matches most of the labels. Chance matches a few.
MOST = 0.5
SHOWN = 3
_PACKED = re.compile(r"\.(gz|zst|zstd|bz2|xz)$", re.IGNORECASE)

# Patterns that undo a way of writing an id. "Several of these" applies them in this order.
WAYS = {
    "a decimal part (.0)": ((r"\.0+$", ""),),
    "white space": ((r"\s+", ""),),
    "upper and lower case": (),
    "separators": ((r"[-_./:]", ""),),
    "a prefix or a suffix": ((r"^[^0-9]+|[^0-9]+$", ""),),
    "leading zeros": ((r"^0+([^\s])", r"\1"),),
}
TOGETHER = "several of these"


@dataclass(frozen=True)
class Taken:
    """The ingested rows of a day, and their number by file (None where that was not recorded)."""

    rows: int
    files: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Match:
    """How many of some labels match a known event.

    `cause` is the likely reason where nearly none match. The ids are examples of both forms.
    """

    labels: int
    matched: int
    cause: str | None = None
    label_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()

    @property
    def nearly_none(self) -> bool:
        """Whether no more labels match than by chance."""
        return self.matched <= NEARLY_NONE * self.labels

    def broken(self, old_enough: bool) -> bool:
        """Whether labels and events write their ids in two ways.

        `old_enough` says that the events go back as far as labels usually take to come.
        """
        return (
            bool(self.labels)
            and self.nearly_none
            and (self.cause is not None or (old_enough and self.labels >= FEWEST))
        )


def untaken(held: Mapping[str, Mapping[str, int]], taken: Mapping[str, Taken]) -> dict[str, int]:
    """How many more rows the files hold now than were ingested, by day (negative: fewer).

    `held` is day -> file -> rows. Days without a difference are left out, and days that were never ingested.
    A missing file makes no difference, because its ingested rows are on record.
    """
    found = {}
    for day in sorted(taken):
        now, then = held.get(day, {}), taken[day]
        total = sum(now.values())
        # Moved and packed files are the same files.
        if total == then.rows and (then.files is None or _known_as(now) == _known_as(then.files)):
            continue
        if then.files is None:
            difference = max(total - then.rows, 0)
        else:
            changes = [rows - then.files.get(file, 0) for file, rows in now.items()]
            difference = sum(c for c in changes if c > 0) or sum(changes)
        if difference:
            found[day] = difference
    return found


def gone(held: Mapping[str, Mapping[str, int]], taken: Mapping[str, Taken], days: Iterable[str]) -> list[str]:
    """The missing files that rows of `days` came from. Ingesting these days again would lose their rows."""
    found = set()
    for day in days:
        here = {name for name, _ in _known_as(held.get(day, {}))}
        found |= {
            path
            for path, rows in (taken[day].files or {}).items()
            if _known_as({path: rows})[0][0] not in here
        }
    return sorted(found)


def _known_as(files: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names without folders and packings, with the rows. Moving or packing a file does not change them."""
    return sorted((_PACKED.sub("", path.rsplit("/", 1)[-1]).lower(), rows) for path, rows in files.items())


def match_ids(labels: pa.Array, events: pa.ChunkedArray, ways: Sequence[str] = (*WAYS, TOGETHER)) -> Match:
    """Compare the distinct ids of labels with the ids of events.

    Where nearly none match, `cause` is the first of the `ways` of writing whose removal makes most match.
    """
    labels = pc.unique(labels)
    known = pc.is_in(labels, value_set=events.combine_chunks())
    matched = int(pc.sum(known).as_py() or 0)
    found = Match(len(labels), matched)
    if not len(labels) or not len(events) or not found.nearly_none:
        return found
    alone = labels.filter(pc.invert(known))
    for way in ways:
        stripped, others = _without(alone, way), _without(events.combine_chunks(), way)
        alike = pc.is_in(stripped, value_set=others)
        if int(pc.sum(alike).as_py() or 0) >= MOST * len(labels):
            pairs = alone.filter(alike).slice(0, SHOWN)
            partners = pc.index_in(stripped.filter(alike).slice(0, SHOWN), value_set=others)
            return Match(
                len(labels),
                matched,
                way,
                tuple(pairs.to_pylist()),
                tuple(events.combine_chunks().take(partners).to_pylist()),
            )
    examples = tuple(events.slice(0, SHOWN).to_pylist())
    return Match(len(labels), matched, None, tuple(alone.slice(0, SHOWN).to_pylist()), examples)


def _without(ids: pa.Array, way: str) -> pa.Array:
    """The ids with one way of writing undone, or all of them."""
    for name, patterns in WAYS.items():
        if way not in (name, TOGETHER):
            continue
        if name == "upper and lower case":
            ids = pc.utf8_lower(ids)
        for pattern, replacement in patterns:
            ids = pc.replace_substring_regex(ids, pattern, replacement)
    return ids
