"""Where each canonical column is found in a feed: under a name, as a time since a moment, or composed of
several columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from mlops_assets.core.config_tables import alike
from mlops_assets.core.data.values.value_rules import USUAL, Kind, Rules
from mlops_assets.sources.formats.content import ContentError

Unit = Literal["seconds", "minutes", "hours", "days"]
SECONDS: dict[Unit, int] = {"seconds": 1, "minutes": 60, "hours": 3_600, "days": 86_400}
SHOWN_NAMES = 60


class Since(BaseModel):
    """A time that a feed gives as a number of units since a moment. A moment without a zone is UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    unit: Unit
    since: datetime

    @field_validator("since")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Composed(BaseModel):
    """An id that a feed does not have but whose parts it has: their texts, joined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[str, ...] = Field(min_length=2)
    separator: str = "-"


def _form(value: Any) -> str:
    if isinstance(value, Composed) or (isinstance(value, Mapping) and "columns" in value):
        return "composed"
    return "since" if isinstance(value, Since | Mapping) else "name"


Origin = Annotated[
    Annotated[str, Tag("name")] | Annotated[Since, Tag("since")] | Annotated[Composed, Tag("composed")],
    Discriminator(_form),
]


def feed_names(origin: Origin) -> tuple[str, ...]:
    """The feed's columns that a canonical one is made of."""
    if isinstance(origin, str):
        return (origin,)
    return (origin.column,) if isinstance(origin, Since) else origin.columns


def described(origin: Origin) -> str:
    if isinstance(origin, str):
        return origin
    if isinstance(origin, Since):
        return f"{origin.column}, {origin.unit} since {origin.since:%Y-%m-%d %H:%M}"
    return origin.separator.join(origin.columns)


@dataclass(frozen=True)
class Layout:
    """The columns of a feed, and when its rows arrived.

    `known` is the canonical column that says when a row was learnt of. A feed without it is read by
    `happened`, where that is given, or by the day in the file's name (`by_file`). `defaults` are of columns
    that a feed may leave out. `purposes` say what cannot be done without a column. `says` is a flag, and
    whether false says something too: rows that say nothing are left out, and need no day of arrival.
    """

    columns: Mapping[str, Origin]
    kinds: Mapping[str, Kind]
    known: str
    happened: str | None = None
    configured: frozenset[str] = frozenset()  # these have to be there, even where the feed could do without
    defaults: Mapping[str, object] = field(default_factory=dict)
    by_file: bool = False
    encoding: str = "utf-8"
    purposes: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = USUAL
    says: tuple[str, bool] | None = None

    @property
    def wanted(self) -> list[str]:
        """The feed's names of all the columns that are of use."""
        return list(dict.fromkeys(name for column in self.kinds for name in feed_names(self.columns[column])))

    def has(self, column: str, names: Sequence[str]) -> bool:
        return all(name in names for name in feed_names(self.columns[column]))

    def times(self, names: Sequence[str]) -> list[str]:
        """The feed's names, of those that are there, in which times stand."""
        found = [
            name
            for column, kind in self.kinds.items()
            if kind == "time"
            for name in feed_names(self.columns[column])
        ]
        return [name for name in dict.fromkeys(found) if name in names]

    def arrival_column(self, names: Sequence[str]) -> Origin | None:
        """What says when a row arrived; None where only the file's name does."""
        if self.has(self.known, names):
            return self.columns[self.known]
        return self.columns[self.happened] if self.happened is not None else None

    def default_of(self, column: str) -> str | None:
        """What stands in for a column that a feed may leave out, in words; None where it has to be there."""
        if column in self.configured:
            return None
        if column in self.defaults:
            return "no value" if self.defaults[column] is None else str(self.defaults[column]).lower()
        if column == self.known and (self.happened is not None or self.by_file):
            stand_in = self.happened or "00:00"
            return f"{stand_in}, not before the day in the file's name" if self.by_file else stand_in
        return None

    def chosen(self, names: Sequence[str], hint: str = "") -> list[str]:
        """Of a file's columns those to read.

        All that are missing or doubled are one `ContentError`; `hint` is for a file that has none.
        """
        missing: dict[str, list[str]] = {}  # canonical name -> the feed's
        for column in self.kinds:
            absent = [name for name in feed_names(self.columns[column]) if name not in names]
            if absent and self.default_of(column) is None:
                missing[column] = absent
        if missing:
            none = not any(name in names for name in self.wanted)
            raise ContentError(self._about_missing(missing, names) + (f"; {hint}" if none and hint else ""))
        chosen = [name for name in self.wanted if name in names]
        if twice := [name for name in chosen if list(names).count(name) > 1]:
            raise ContentError(
                f"has more than one column {', '.join(map(repr, twice))}; which one counts cannot be told"
            )
        return chosen

    def _about_missing(self, missing: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
        absent = list(dict.fromkeys(name for several in missing.values() for name in several))
        one = len(absent) == 1
        parts = [
            f"column{'' if one else 's'} {', '.join(map(repr, absent))} {'is' if one else 'are'} missing"
        ]
        parts[0] += (
            "; there are "
            + ", ".join(names[:SHOWN_NAMES])
            + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "")
        )
        parts += [
            f"the nearest to {name!r} is {', '.join(map(repr, near))}"
            for name in absent
            if (near := alike(name, names, 2))
        ]
        parts += [
            f"without {column} {self.purposes[column]}" for column in missing if column in self.purposes
        ]
        return "; ".join(parts)
