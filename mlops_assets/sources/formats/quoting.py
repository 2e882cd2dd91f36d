"""What the bytes of a CSV file say of its quotes and lines, without a reader: what a reader's rows are held
against.

Text is UTF-8, where neither a quote nor an end of line is ever a part of another character. Positions are
bytes, lines count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_QUOTE, _CR, _LF = (ord(character) for character in '"\r\n')
_CHUNK = 1 << 20  # bytes that are looked at in one go: about what a cache holds


def are_sound(text: bytes, begin: int, delimiter: str) -> bool:
    """Whether every quote from `begin` opens a value, closes one or stands twice within one, and the last one
    that opens is closed.
    """
    content = np.frombuffer(text, np.uint8)
    beside = np.zeros(256, bool)  # what may stand before a quote that opens, and after one that closes
    beside[[ord(delimiter), _CR, _LF, _QUOTE]] = True
    within = 0
    for chunk in range(begin, len(content), _CHUNK):
        quotes = np.flatnonzero(content[chunk : chunk + _CHUNK] == _QUOTE) + chunk
        opening, closing = quotes[within::2], quotes[1 - within :: 2]
        if len(opening) and opening[0] == begin:
            opening = opening[1:]
        if len(closing) and closing[-1] == len(content) - 1:
            closing = closing[:-1]
        if (
            not beside.take(content.take(opening - 1)).all()
            or not beside.take(content.take(closing + 1)).all()
        ):
            return False
        within = (within + len(quotes)) % 2
    return within == 0


def lines_of(text: bytes, begin: int) -> int | None:
    """The lines from `begin`, blank ones among them; None where some end in CR alone.

    As many rows mean that every line is a row.
    """
    if text.find(b"\r", begin) >= 0 and text.count(b"\r", begin) != text.count(b"\r\n", begin):
        return None
    content = np.frombuffer(text, np.uint8)
    chunks = range(begin, len(content), _CHUNK)
    return sum(int(np.count_nonzero(content[chunk : chunk + _CHUNK] == _LF)) for chunk in chunks) + (
        not text.endswith(b"\n")
    )


@dataclass(frozen=True)
class Lines:
    """Where each line from `begin` starts and ends, and whether a row begins on it or a quoted value goes on.

    Quotes have to be sound.
    """

    starts: np.ndarray
    ends: np.ndarray
    within: np.ndarray  # the line begins within quotes
    blank: np.ndarray

    @classmethod
    def of(cls, text: bytes, begin: int) -> Lines:
        content = np.frombuffer(text, np.uint8)
        ends = _line_ends(content, begin)
        starts = np.concatenate([[begin], ends[:-1] + 1]).astype(np.int64)
        quotes = np.flatnonzero(content[begin:] == _QUOTE) + begin
        within = np.searchsorted(quotes, starts) % 2 == 1
        blank = (ends == starts) | (
            (ends == starts + 1) & (content[np.minimum(starts, len(content) - 1)] == _CR)
        )
        return cls(starts, ends, within, blank & ~within)

    @property
    def rows(self) -> np.ndarray:
        """The line on which each row begins."""
        return np.flatnonzero(~self.within & ~self.blank)


def _line_ends(content: np.ndarray, begin: int) -> np.ndarray:
    """Of LF, CR LF and CR alone; the end of the text where its last line has none."""
    breaks = content[begin:] == _LF
    returns = np.flatnonzero(content[begin:] == _CR) + begin
    alone = returns[content[np.minimum(returns + 1, len(content) - 1)] != _LF]
    breaks[alone - begin] = True
    ends = np.flatnonzero(breaks) + begin
    return ends if len(breaks) and breaks[-1] else np.append(ends, len(content))
