"""The outcome of a command as text for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any


def readable(outcome: Mapping[str, Any], indent: str = "") -> str:
    """The outcome with one line for each value. Nested values are indented."""
    lines = []
    for name, value in outcome.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", readable(value, indent + "  ")]
        elif isinstance(value, list) and value:
            lines += [f"{indent}{name}:", *(f"{indent}  - {item}" for item in value)]
        else:
            lines.append(f"{indent}{name}: {'none' if value in (None, []) else value}")
    return "\n".join(lines)


def padded(lines: Sequence[Sequence[str]]) -> str:
    """A header and lines of cells as columns.

    A title is broken to the width of the cells below it. The last column is as wide as its cells.
    """
    titles, *body = lines
    columns = list(zip(*body, strict=True)) or [()] * len(titles)
    widths = [max(map(len, [*column, *title.split()])) for title, column in zip(titles, columns, strict=True)]
    broken = zip_longest(
        *(wrap(title, width) for title, width in zip(titles, widths, strict=True)), fillvalue=""
    )
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in [*broken, *body]
    )
