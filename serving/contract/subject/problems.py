"""How a wrong declaration of a use case is refused: with its place, the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable

from serving.errors import ServingError

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
# Columns that every stream has, or that the log adds to it.
RESERVED = frozenset(
    {
        "arrival_day",
        "block_threshold",
        "created_timestamp",
        "created_us",
        "decision",
        "degraded",
        "event_id",
        "event_time_us",
        "event_timestamp",
        "event_us",
        "features",
        "freshness",
        "given_us",
        "kind",
        "known",
        "label_timestamp",
        "label_us",
        "made_versions",
        "malformed",
        "maturity_us",
        "model_version",
        "payload_digest",
        "prediction_id",
        "read_seq",
        "read_versions",
        "reasons",
        "review_threshold",
        "seq",
    }
)

# SQL's own words, which cannot name a column of the service's log.
SQL_WORD = re.compile(
    r"add|all|alter|and|as|autoincrement|between|case|cast|check|collate|commit|constraint|create|"
    r"current_date|current_time|current_timestamp|default|deferrable|delete|distinct|drop|else|escape|"
    r"except|exists|foreign|from|group|having|in|index|insert|intersect|into|is|isnull|join|limit|not|"
    r"nothing|notnull|null|on|or|order|primary|raise|references|returning|select|set|table|then|to|"
    r"transaction|union|unique|update|using|values|when|where"
)


class BadSubject(ServingError, ValueError):
    """A declaration that cannot be meant. The message names its place in the use case, the value and what
    to do.
    """


def check_name(place: str, name: str) -> None:
    """Raise `BadSubject` where `name` is no lower case identifier, or a column of the platform."""
    if not NAME.fullmatch(name):
        raise BadSubject(
            f"{place}: {name!r} is no name; use lower case letters, digits and _, such as parcel_id"
        )
    if name in RESERVED:
        raise BadSubject(f"{place}: {name!r} is a column of the platform; choose another name")


def check_column(place: str, name: str) -> None:
    """Raise `BadSubject` where `name` cannot be a column both of a lake dataset and of the service's log."""
    check_name(place, name)
    if SQL_WORD.fullmatch(name):
        raise BadSubject(f"{place}: {name!r} is a word of SQL; choose another name, such as is_{name}")


def check_tuple(place: str, values: object, *kinds: type) -> None:
    """Raise `BadSubject` where `values` is no tuple of values of these classes."""
    names = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(values, tuple):
        raise BadSubject(f"{place}: {values!r} is no tuple; a tuple of one {names} ends with a comma: (one,)")
    for value in values:
        if not isinstance(value, kinds):
            raise BadSubject(f"{place}: {value!r} is no {names}")


def check_once(place: str, names: Iterable[str]) -> None:
    """Raise `BadSubject` with the first name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadSubject(f"{place}: {name!r} occurs twice")
        seen.add(name)
