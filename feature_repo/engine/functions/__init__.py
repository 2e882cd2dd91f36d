"""The registry of aggregate functions, by the names that declarations use."""

from __future__ import annotations

from feature_repo.engine.functions.age import Age
from feature_repo.engine.functions.avg import Avg
from feature_repo.engine.functions.base import Function
from feature_repo.engine.functions.count import Count
from feature_repo.engine.functions.count_distinct import CountDistinct
from feature_repo.engine.functions.extreme import Extreme
from feature_repo.engine.functions.last import Last
from feature_repo.engine.functions.std import Std
from feature_repo.engine.functions.sum import Sum

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Count(),
        Sum(),
        Avg(),
        Std(),
        Extreme("min"),
        Extreme("max"),
        CountDistinct(),
        Age("seconds_since_last"),
        Age("seconds_since_first"),
        Last(),
    )
}


def function_name(declared: str) -> str:
    """The registry's name of a declared function, which may be a synonym.

    A name that the registry does not know is returned unchanged.
    """
    if declared in FUNCTIONS:
        return declared
    return next((f.name for f in FUNCTIONS.values() if declared in f.synonyms), declared)
