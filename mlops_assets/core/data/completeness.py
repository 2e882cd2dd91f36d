"""What a feed holds beyond what was taken of it: rows of days that are already made, and labels whose ids
match no event.

Neither is a fault of a single row, so validation cannot see it: all rows are in order, and none of them
counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# A feed that fits matches most of its labels; even a platform of a few days matches some. One label in fifty
# is chance: short ids repeat.
NEARLY_NONE = 0.02
# Without a likely cause: so many labels, and events for as long as labels take to come. Fewer are those of a
# platform that is younger than its feed.
FEWEST = 10
# A way of writing is the cause if it brings most of the labels home; ids that are alike by chance are a few.
MOST = 0.5
SHOWN = 3
_PACKED = re.compile(r"\.(gz|zst|zstd|bz2|xz)$", re.IGNORECASE)

# Each undoes one way of writing; together they are applied in this order.
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
    """What was taken of a day: its rows, and how many of them came from which file (None where that was not
    recorded).
    """

    rows: int
    files: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Match:
    """How many of some labels are about an event that is known, and why not where nearly none is.

    The ids are examples of both forms.
    """

    labels: int
    matched: int
    cause: str | None = None
    label_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()

    @property
    def nearly_none(self) -> bool:
        return self.matched <= NEARLY_NONE * self.labels

    def broken(self, old_enough: bool) -> bool:
        """Whether the ids are written in two ways.

        `old_enough`: there are events for as long as labels usually take.
        """
        return (
            bool(self.labels)
            and self.nearly_none
            and (self.cause is not None or (old_enough and self.labels >= FEWEST))
        )


def untaken(held: Mapping[str, Mapping[str, int]], taken: Mapping[str, Taken]) -> dict[str, int]:
    """By day, how many rows more (or fewer, negative) the files hold now than were taken; days on which that
    is the same are left out.

    `held`: day -> file -> rows. A file that is gone took nothing away: what was taken of it is on record.
    Days that were never taken are no concern.
    """
    found = {}
    for day in sorted(taken):
        now, then = held.get(day, {}), taken[day]
        total = sum(now.values())
        if total == then.rows and (
            then.files is None or _known_as(now) == _known_as(then.files)
        ):  # as it was, or moved, or packed
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
    """The files that rows of `days` were taken from, and that are there no more: these days made again would
    be without them.
    """
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
    """Files by their name without folders and packings: another one with as many rows is a late file where
    the first was tidied away.
    """
    return sorted((_PACKED.sub("", path.rsplit("/", 1)[-1]).lower(), rows) for path, rows in files.items())


def match_ids(labels: pa.Array, events: pa.ChunkedArray, ways: Sequence[str] = (*WAYS, TOGETHER)) -> Match:
    """Compare the ids of labels, each once, with those of events.

    Where nearly none match, look for the one of `ways` of writing that sets them apart.
    """
    labels = pc.unique(labels)
    known = pc.is_in(labels, value_set=events.combine_chunks())
    matched = int(pc.sum(known).as_py() or 0)
    found = Match(len(labels), matched)
    if not len(labels) or not len(events) or not found.nearly_none:
        return found
    alone = labels.filter(pc.invert(known))
    for way in ways:
        plain, others = _plainly(alone, way), _plainly(events.combine_chunks(), way)
        alike = pc.is_in(plain, value_set=others)
        if int(pc.sum(alike).as_py() or 0) >= MOST * len(labels):
            pairs = alone.filter(alike).slice(0, SHOWN)
            partners = pc.index_in(plain.filter(alike).slice(0, SHOWN), value_set=others)
            return Match(
                len(labels),
                matched,
                way,
                tuple(pairs.to_pylist()),
                tuple(events.combine_chunks().take(partners).to_pylist()),
            )
    examples = tuple(events.slice(0, SHOWN).to_pylist())
    return Match(len(labels), matched, None, tuple(alone.slice(0, SHOWN).to_pylist()), examples)


def _plainly(ids: pa.Array, way: str) -> pa.Array:
    """The ids without what a way of writing adds to them."""
    for name, patterns in WAYS.items():
        if way not in (name, TOGETHER):
            continue
        if name == "upper and lower case":
            ids = pc.utf8_lower(ids)
        for pattern, replacement in patterns:
            ids = pc.replace_substring_regex(ids, pattern, replacement)
    return ids
