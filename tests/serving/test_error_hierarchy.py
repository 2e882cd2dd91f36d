"""The hierarchy that `serving.errors` shows is the one that there is."""

from __future__ import annotations

import importlib
import pkgutil

import serving
import serving.errors
from serving.errors import ServingError


def shown() -> list[tuple[str, str]]:
    """Each error of the module's docstring with its base."""
    pairs, bases = [], {0: "Exception"}
    for line in (serving.errors.__doc__ or "").split("\n\n")[1].splitlines():
        name, depth = line.strip().split(":")[0], (len(line) - len(line.lstrip())) // 4
        pairs.append((name, bases[depth]))
        bases[depth + 1] = name
    return pairs


def there(base: type[Exception]) -> list[tuple[str, str]]:
    """Each error below a base, with the error that it is made of."""
    own = [one for one in base.__subclasses__() if one.__module__.startswith("serving.")]
    return [(one.__name__, base.__name__) for one in own] + [pair for one in own for pair in there(one)]


def test_every_error_of_serving_stands_in_the_hierarchy_that_the_module_opens_with() -> None:
    for module in pkgutil.walk_packages(serving.__path__, "serving."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert sorted(shown()) == sorted([("ServingError", "Exception"), *there(ServingError)])
