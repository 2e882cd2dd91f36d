"""Markdown that shows text and figures as they are, whatever they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence


def number(value: float, sign: str = "") -> str:
    """A figure with four decimals, a large one with two; `sign` = "+" shows the sign of positive figures."""
    return f"{value:{sign},.2f}" if abs(value) >= 100 else f"{value:{sign}.4f}"


def share(value: float | None) -> str:
    """A share from 0 to 1 in percent, or that it is not known."""
    return "of an unknown share" if value is None or not math.isfinite(value) else f"{value:.2%}"


def bullets(*items: str) -> str:
    """A list; empty items are left out."""
    return "\n".join(f"- {item}" for item in items if item)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            f"|{' --- |' * len(header)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """An identifier as code; what would end the code, or the cell of a table, is shown as plain text."""
    return f"`{text}`" if text and not re.search(r"[`|\s]", text) else plain(text)
