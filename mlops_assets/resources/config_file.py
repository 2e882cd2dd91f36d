"""A configuration file: its text, its sections as values, and its problems."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from mlops_assets.core.config_tables import nearest, read_table
from mlops_assets.errors import PlatformError
from mlops_assets.resources.config_sections import SECTIONS
from mlops_assets.sources.listing import beside
from serving.contract.bounds import MAX, Bounds, TimeBounds

# Section -> key of an earlier version -> the key of today.
FORMER_KEYS: Mapping[str, Mapping[str, str]] = {
    "costs": {"missed_fraud_share": "missed_share"},  # guard: ok
    "gate": {"max_amount_factor": "max_value_factor"},  # guard: ok
    "model": {"card_k": "precision_k"},  # guard: ok
}


class ConfigError(PlatformError):
    """The configuration cannot be used. The message names file, section and key, one problem a line."""


def read_file(path: Path, where: str) -> tuple[str, dict[str, Any]]:
    """The text of a configuration file, and its values as TOML.

    `where` is the file as the person named it. `ConfigError` says why the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Some editors begin a file with a BOM
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such configuration file; {beside(path, '.toml')}") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{where}: is a folder; name the TOML file in it: {beside(path / 'x', '.toml')}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{where}: line {line} holds the byte 0x{error.object[error.start]:02x}, which is not UTF-8; save"
            " it as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is no TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror})") from error


def sections_of(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Each section of a file as its dataclass, and every problem of the file, a line each.

    The result has no entry for a section with a problem.
    """
    known = sorted({"use_case", "source", *SECTIONS})
    home_of = {
        field.name: f"[{name}]" for name, kind in reversed(list(SECTIONS.items())) for field in fields(kind)
    }
    given, problems = dict[str, Any](), []
    for name in sorted(set(values) - set(known)):
        hint = f"it belongs to {home_of[name]}" if name in home_of else f"known are {', '.join(known)}"
        problems.append(f"unknown key {name!r}{nearest(name, known)}; {hint}")
    for name, kind in SECTIONS.items():
        if name in values:
            table = _by_present_names(name, values[name])
            read = _read_bounds if kind is TimeBounds else partial(read_table, kind)
            section, wrong = read(table, f"[{name}]", home_of)
            given |= {name: section} if section is not None else {}
            problems += wrong
    for name, kind in {"use_case": str, "source": dict}.items():
        if isinstance(value := values.get(name, kind()), kind):
            given |= {name: value} if name in values else {}
        else:
            problems.append(f"{name} has to be {'a table' if kind is dict else 'a name'}, not {value!r}")
    return given, problems


def former_keys(text: str) -> list[str]:
    """A line for each key of the configuration `text` that has another name today."""
    given = tomllib.loads(text)
    return [
        f"[{section}] {old}: is read as {new}; rename it"
        for section, names in FORMER_KEYS.items()
        for old, new in names.items()
        if old in given.get(section, {})
    ]


def _read_bounds(values: Any, place: str, home_of: Mapping[str, str]) -> tuple[Bounds | None, list[str]]:
    """The times of `[bounds]`, and its `max_<column>`. Only a use case knows which columns exist."""
    values = values if isinstance(values, Mapping) else {"": values}
    highest = {name.removeprefix(MAX): value for name, value in values.items() if name.startswith(MAX)}
    rest = {name: value for name, value in values.items() if not name.startswith(MAX)}
    times, problems = read_table(TimeBounds, rest, place, home_of)
    problems += [
        f"{place} {MAX}{name} has to be a number, not {value!r}"
        for name, value in highest.items()
        if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    if times is None or problems:
        return None, problems
    try:
        return Bounds(**vars(times), highest={name: float(value) for name, value in highest.items()}), []
    except ValueError as error:
        return None, [f"{place} {error}"]


def _by_present_names(section: str, values: Any) -> Any:
    """A table with the keys of today. A table that has a key under both names stays as it is."""
    if not isinstance(values, Mapping):
        return values
    names = FORMER_KEYS.get(section, {})
    return {(new if (new := names.get(key, key)) not in values else key): v for key, v in values.items()}
