"""Whatever happens to a CSV file: the same rows come back, or an error, never fewer."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from payment_feeds import FilesConfig

from mlops_assets.core.data.base import SourceError
from mlops_assets.sources.column_layout import Layout
from mlops_assets.sources.file_source import FileSource
from mlops_assets.sources.formats import delimited
from mlops_assets.sources.formats.content import ContentError, unpacked

DAY = date(2026, 3, 1)
NAMES = ("transaction_id", "event_timestamp", "customer_id", "note", "merchant_id", "amount", "remark")
LAYOUT = Layout({name: name for name in NAMES}, dict.fromkeys(NAMES, "id"), known="event_timestamp")
PLAIN = Layout(
    {name: name for name in NAMES},
    {**dict.fromkeys(NAMES, "id"), "event_timestamp": "time"},
    known="event_timestamp",
)

Row = tuple[str, str, str, str, str, float, str]


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    quoting: int
    end: str
    encoding: str
    packing: str

    def packed(self, text: str) -> bytes:
        """`utf-16` and `utf-8-sig` write a BOM, `latin-1` does not and has to be configured."""
        content = text.encode(self.encoding)
        return {
            "none": bytes,
            "gzip": gzip.compress,
            "zstd": lambda plain: pa.compress(plain, codec="zstd", asbytes=True),
        }[self.packing](content)

    @property
    def configured(self) -> str:
        return "latin-1" if self.encoding == "latin-1" else "utf-8"


def read_or_refused(content: bytes, layout: Layout) -> pa.Table | ContentError:
    """The raw columns as they stand in the file, or why they cannot be had."""
    try:
        table = delimited.read(unpacked(content), layout).table
    except ContentError as error:
        event("refused")
        return error
    event("read")
    return table


def by_csv(rows: list[Row], dialect: Dialect) -> str:
    sink = io.StringIO()
    writer = csv.writer(
        sink, delimiter=dialect.delimiter, quoting=dialect.quoting, lineterminator=dialect.end
    )
    writer.writerows([NAMES, *rows])
    return sink.getvalue()


def by_pandas(rows: list[Row], dialect: Dialect) -> str:
    frame = pd.DataFrame(rows, columns=list(NAMES))
    return frame.to_csv(
        sep=dialect.delimiter, quoting=dialect.quoting, lineterminator=dialect.end, index=False
    )


def by_polars(rows: list[Row], dialect: Dialect) -> str:
    polars = pytest.importorskip("polars")
    style = {csv.QUOTE_ALL: "always", csv.QUOTE_MINIMAL: "necessary", csv.QUOTE_NONNUMERIC: "non_numeric"}[
        dialect.quoting
    ]
    frame = polars.DataFrame(rows, schema=list(NAMES), orient="row")
    return frame.write_csv(separator=dialect.delimiter, quote_style=style, line_terminator=dialect.end)


dialects = st.builds(
    Dialect,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    st.sampled_from(["none", "gzip", "zstd"]),
)


def texts(encoding: str) -> st.SearchStrategy[str]:
    letters = st.characters(codec="latin-1" if encoding == "latin-1" else "utf-8", exclude_characters="\0")
    pieces = st.sampled_from(
        ['"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\n\n", "a", "sep=;", '",', ',"', '"\n"', " "]
    )
    return st.lists(st.one_of(pieces, letters), max_size=6).map("".join)


def rows_of(encoding: str) -> st.SearchStrategy[list[Row]]:
    text = texts(encoding)
    amounts = st.integers(0, 10**6).map(lambda cents: cents / 100)
    times = st.integers(0, 59).map(lambda minute: f"2026-03-01 10:{minute:02d}:00")
    row = st.tuples(st.integers(1, 10**6).map(str), times, text, text, text, amounts, text)
    return st.lists(row, min_size=1, max_size=8)


@pytest.mark.parametrize("write", [by_csv, by_pandas, by_polars])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_come_back_as_they_were_written_or_not_at_all(
    write: Callable[[list[Row], Dialect], str], data: st.DataObject
) -> None:
    dialect = data.draw(dialects)
    rows = data.draw(rows_of(dialect.encoding))
    found = read_or_refused(
        dialect.packed(write(rows, dialect)), replace(LAYOUT, encoding=dialect.configured)
    )
    if isinstance(found, ContentError):  # Python's own writer leaves a CR within a value without quotes
        assert any(end in str(value) for row in rows for value in row for end in "\r\n"), found
        return
    read = [tuple(str(value).strip() for value in row.values()) for row in found.to_pylist()]
    assert read == [tuple(str(value).strip() for value in row) for row in rows]


@pytest.mark.parametrize("write", [by_csv, by_pandas, by_polars])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_row_that_is_written_arrives_at_the_platform(
    write: Callable[[list[Row], Dialect], str], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    dialect = data.draw(dialects)
    rows = data.draw(rows_of(dialect.encoding))
    path = tmp_path_factory.mktemp("feed") / "feed.csv"
    path.write_bytes(dialect.packed(write(rows, dialect)))
    try:
        table = FileSource(FilesConfig(path=str(path), encoding=dialect.configured)).rows(
            "transactions", DAY, DAY
        )
    except SourceError:
        return
    assert table["transaction_id"].to_pylist() == [row[0] for row in rows]
    assert table["amount"].to_pylist() == [row[5] for row in rows]


numbers = st.integers(1, 10**6)
plain_rows = st.lists(
    st.tuples(numbers, numbers, st.sampled_from(["n", "", "5 m", '"a,b"', '"say ""x"""', '"a\nb"'])),
    min_size=2,
    max_size=8,
)


def plain_text(rows: list[tuple[int, int, str]]) -> str:
    lines = [
        f"{number},2026-03-01 10:00:00,c{number},{note},s{other},1.5,{note}" for number, other, note in rows
    ]
    return "\n".join([",".join(NAMES), *lines, ""])


@settings(max_examples=150)
@given(rows=plain_rows, strays=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_no_row_vanishes_behind_stray_quotes(rows: list[tuple[int, int, str]], strays: list[float]) -> None:
    text = plain_text(rows)
    for share in strays:
        at = len(",".join(NAMES)) + 1 + int(share * (len(text) - len(",".join(NAMES)) - 1))
        text = text[:at] + '"' + text[at:]
    found = read_or_refused(text.encode(), PLAIN)
    if isinstance(found, ContentError):
        assert found.place is not None
    else:
        assert found.num_rows == len(rows)


@settings(max_examples=150)
@given(rows=plain_rows, share=st.floats(0, 1), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_file_that_is_cut_off_gives_the_rows_before_the_cut_or_an_error(
    rows: list[tuple[int, int, str]], share: float, end: str
) -> None:
    text = plain_text(rows)
    cut = text[: int(share * len(text))]
    whole = [plain_text(rows[: n + 1]) for n in range(len(rows))]
    found = read_or_refused(cut.replace("\n", end).encode(), PLAIN)
    if isinstance(found, ContentError):
        return
    complete = sum(len(until) - 1 <= len(cut) for until in whole)
    assert (
        complete <= found.num_rows <= complete + 1
    )  # the one that is cut within its last value cannot be told
    assert found["transaction_id"].to_pylist()[:complete] == [str(number) for number, _, _ in rows[:complete]]


@settings(max_examples=100)
@given(content=st.binary(max_size=300), encoding=st.sampled_from(["utf-8", "latin-1", "utf-16"]))
def test_no_bytes_make_another_error_than_one_of_ours(content: bytes, encoding: str) -> None:
    header = ",".join(NAMES).encode("utf-16" if encoding == "utf-16" else "utf-8")
    for text in (content, header + b"\n" + content):
        found = read_or_refused(text, replace(LAYOUT, encoding=encoding))
        assert isinstance(found, pa.Table) or "\n" not in str(found)
