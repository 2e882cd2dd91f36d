"""Every problem of one table of a configuration file, so that a person corrects them all at once."""

from __future__ import annotations

import copy
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_table(
    kind: type[T], values: object, place: str, elsewhere: Mapping[str, str] = types.MappingProxyType({})
) -> tuple[T | None, list[str]]:
    """The value of a table as `kind`, a dataclass or pydantic model, or None and every problem.

    Each problem begins with the `place` and the key. `elsewhere` names the table of a key that is unknown
    here. Bounds are those of `kind`, among them the `__post_init__` of a dataclass.
    """
    if not isinstance(values, Mapping):
        return None, [f"{place} has to be a table, not {values!r}"]
    known, problems = copy.deepcopy(dict(values)), []
    for path in _unknown(kind, known):
        _drop(known, path)
        problems.append(f"{place} {_about_unknown(kind, path, elsewhere)}")
    wrong = [error for error in _errors(kind, known) if error["loc"]]
    problems += [f"{place} {_said(error)}" for error in wrong]
    problems += [
        f"{place} {key}: has to be a number, not {str(known[key]).lower()}"
        for key in _flags_for_numbers(kind, known)
    ]
    problems += [
        f"{place} {text}" for text in _out_of_bounds(kind, known, {str(error["loc"][0]) for error in wrong})
    ]
    return (None, problems) if problems else (_adapter(kind).validate_python(known), [])


def nearest(name: str, names: Sequence[str]) -> str:
    """`; is it x?` for the name with the most similar spelling, or an empty text."""
    return "".join(f"; is it {near}?" for near in alike(name, names, 1))


def alike(name: str, names: Sequence[str], most: int) -> list[str]:
    """The names with a similar spelling, the most similar first, at most `most`.

    Case and punctuation do not count.
    """
    spelt = {"".join(filter(str.isalnum, other.casefold())): other for other in reversed(names)}
    return [
        spelt[match]
        for match in difflib.get_close_matches(
            "".join(filter(str.isalnum, name.casefold())), spelt, n=most, cutoff=0.6
        )
    ]


def _errors(kind: type, values: Mapping[str, Any]) -> list[Any]:
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(values)
    except ValidationError as error:
        return list(error.errors())
    return []


def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _said(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{where}: is missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: {error['msg'].replace('Input should be', 'has to be')}, not {error['input']!r}"


def _out_of_bounds(kind: type, values: Mapping[str, Any], unread: Set[str]) -> list[str]:
    """The problems that `__post_init__` or a model's validator finds in the values together.

    A validator stops at its first problem. It is called again without the key of that problem. Problems of
    `unread` values are left out: they are reported already, and the validator would see their defaults.
    """
    left, said = {key: value for key, value in values.items() if key not in unread}, list[str]()
    while (text := _of_all(kind, left)) and text not in said:
        said.append(text)
        for key in left:
            fewer = {name: value for name, value in left.items() if name != key}
            if _of_all(kind, fewer) != text:
                left = fewer
                break
    return [text for text in said if not unread & set(re.findall(r"\w+", text))]


def _of_all(kind: type, values: Mapping[str, Any]) -> str | None:
    return next(
        (
            str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
            for error in _errors(kind, values)
            if not error["loc"]
        ),
        None,
    )


def _flags_for_numbers(kind: type, values: Mapping[str, Any]) -> list[str]:
    """The keys of numbers whose value is true or false, which pydantic takes for 1 or 0."""
    if not is_dataclass(kind):
        return []
    hints = get_type_hints(kind)
    numbers = (int, float, float | None)
    return [key for key, value in values.items() if isinstance(value, bool) and hints[key] in numbers]


def _unknown(kind: type, values: Mapping[str, Any]) -> list[tuple[str | int, ...]]:
    """The places of unknown keys, in inner tables too."""
    if is_dataclass(kind):  # pydantic accepts any key for a dataclass.
        return [(key,) for key in values if key not in _names(kind, ())]
    return [error["loc"] for error in _errors(kind, values) if error["type"] == "extra_forbidden"]


def _about_unknown(kind: type, path: Sequence[str | int], elsewhere: Mapping[str, str]) -> str:
    *outer, name = map(str, path)
    inside = f"{'.'.join(outer)}: " if outer else ""
    if not outer and name in elsewhere:
        return f"unknown key {name!r}; it belongs to {elsewhere[name]}"
    names = _names(kind, outer)
    return f"{inside}unknown key {name!r}{nearest(name, names)}; known are {', '.join(names)}"


def _names(kind: Any, outer: Sequence[str]) -> list[str]:
    """The keys of the table at `outer`, as a file names them."""
    for step in outer:
        inner = list(_models(_field(kind, step)))
        if not inner:
            continue  # A step can be an index of a list, or a variant of a value.
        kind = inner[0]
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _field(kind: Any, name: str) -> Any:
    if is_dataclass(kind):
        return get_type_hints(kind).get(name)
    return next(
        (field.annotation for own, field in kind.model_fields.items() if name in (own, field.alias)), None
    )


def _models(annotation: Any) -> Iterator[Any]:
    """The pydantic models in an annotation such as `Labels | None` or `tuple[Scenario, ...]`."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list):
        for part in get_args(annotation):
            yield from _models(part)


def _drop(values: Any, place: Sequence[str | int]) -> None:
    *outer, name = place
    for step in outer:
        if isinstance(values, Mapping) and step not in values:
            return  # A variant of a value: pydantic names it in the place, and the file has no such key.
        values = values[step]
    if isinstance(values, dict):
        values.pop(name, None)
