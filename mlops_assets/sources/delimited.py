"""One CSV file, in the dialect that it is in: Arrow reads it where its quoting is beyond doubt, Python's strict reader where it is not.

Arrow alone takes text after a closing quote for part of the value, and the rest of a file for one value where a quote is not closed. So every quote
is looked at first, and the rows that Arrow gives are counted against the lines of the file.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from mlops_assets.sources.content import ContentError, Raw
from mlops_assets.sources.layout import Layout

DELIMITERS = (",", ";", "\t", "|")
_BOMS = (  # those of UTF-32 begin like those of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK = re.compile(rb'[ \t,;|"]*(?:\r\n|\r|\n)')  # a spreadsheet writes an empty row as separators
_SEP = re.compile(rb'"?sep=([\x09\x20\x21\x23-\x7e])"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)
_HEADER_BYTES = 1 << 20
_QUOTE, _CR, _LF = (ord(character) for character in '"\r\n')


@dataclass(frozen=True)
class Header:
    """`begin` is where the rows begin, in bytes; `line` is the number of their first line."""

    names: list[str]
    delimiter: str
    begin: int
    line: int


def read(content: bytes, layout: Layout) -> Raw:
    text = utf8(content, layout.encoding)
    header = read_header(text, layout.wanted)
    columns = layout.chosen(header.names)
    fast = _by_arrow(text, header, columns)
    if fast is not None:
        return Raw(fast, header.names, lambda rows: _lines(header.line + _Lines.of(text, header.begin).row_lines[rows]))
    table, lines = _by_line(text, header, columns)
    return Raw(table, header.names, lambda rows: _lines(lines[rows]))


def utf8(content: bytes, encoding: str) -> bytes:
    """The text as UTF-8 without a BOM. A BOM says more of the encoding than the configuration does."""
    bom, encoding = next(((bom, name) for bom, name in _BOMS if content.startswith(bom)), (b"", codecs.lookup(encoding).name))
    content = content[len(bom) :]
    try:
        if encoding != "utf-8":
            content = content.decode(encoding).encode()
        elif not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        line = len(re.findall("\r\n|\r|\n", content[: error.start].decode(encoding, errors="replace"))) + 1
        hint = 'set encoding under [source], such as "cp1252" or "latin-1"' if encoding == "utf-8" else "set another encoding under [source]"
        raise ContentError(f"the byte 0x{content[error.start]:02x} is not {encoding.upper()}; {hint}", f"line {line}") from error
    if (nul := content.find(b"\0")) >= 0:
        what = 'holds a NUL byte, which no text has; a file in UTF-16 without a BOM needs encoding = "utf-16-le" under [source]'
        raise ContentError(what, f"line {len(_LINE_END.findall(content, 0, nul)) + 1}")
    return content


def read_header(text: bytes, wanted: list[str]) -> Header:
    """The first line that is not blank, separated by whatever gives most of the wanted names."""
    begin, line = 0, 1
    candidates: tuple[str, ...] = DELIMITERS
    while before := _SEP.match(text, begin) or _BLANK.match(text, begin):
        begin, line = before.end(), line + 1
        candidates = (before[1].decode(),) if before.re is _SEP else candidates
    if not text[begin:].strip():
        raise ContentError("is empty, without even a header")
    best: Header | None = None
    for delimiter in candidates:
        reader = _strict_reader(text[begin : begin + _HEADER_BYTES].decode(errors="ignore"), delimiter)
        try:
            names = [name.strip() for name in next(reader)]
        except csv.Error as error:
            if delimiter == candidates[-1] and best is None:
                raise ContentError(f"the header cannot be read ({error})", f"line {line}") from error
            continue
        if best is None or _score(names, wanted) > _score(best.names, wanted):
            best = Header(names, delimiter, _after_lines(text, begin, reader.line_num), line + reader.line_num)
    assert best is not None
    return best


def _score(names: list[str], wanted: list[str]) -> tuple[int, int]:
    return len(set(names) & set(wanted)), len(names)


def _strict_reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=delimiter != " ")


def _after_lines(text: bytes, begin: int, lines: int) -> int:
    for _ in range(lines):
        end = _LINE_END.search(text, begin)
        begin = end.end() if end else len(text)
    return begin


# The fast way


def _by_arrow(text: bytes, header: Header, columns: list[str]) -> pa.Table | None:
    """The columns as Arrow reads them; None where that could be wrong, or Arrow refuses."""
    if len(text) == header.begin:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    quotes = text.find(b'"', header.begin) >= 0
    if quotes and not _quotes_are_sound(text, header):
        return None
    fields = {str(header.names.index(name)): name for name in columns}
    try:
        table = pcsv.read_csv(
            pa.BufferReader(pa.py_buffer(text).slice(header.begin)),
            read_options=pcsv.ReadOptions(column_names=[str(i) for i in range(len(header.names))]),
            parse_options=pcsv.ParseOptions(delimiter=header.delimiter, quote_char='"' if quotes else False, newlines_in_values=quotes),
            convert_options=pcsv.ConvertOptions(
                include_columns=list(fields), column_types=dict.fromkeys(fields, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != _count(text, header.begin, quotes):
        return None
    return table.rename_columns(list(fields.values()))


def _count(text: bytes, begin: int, quotes: bool) -> int:
    """The rows, told by the lines alone."""
    plain = not quotes and text.count(b"\r", begin) == text.count(b"\r\n", begin)
    if plain and not any(blank in text for blank in (b"\n\n", b"\n\r\n")):
        return text.count(b"\n", begin) + (not text.endswith(b"\n"))
    return len(_Lines.of(text, begin).row_lines)


_CHUNK = 1 << 24


def _quotes_are_sound(text: bytes, header: Header) -> bool:
    """Whether every quote opens a value, closes one, or stands twice within one, and the last one that opens is closed."""
    content = np.frombuffer(text, np.uint8)
    before, after = np.zeros(256, bool), np.zeros(256, bool)
    before[[ord(header.delimiter), _CR, _LF, _QUOTE]] = after[[ord(header.delimiter), _CR, _LF, _QUOTE]] = True
    odd = 0
    for begin in range(header.begin, len(content), _CHUNK):
        quotes = np.flatnonzero(content[begin : begin + _CHUNK] == _QUOTE) + begin
        opening, closing = quotes[odd::2], quotes[1 - odd :: 2]
        if len(opening) and opening[0] == header.begin:
            opening = opening[1:]
        if len(closing) and closing[-1] == len(content) - 1:
            closing = closing[:-1]
        if not before[content[opening - 1]].all() or not after[content[closing + 1]].all():
            return False
        odd = (odd + len(quotes)) % 2
    return odd == 0


@dataclass(frozen=True)
class _Lines:
    """The lines on which rows begin, counted from 0 at `begin`. Blank lines are no rows; quotes have to be sound."""

    row_lines: np.ndarray

    @classmethod
    def of(cls, text: bytes, begin: int) -> _Lines:
        content = np.frombuffer(text, np.uint8)[begin:]
        breaks = content == _LF
        cr = np.flatnonzero(content == _CR)
        breaks[cr[(cr + 1 == len(content)) | (content[np.minimum(cr + 1, len(content) - 1)] != _LF)]] = True
        ends = np.flatnonzero(breaks)
        if len(content) and not breaks[-1]:
            ends = np.append(ends, len(content))
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        opens = np.searchsorted(np.flatnonzero(content == _QUOTE), starts) % 2 == 0  # the line does not begin within quotes
        blank = (ends == starts) | ((ends == starts + 1) & (content[np.minimum(starts, len(content) - 1)] == _CR))
        return cls(np.flatnonzero(opens & ~blank))


# The exact way


def _by_line(text: bytes, header: Header, columns: list[str]) -> tuple[pa.Table, np.ndarray]:
    """The columns, and the line on which each row begins. Whatever is no row of the header's width is a `ContentError`."""
    positions = [header.names.index(name) for name in columns]
    values: list[list[str]] = [[] for _ in columns]
    lines: list[int] = []
    for line, record in _records(text, header):
        lines.append(line)
        for column, position in zip(values, positions, strict=True):
            column.append(record[position])
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)})
    return table, np.array(lines, dtype=np.int64)


def _records(text: bytes, header: Header) -> Iterator[tuple[int, list[str]]]:
    width = len(header.names)
    reader = _strict_reader(text[header.begin :].decode(), header.delimiter)
    while True:
        line = header.line + reader.line_num
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _about(error, line, header.line + reader.line_num - 1) from error
        if not record or (width > 1 and len(record) == 1 and not record[0].strip()):
            continue
        if len(record) != width:
            raise _ragged(len(record), width, line, cut_off=_at_the_end(text, header.begin, reader.line_num))
        yield line, record


def _at_the_end(text: bytes, begin: int, lines: int) -> bool:
    """Whether so many lines after `begin` are all, and the last of them has no end."""
    return not text.endswith((b"\n", b"\r")) and lines == len(_LINE_END.findall(text, begin)) + 1


def _ragged(values: int, width: int, line: int, cut_off: bool) -> ContentError:
    what = f"has {values} value{'' if values == 1 else 's'} where the header has {width} columns"
    if cut_off and values < width:
        remedy = "it is the last line: the file may be cut off, fetch it again"
    else:
        remedy = "quote a value that holds the separator" if values > width else "write an empty value for what is missing"
    return ContentError(f"{what}; {remedy}", f"line {line}")


def _about(error: csv.Error, begin: int, line: int) -> ContentError:
    if "unexpected end" in str(error) or "field larger" in str(error):
        what = "a quote opens a value and is never closed; the file may be cut off, or a quote within a value is not doubled"
        return ContentError(what, f"line {begin}")
    opened = f", in a row that begins on line {begin}" if begin != line else ""
    return ContentError(f"text follows a closing quote{opened}; a quote within a value is written twice", f"line {line}")


def _lines(numbers: np.ndarray) -> list[str]:
    return [f"line {number}" for number in numbers.tolist()]
