"""The use case that a configuration names: a built-in one, a module, or a folder beside the TOML."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from mlops_assets.core.config_tables import nearest
from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.errors import PlatformError
from serving.contract.subject import BadSubject

CASE = "case"  # The module of a use case's package that holds the UseCase


class UseCaseError(PlatformError):
    """A use case does not exist or is wrong. The message names it, the place and the remedy."""


class _BuiltIn(Mapping[str, UseCase]):
    """The use cases of this package by name. A use case is imported when it is asked for."""

    def __getitem__(self, name: str) -> UseCase:
        if name not in self._names():
            raise KeyError(name)
        return _only_case(name, f"{__name__}.{name}.{CASE}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)


USE_CASES = _BuiltIn()


def find_use_case(named: str, base: Path) -> UseCase:
    """The use case that `use_case` of a configuration names.

    `named` is the name of a built-in use case, a module such as `shop.returns.case`, or a folder such as
    `./returns`. A folder is relative to `base`, and its module `case` holds the use case. `UseCaseError` says
    what is wrong, and where.
    """
    if named.startswith((".", "/")):
        return _of_folder(named, (base / named).resolve())
    if named in USE_CASES:
        return USE_CASES[named]
    if "." in named:
        return _only_case(named, named)
    there = list(USE_CASES)
    raise UseCaseError(
        f"use_case {named!r} is not known{nearest(named, there)}; there is {', '.join(there)}. Name your own"
        " use case as a module, or as a folder that begins with ./, such as ./returns"
    )


def _of_folder(named: str, folder: Path) -> UseCase:
    if not (folder / f"{CASE}.py").is_file():
        raise UseCaseError(
            f"use_case {named!r}: {folder / f'{CASE}.py'} does not exist; it has to hold the UseCase"
        )
    if not folder.name.isidentifier():
        raise UseCaseError(
            f"use_case {named!r}: {folder.name!r} cannot be imported; use letters, digits and _ in the"
            " folder's name"
        )
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
        importlib.invalidate_caches()
    other = _elsewhere(folder)
    if other is not None:
        raise UseCaseError(
            f"use_case {named!r}: the name {folder.name!r} is that of {other}; rename the folder {folder}"
        )
    return _only_case(named, f"{folder.name}.{CASE}")


def _elsewhere(folder: Path) -> str | None:
    """The package that an import of the folder's name finds, where it is another package."""
    spec = importlib.util.find_spec(folder.name)
    if spec is None:
        return None
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    return None if folder in places else str(spec.origin or folder.name)


def _only_case(named: str, module: str) -> UseCase:
    """The one UseCase in a module."""
    made = _imported(named, module)
    found = {id(value): value for value in vars(made).values() if isinstance(value, UseCase)}
    if len(found) != 1:
        raise UseCaseError(
            f"use_case {named!r}: {made.__file__} holds {len(found) or 'no'} UseCases; it has to hold one"
        )
    return next(iter(found.values()))


def _imported(named: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except BadSubject as error:
        raise UseCaseError(f"use_case {named!r}: {_place(error, module)}: {error}") from error
    except TypeError as error:
        raise UseCaseError(f"use_case {named!r}: {_place(error, module)}: {_of_keys(error)}") from error
    except ImportError as error:
        raise UseCaseError(
            f"use_case {named!r}: {_place(error, module)}: cannot be imported: {error}"
        ) from error
    except SyntaxError as error:
        raise UseCaseError(
            f"use_case {named!r}: {error.filename}, line {error.lineno}: {error.msg}"
        ) from error
    except Exception as error:  # The module is code of a person, and can raise anything.
        raise UseCaseError(
            f"use_case {named!r}: {_place(error, module)}: {type(error).__name__}: {error}"
        ) from error


def _place(error: BaseException, module: str) -> str:
    """The last line of the use case's own package before the error."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # The parent package does not exist
        return module
    own = Path(spec.origin).parent if spec and spec.origin else None
    place, trace = module, error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if own is not None and file.is_relative_to(own):
            place = f"{file}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _of_keys(error: TypeError) -> str:
    """The message for a wrong argument of a declaration, with the nearest known key."""
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    declared = _declarations().get(unknown[1])
    names = [field.name for field in fields(declared) if field.init] if declared else []
    return (
        f"{unknown[1]}: unknown key {unknown[2]!r}{nearest(unknown[2], names)}; known are {', '.join(names)}"
    )


def _declarations() -> dict[str, type]:
    """The classes that declare a use case, by name."""
    from serving.contract import subject

    kinds = (UseCase, FeatureView, *(getattr(subject, name) for name in subject.__all__))
    return {kind.__name__: kind for kind in kinds}
