"""The dialect of a CSV file, from its content: encoding, header line, and separator."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlops_assets.sources.formats.content import ContentError

DELIMITERS = (",", ";", "\t", "|")
_BOMS = (  # UTF-32 comes first, because its BOM begins like that of UTF-16.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK = re.compile(rb'[ \t,;|"]*(?:\r\n|\r|\n)')  # Spreadsheets write an empty row as separators.
_SEP = re.compile(rb'"?sep=([\x09\x20\x21\x23-\x7e])"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)
_SOMETHING = re.compile(rb"\S")
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Header:
    """The header of a file. `begin` is the byte at which the rows begin, `line` the number of that line."""

    names: list[str]
    delimiter: str
    begin: int
    line: int


def utf8(content: bytes, encoding: str, section: str) -> bytes:
    """The text as UTF-8 without a BOM.

    A BOM counts more than the configured encoding. Raises `ContentError` for bytes that are no text. The
    message names the `section` of the configuration.
    """
    bom, encoding = next(
        ((bom, name) for bom, name in _BOMS if content.startswith(bom)), (b"", codecs.lookup(encoding).name)
    )
    content = content[len(bom) :]
    try:
        if encoding != "utf-8":
            content = content.decode(encoding).encode()
        elif not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        line = len(re.findall("\r\n|\r|\n", content[: error.start].decode(encoding, errors="replace"))) + 1
        hint = (
            f'set encoding under {section}, such as "cp1252" or "latin-1"'
            if encoding == "utf-8"
            else f"set another encoding under {section}"
        )
        raise ContentError(
            f"the byte 0x{content[error.start]:02x} is not {encoding.upper()}; {hint}", f"line {line}"
        ) from error
    if (nul := content.find(b"\0")) >= 0:
        what = (
            "holds a NUL byte, which no text has; a file in UTF-16 without a BOM needs encoding ="
            f' "utf-16-le" under {section}'
        )
        raise ContentError(what, f"line {len(LINE_END.findall(content, 0, nul)) + 1}")
    return content


def read_header(text: bytes, wanted: Collection[str]) -> Header:
    """The header: the first line that is not blank, with the separator that gives the most wanted names.

    Raises `ContentError` for an empty file and for a header that cannot be read.
    """
    begin, line = 0, 1
    candidates: tuple[str, ...] = DELIMITERS
    while before := _SEP.match(text, begin) or _BLANK.match(text, begin):
        begin, line = before.end(), line + 1
        candidates = (before[1].decode(),) if before.re is _SEP else candidates
    if _SOMETHING.search(text, begin) is None:
        raise ContentError("is empty, without even a header")
    head = text[begin : begin + _HEADER_BYTES].decode(errors="ignore")
    best: Header | None = None
    for delimiter in candidates:
        reader = strict_reader(io.StringIO(head, newline=""), delimiter)
        try:
            names = [name.strip() for name in next(reader)]
        except csv.Error as error:
            if delimiter == candidates[-1] and best is None:
                raise ContentError(f"the header cannot be read ({error})", f"line {line}") from error
            continue
        if best is None or _score(names, wanted) > _score(best.names, wanted):
            best = Header(
                names, delimiter, _after_lines(text, begin, reader.line_num), line + reader.line_num
            )
    assert best is not None
    return best


def _score(names: Sequence[str], wanted: Collection[str]) -> tuple[int, int]:
    return len(set(names) & set(wanted)), len(names)


def strict_reader(lines: Iterable[str], delimiter: str) -> Any:
    """Python's CSV reader, which raises `csv.Error` for unsound quoting."""
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != " ")


def _after_lines(text: bytes, begin: int, lines: int) -> int:
    for _ in range(lines):
        end = LINE_END.search(text, begin)
        begin = end.end() if end else len(text)
    return begin
