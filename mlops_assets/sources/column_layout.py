"""The place of each canonical column in a feed: a name, a time since a moment, or several joined columns."""

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
    """An id that is joined from the texts of several columns of the feed."""

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
    """The feed's columns that a canonical column is read from."""
    if isinstance(origin, str):
        return (origin,)
    return (origin.column,) if isinstance(origin, Since) else origin.columns


def described(origin: Origin) -> str:
    """The place of a column in words."""
    if isinstance(origin, str):
        return origin
    if isinstance(origin, Since):
        return f"{origin.column}, {origin.unit} since {origin.since:%Y-%m-%d %H:%M}"
    return origin.separator.join(origin.columns)


@dataclass(frozen=True)
class Layout:
    """The columns of a feed, and the arrival of its rows.

    `known` is the canonical column with the time at which the platform learnt of a row. In a feed without it,
    `happened` or the day in the file's name (`by_file`) stands in. `defaults` are the values of columns that
    a feed may leave out. `purposes` say, by column, what is impossible without it. `says` is the name of a
    flag, and whether false is an answer too. Rows without an answer are left out, and need no arrival day.
    """

    columns: Mapping[str, Origin]
    kinds: Mapping[str, Kind]
    known: str
    happened: str | None = None
    configured: frozenset[str] = frozenset()  # columns that must exist, even with a default
    defaults: Mapping[str, object] = field(default_factory=dict)
    by_file: bool = False
    encoding: str = "utf-8"
    purposes: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = USUAL
    says: tuple[str, bool] | None = None

    @property
    def wanted(self) -> list[str]:
        """The names of all columns to read, as in the feed."""
        return list(dict.fromkeys(name for column in self.kinds for name in feed_names(self.columns[column])))

    def has(self, column: str, names: Sequence[str]) -> bool:
        """Whether a file with the columns `names` has a canonical column."""
        return all(name in names for name in feed_names(self.columns[column]))

    def times(self, names: Sequence[str]) -> list[str]:
        """The columns with times, among the columns `names` of a file."""
        found = [
            name
            for column, kind in self.kinds.items()
            if kind == "time"
            for name in feed_names(self.columns[column])
        ]
        return [name for name in dict.fromkeys(found) if name in names]

    def arrival_column(self, names: Sequence[str]) -> Origin | None:
        """The column with the time of arrival. None where only the file's name has the day."""
        if self.has(self.known, names):
            return self.columns[self.known]
        return self.columns[self.happened] if self.happened is not None else None

    def default_of(self, column: str) -> str | None:
        """The default of a column in words. None for a column that must exist."""
        if column in self.configured:
            return None
        if column in self.defaults:
            return "no value" if self.defaults[column] is None else str(self.defaults[column]).lower()
        if column == self.known and (self.happened is not None or self.by_file):
            stand_in = self.happened or "00:00"
            return f"{stand_in}, not before the day in the file's name" if self.by_file else stand_in
        return None

    def chosen(self, names: Sequence[str], hint: str = "") -> list[str]:
        """The columns to read, among the columns `names` of a file.

        Raises `ContentError` for missing columns and for columns that occur twice. `hint` is added where the
        file has none of the columns.
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
            raise ContentError(f"has more than one column {', '.join(map(repr, twice))}; keep one of them")
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
