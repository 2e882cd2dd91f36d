"""The quotes and lines of a CSV file, counted in its bytes. They check the rows of a reader.

Text is UTF-8. In UTF-8 no other character contains the byte of a quote or of a line end. Positions are in
bytes. Lines count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_QUOTE, _CR, _LF = (ord(character) for character in '"\r\n')
_CHUNK = 1 << 20  # bytes that are checked at once, about the size of a cache


def are_sound(text: bytes, begin: int, delimiter: str) -> bool:
    """Whether every quote from `begin` on opens a value, closes a value, or is doubled within a value.

    The last opening quote must be closed too.
    """
    content = np.frombuffer(text, np.uint8)
    beside = np.zeros(256, bool)  # bytes before an opening quote and after a closing quote
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
    """The number of lines from `begin` on, blank lines included. None where some line ends in CR alone.

    Every line is a row where a reader finds as many rows.
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
    """The start and the end of each line of a text with sound quotes.

    A line `within` quotes continues a quoted value. A row begins on every other line that is not `blank`.
    """

    starts: np.ndarray
    ends: np.ndarray
    within: np.ndarray  # the line begins inside quotes
    blank: np.ndarray

    @classmethod
    def of(cls, text: bytes, begin: int) -> Lines:
        """The lines of a text from the byte `begin` on."""
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
    """The positions of the line ends LF, CR LF and CR.

    The end of the text is one of them if its last line has no line end.
    """
    breaks = content[begin:] == _LF
    returns = np.flatnonzero(content[begin:] == _CR) + begin
    alone = returns[content[np.minimum(returns + 1, len(content) - 1)] != _LF]
    breaks[alone - begin] = True
    ends = np.flatnonzero(breaks) + begin
    return ends if len(breaks) and breaks[-1] else np.append(ends, len(content))
