"""One CSV file in any dialect. Arrow reads a file with sound quoting, Python's strict reader any other file.

Arrow takes text after a closing quote for a part of the value. It takes the rest of a file for one value if a
quote is not closed. Therefore every quote is checked, and Arrow's rows are counted against the lines.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from mlops_assets.sources.column_layout import Layout
from mlops_assets.sources.formats import quoting
from mlops_assets.sources.formats.content import ContentError, Raw
from mlops_assets.sources.formats.dialects import LINE_END, Header, read_header, strict_reader, utf8

NO_NAME = "the first line should be a header with the columns' names"
ONE_NAME = "if another character separates the columns, name it in a first line such as sep=^"
Swallowed = Callable[[str, str], bool]


def read(content: bytes, layout: Layout) -> Raw:
    """The wanted columns of a CSV file as text. Raises `ContentError` with the line."""
    text = utf8(content, layout.encoding, layout.rules.section)
    header = read_header(text, layout.wanted)
    columns = layout.chosen(header.names, ONE_NAME if len(header.names) == 1 else NO_NAME)
    swallowed = _like_a_row(header, layout.times(header.names) or columns)
    fast = _by_arrow(text, header, columns, swallowed)
    if fast is not None:
        return Raw(
            fast,
            header.names,
            lambda rows: _places(header.line + quoting.Lines.of(text, header.begin).rows[rows]),
        )
    table, lines = _by_line(text, header, columns, swallowed)
    return Raw(table, header.names, lambda rows: _places(lines[rows]))


def _like_a_row(header: Header, telling: list[str]) -> Swallowed:
    """A test whether a line inside a quoted value looks like a row. Stray quotes join the rows between them.

    `telling` are columns in which every row has a digit. A row can end a quoted value in its first column.
    Then the line on which that value began (`opening`) is no row.
    """
    positions = [header.names.index(name) for name in telling]
    separators = len(header.names) - 1

    def is_one(opening: str, line: str) -> bool:
        if line.count(header.delimiter) < separators:
            return False
        if '"' in line.split(header.delimiter, 1)[0] and opening.count(header.delimiter) < separators:
            return False
        try:
            values = next(csv.reader([line], delimiter=header.delimiter), [])
        except csv.Error:  # a value beyond the limit of the reader
            return False
        return len(values) == len(header.names) and all(any(map(str.isdigit, values[at])) for at in positions)

    return is_one


def _about_swallowed(line: int, begin: int) -> ContentError:
    what = (
        f"looks like a row, but is inside a quoted value of the row that begins on line {begin}; close that"
        " quote, or remove it"
    )
    return ContentError(what, f"line {line}")


# With Arrow


def _by_arrow(text: bytes, header: Header, columns: list[str], swallowed: Swallowed) -> pa.Table | None:
    """The columns as Arrow reads them. None where they could be wrong, or where Arrow refuses.

    Raises `ContentError` for a row inside a quoted value.
    """
    if len(text) == header.begin:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    quotes = text.find(b'"', header.begin) >= 0
    with ThreadPoolExecutor(1) as beside:  # The check runs while Arrow reads.
        sound = beside.submit(quoting.are_sound, text, header.begin, header.delimiter) if quotes else None
        table = _arrow_table(text, header, columns, quotes)
        if table is None or (sound is not None and not sound.result()):
            return None
    if table.num_rows != quoting.lines_of(text, header.begin):
        lines = quoting.Lines.of(text, header.begin)
        if table.num_rows != len(lines.rows):
            return None
        _refuse_swallowed(text, header, lines, swallowed)
    return table


def _arrow_table(text: bytes, header: Header, columns: list[str], quotes: bool) -> pa.Table | None:
    fields = {str(header.names.index(name)): name for name in columns}
    try:
        table = pcsv.read_csv(
            pa.BufferReader(pa.py_buffer(text).slice(header.begin)),
            read_options=pcsv.ReadOptions(column_names=[str(i) for i in range(len(header.names))]),
            parse_options=pcsv.ParseOptions(
                delimiter=header.delimiter, quote_char='"' if quotes else False, newlines_in_values=quotes
            ),
            convert_options=pcsv.ConvertOptions(
                include_columns=list(fields),
                column_types=dict.fromkeys(fields, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException:
        return None
    return table.rename_columns(list(fields.values()))


def _refuse_swallowed(text: bytes, header: Header, lines: quoting.Lines, swallowed: Swallowed) -> None:
    def line_text(line: int) -> str:
        return text[lines.starts[line] : lines.ends[line]].decode()

    begins, going_on = np.flatnonzero(~lines.within), np.flatnonzero(lines.within)
    openings = begins[np.searchsorted(begins, going_on) - 1]
    for opening, line in zip(openings.tolist(), going_on.tolist(), strict=True):
        if swallowed(line_text(opening), line_text(line)):
            raise _about_swallowed(header.line + line, header.line + opening)


# With Python's strict reader


def _by_line(
    text: bytes, header: Header, columns: list[str], swallowed: Swallowed
) -> tuple[pa.Table, np.ndarray]:
    """The columns, and the line on which each row begins.

    Raises `ContentError` for a row that has not as many values as the header.
    """
    positions = [header.names.index(name) for name in columns]
    values: list[list[str]] = [[] for _ in columns]
    lines: list[int] = []
    for line, record in _records(text, header, swallowed):
        lines.append(line)
        for column, position in zip(values, positions, strict=True):
            column.append(record[position])
    table = pa.table(
        {name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)}
    )
    return table, np.array(lines, dtype=np.int64)


def _records(text: bytes, header: Header, swallowed: Swallowed) -> Iterator[tuple[int, list[str]]]:
    width = len(header.names)
    taken: list[str] = []  # the lines of the current record
    reader = strict_reader(_noted(text[header.begin :].decode(), taken), header.delimiter)
    while True:
        line = header.line + reader.line_num
        taken.clear()
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
        for below, going_on in enumerate(taken[1:], start=1):
            if swallowed(taken[0], going_on):
                raise _about_swallowed(line + below, line)
        yield line, record


def _noted(text: str, taken: list[str]) -> Iterator[str]:
    for line in io.StringIO(text, newline=""):
        taken.append(line)
        yield line


def _at_the_end(text: bytes, begin: int, lines: int) -> bool:
    """Whether the text has that many lines after `begin`, and the last line has no line end."""
    return not text.endswith((b"\n", b"\r")) and lines == len(LINE_END.findall(text, begin)) + 1


def _ragged(values: int, width: int, line: int, cut_off: bool) -> ContentError:
    what = f"has {values} value{'' if values == 1 else 's'} where the header has {width} columns"
    if cut_off and values < width:
        remedy = "it is the last line: the file may be cut off, fetch it again"
    else:
        remedy = (
            "quote a value that holds the separator"
            if values > width
            else "write an empty value for what is missing"
        )
    return ContentError(f"{what}; {remedy}", f"line {line}")


def _about(error: csv.Error, begin: int, line: int) -> ContentError:
    if "field larger" in str(error):
        what = (
            f"a value is longer than {csv.field_size_limit():,} characters; a quote that opens it may never"
            " be closed"
        )
        return ContentError(what, f"line {begin}")
    if "unexpected end" in str(error):
        what = (
            "a quote opens a value and is never closed; the file may be cut off, or a quote within a value is"
            " not doubled"
        )
        return ContentError(what, f"line {begin}")
    opened = f", in a row that begins on line {begin}" if begin != line else ""
    return ContentError(
        f"text follows a closing quote{opened}; a quote within a value is written twice", f"line {line}"
    )


def _places(numbers: np.ndarray) -> list[str]:
    return [f"line {number}" for number in numbers.tolist()]
