"""What is scored, and further streams of events: their ids, keys and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.contract.subject.problems import (
    RESERVED,
    BadSubject,
    check_column,
    check_name,
    check_once,
    check_tuple,
)

Kind = Literal["id", "time", "number", "flag", "text"]  # as a feed is read by
TEXT_LENGTH = 200  # characters of an id or a text, at most
# Sums of squares of the hundredths of a number stay inside the integers that the feature engine counts with.
LARGEST = 1e10


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included.

    An event without the number has the `default`. Where that is None, the number is required. `description`
    stands on the service's page.
    """

    name: str
    low: float = -LARGEST
    high: float = LARGEST
    default: float | None = None
    description: str = ""
    kind: Literal["number"] = field(default="number", init=False)

    def __post_init__(self) -> None:
        check_column("a Number", self.name)
        if not -LARGEST <= self.low <= self.high <= LARGEST:
            raise BadSubject(
                f"Number {self.name!r}: low = {self.low:.15g}, high = {self.high:.15g};"
                f" low comes first, and both lie within {LARGEST:.15g}"
            )
        if self.default is not None and not self.low <= self.default <= self.high:
            raise BadSubject(f"Number {self.name!r}: the default {self.default:.15g} is outside its range")


@dataclass(frozen=True)
class Flag:
    """True or false. `default` and `description` are as for a Number."""

    name: str
    default: bool | None = None
    description: str = ""
    kind: Literal["flag"] = field(default="flag", init=False)

    def __post_init__(self) -> None:
        check_column("a Flag", self.name)


@dataclass(frozen=True)
class Text:
    """A word of a closed or open list, such as a service level, of 1 to 200 characters.

    Features see a category, never free text. `default` and `description` are as for a Number.
    """

    name: str
    default: str | None = None
    description: str = ""
    kind: Literal["text"] = field(default="text", init=False)

    def __post_init__(self) -> None:
        check_column("a Text", self.name)


Column = Number | Flag | Text


@dataclass(frozen=True)
class Key:
    """A column that names something with a history, such as a customer.

    `join` is the join key of the feature views, where it has another name than the column. A `nullable` key
    may be absent. An absent key has an empty history, offline and online.
    """

    name: str
    join: str = ""
    nullable: bool = False

    def __post_init__(self) -> None:
        check_column("a Key", self.name)

    @property
    def joins(self) -> str:
        """The join key of the feature views."""
        return self.join or self.name


@dataclass(frozen=True)
class Feed:
    """A further stream of events, such as road conditions by depot and hour.

    Every feed has `event_timestamp` and `created_timestamp`. `name` is the feed's dataset in the lake and its
    path in `POST /streams/{name}`. `id` names the columns that together identify one event.
    """

    name: str
    id: tuple[str, ...]
    keys: tuple[Key, ...]
    columns: tuple[Column, ...]
    noun: str = "event"
    time: str = "event_timestamp"

    def __post_init__(self) -> None:
        check_name("a Feed", self.name)
        _check_parts(f"feed {self.name!r}", self.keys, self.columns)
        if self.time != "event_timestamp":
            raise BadSubject(
                f"feed {self.name!r}: time = {self.time!r}; the time of every feed is event_timestamp,"
                " and [source.columns] says which column of the files it is"
            )
        if not self.keys:
            raise BadSubject(f"feed {self.name!r}: without key; name the column that it is looked up by")
        check_once(f"feed {self.name!r}", self.names)
        if not self.id:
            raise BadSubject(f"feed {self.name!r}: id: without it all events are one; name its columns")
        if unknown := [one for one in self.id if one not in {*self.names, "event_timestamp"}]:
            raise BadSubject(f"feed {self.name!r}: id: {unknown[0]!r} is none of its columns")

    @property
    def names(self) -> tuple[str, ...]:
        """Keys, then columns."""
        return (*(key.name for key in self.keys), *(column.name for column in self.columns))

    def event_id(self, event_us: int, values: Mapping[str, object]) -> str:
        """The id of an event: the columns that identify it, joined by colons, its time in microseconds."""
        return ":".join(str(event_us if name == "event_timestamp" else values[name]) for name in self.id)


@dataclass(frozen=True)
class Event:
    """What is scored while somebody waits.

    `noun` is the event's word on the wire and in reports, `dataset` its stream in the lake. `believable`
    names the numbers whose highest value a configuration may change. Every event has `event_timestamp` (when
    it happened) and `created_timestamp` (when the platform learnt of it).
    """

    noun: str
    dataset: str
    id: str
    keys: tuple[Key, ...]
    columns: tuple[Column, ...]
    believable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("Event: noun", self.noun)
        check_name("Event: dataset", self.dataset)
        check_column("Event: id", self.id)
        _check_parts("Event", self.keys, self.columns)
        if not self.keys:
            raise BadSubject("Event: keys: without a key nothing has a history; name at least one")
        check_once("Event", self.names)
        joins: dict[str, str] = {}
        for key in self.keys:
            for join in dict.fromkeys((key.name, key.joins)):
                if (other := joins.setdefault(join, key.name)) != key.name:
                    raise BadSubject(
                        f"Event: keys: {other!r} and {key.name!r} both join {join!r}; give one of them its"
                        " own join, and rename the join key of its views by with_join_key_map"
                    )
        if self.time in RESERVED or self.time in self.names:
            raise BadSubject(
                f"Event: noun: {self.noun!r} makes the column {self.time!r} of the verdicts, which is"
                " taken; choose another noun"
            )
        numbers = {column.name for column in self.columns if isinstance(column, Number)}
        if unknown := [one for one in self.believable if one not in numbers]:
            raise BadSubject(f"Event: believable: {unknown[0]!r} is no Number of the event")

    @property
    def names(self) -> tuple[str, ...]:
        """The id, the keys, then the columns. An event's two times are no part of them."""
        return (self.id, *(key.name for key in self.keys), *(column.name for column in self.columns))

    @property
    def time(self) -> str:
        """The column of the verdicts that says when the event happened."""
        return f"{self.noun}_timestamp"

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each column of the event's dataset, in the order of the dataset."""
        times: dict[str, Kind] = {"event_timestamp": "time", "created_timestamp": "time"}
        keys: dict[str, Kind] = {key.name: "id" for key in self.keys}
        return {self.id: "id", **times, **keys, **{column.name: column.kind for column in self.columns}}

    def number(self, name: str) -> Number:
        """A Number of the event by its name; `BadSubject` where the event has none of this name."""
        for column in self.columns:
            if isinstance(column, Number) and column.name == name:
                return column
        raise BadSubject(f"{name!r} is no Number of the event {self.noun!r}")


COLUMNS: dict[str, type[Column]] = {"number": Number, "flag": Flag, "text": Text}


def column_from_dict(values: dict[str, Any]) -> Column:
    """A column as `dataclasses.asdict` gave it."""
    return COLUMNS[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})


def _check_parts(place: str, keys: object, columns: object) -> None:
    """Raise `BadSubject` where a stream's keys are no Keys or its columns no columns."""
    check_tuple(f"{place}: keys", keys, Key)
    check_tuple(f"{place}: columns", columns, *COLUMNS.values())
