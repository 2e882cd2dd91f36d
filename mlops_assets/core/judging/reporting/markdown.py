"""Markdown for text and figures, with every special character escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence


def number(value: float, sign: str = "") -> str:
    """A figure with four decimals, or two for a large figure.

    `sign` = "+" shows the sign of positive figures.
    """
    return f"{value:{sign},.2f}" if abs(value) >= 100 else f"{value:{sign}.4f}"


def share(value: float | None) -> str:
    """A share from 0 to 1 in percent, or the words for an unknown share."""
    return "of an unknown share" if value is None or not math.isfinite(value) else f"{value:.2%}"


def bullets(*items: str) -> str:
    """A list without its empty items."""
    return "\n".join(f"- {item}" for item in items if item)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Its cells are Markdown."""
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            f"|{' --- |' * len(header)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def escaped(text: str) -> str:
    """Text on one line that Markdown shows literally."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """An identifier as code, or escaped text where it would end the code or the cell of a table."""
    return f"`{text}`" if text and not re.search(r"[`|\s]", text) else escaped(text)
