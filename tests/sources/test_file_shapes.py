"""The rules of "What a file may look like" in docs/data.md, each with what has to come out of it: rows, or an
error with file, line and remedy.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed_kit import COLUMNS, DAY, FEED, HEADER, ids, line, parquet, zstd
from payment_feeds import FilesConfig

from mlops_assets.core.data.base import Malformed, SourceError
from mlops_assets.sources.file_source import FileSource

READ: dict[str, tuple[str, bytes]] = {
    "suffix in capitals": ("FEED.CSV", FEED.encode()),
    "suffix of Parquet in capitals": ("FEED.Parquet", parquet()),
    "short suffix of Parquet": ("feed.PQ", parquet()),
    "suffix of tabs": ("feed.tsv", FEED.replace(",", "\t").encode()),
    "text with a day in its name": ("tx-20260301.txt", FEED.encode()),
    "semicolons": ("feed.csv", FEED.replace(",", ";").encode()),
    "tabs": ("feed.csv", FEED.replace(",", "\t").encode()),
    "pipes, quotes everywhere": (
        "feed.csv",
        (FEED.replace("\n", '"\n"')[:-1].replace(",", '"|"').join(['"', ""])).encode(),
    ),
    "pipes": ("feed.csv", FEED.replace(",", "|").encode()),
    "semicolons, and commas in a value": (
        "feed.csv",
        FEED.replace(",", ";").replace(";n\n", ";a,b,c\n").encode(),
    ),
    "sep= before semicolons": ("feed.csv", b"sep=;\n" + FEED.replace(",", ";").encode()),
    "sep= before an unusual separator": ("feed.csv", b'"sep=^"\r\n' + FEED.replace(",", "^").encode()),
    "SEP= of tabs": ("feed.csv", b"SEP=\t\n" + FEED.replace(",", "\t").encode()),
    "CR LF": ("feed.csv", FEED.replace("\n", "\r\n").encode()),
    "CR alone": ("feed.csv", FEED.replace("\n", "\r").encode()),
    "CR alone, all quoted": (
        "feed.csv",
        FEED.replace(",", '","').replace("\n", '"\r"')[:-1].join(['"', ""]).encode(),
    ),
    "no end of the last line": ("feed.csv", FEED[:-1].encode()),
    "a BOM": ("feed.csv", b"\xef\xbb\xbf" + FEED.encode()),
    "a BOM before a quoted header": ("feed.csv", b'\xef\xbb\xbf"ID"' + FEED.encode()[2:]),
    "UTF-16 with a BOM": ("feed.csv", FEED.encode("utf-16")),
    "UTF-16, the other way round": ("feed.csv", b"\xfe\xff" + FEED.encode("utf-16-be")),
    "UTF-32 with a BOM": ("feed.csv", FEED.encode("utf-32")),
    "a first line of spaces": ("feed.csv", b"  \r\n" + FEED.replace("\n", "\r\n").encode()),
    "a blank first line": ("feed.csv", b"\n" + FEED.encode()),
    "blank lines of a spreadsheet": ("feed.csv", b"\r\n ,,,,,\r\n" + FEED.encode()),
    "blank lines between rows": ("feed.csv", FEED.replace("2,", "\n\r\n2,", 1).encode()),
    "lines of spaces between rows and at the end": (
        "feed.csv",
        (HEADER + line(1) + "   \n" + line(2) + line(3) + "  \n").encode(),
    ),
    "spaces after separators": ("feed.csv", FEED.replace(",", ", ").encode()),
    "spaces before quotes": ("feed.csv", (HEADER + line(1, ' "a, b"') + line(2) + line(3)).encode()),
    "gzip": ("feed.csv.gz", gzip.compress(FEED.encode())),
    "gzip of two members": (
        "feed.csv.GZ",
        gzip.compress(HEADER.encode()) + gzip.compress(FEED.removeprefix(HEADER).encode()),
    ),
    "gzip without its suffix": ("feed.csv", gzip.compress(FEED.encode())),
    "plain text with the suffix of gzip": ("feed.csv.gz", FEED.encode()),
    "zstd": ("feed.csv.zst", zstd(FEED.encode())),
    "zstd without its suffix": ("feed.csv", zstd(FEED.encode())),
    "bzip2": ("feed.csv.bz2", bz2.compress(FEED.encode())),
    "xz": ("feed.tsv.xz", lzma.compress(FEED.encode())),
    "Parquet that is called CSV": ("feed.csv", parquet()),
    "Parquet in gzip": ("feed.parquet.gz", gzip.compress(parquet())),
    "CSV that is called Parquet": ("feed.parquet", FEED.encode()),
    "quotes everywhere": (
        "feed.csv",
        "".join(f'"{row.replace(",", chr(34) + "," + chr(34))}"\n' for row in FEED.splitlines()).encode(),
    ),
    "separators within quotes": ("feed.csv", (HEADER + line(1, '"a,b"') + line(2, '","') + line(3)).encode()),
    "quotes within quotes": (
        "feed.csv",
        (HEADER + line(1, '"say ""a"""') + line(2, '""""') + line(3, '""')).encode(),
    ),
    "line ends within quotes": (
        "feed.csv",
        (HEADER + line(1, '"a\nb\r\n\nc"') + line(2, '"\n"') + line(3)).encode(),
    ),
    "quotes within a value that has none": (
        "feed.csv",
        (HEADER + line(1, '5" pipe') + line(2, 'a "b" c') + line(3)).encode(),
    ),
    "a header with a line end": ("feed.csv", FEED.replace("NOTE", '"NO\nTE"').encode()),
    "a doubled column of no use": (
        "feed.csv",
        FEED.replace("NOTE", "NOTE,NOTE").replace(",n\n", ",n,m\n").encode(),
    ),
    "a row number without a name": ("feed.csv", ("," + FEED.replace("\n", "\n0,")[: -len("0,")]).encode()),
}


@pytest.mark.parametrize("shape", READ)
def test_a_file_is_read_by_what_it_is(tmp_path: Path, shape: str) -> None:
    name, content = READ[shape]
    (tmp_path / name).write_bytes(content)
    assert ids(tmp_path) == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["feed", "feed.dat", "readme.txt", ".hidden.csv"])
def test_a_path_of_one_file_is_taken_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FEED)
    assert ids(tmp_path / name) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("encoding", "shop"),
    [("latin-1", "Café"), ("cp1252", "Café – 5 €"), ("utf-16-le", "Café 咖啡"), ("utf_8", "Café 咖啡")],
)
def test_text_in_the_configured_encoding_keeps_what_a_person_sees(
    tmp_path: Path, encoding: str, shop: str
) -> None:
    (tmp_path / "feed.csv").write_bytes((HEADER + line(1).replace("s1", shop)).encode(encoding))
    rows = FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS, encoding=encoding)).rows(
        "transactions", DAY, DAY
    )
    assert rows["merchant_id"].to_pylist() == [shop]


# Refused: file, what it holds, the place (empty: the file as a whole), what is said


REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "gzip that is cut off": (
        "feed.csv.gz",
        gzip.compress(FEED.encode())[:-12],
        "",
        r"is cut off or damaged: its gzip .*fetch it again",
    ),
    "gzip with a byte changed": (
        "feed.csv.gz",
        gzip.compress(FEED.encode())[:-6] + b"\0\0\0\0\0\0",
        "",
        "is cut off or damaged: its gzip",
    ),
    "zstd that is cut off": ("feed.csv.zst", zstd(FEED.encode())[:-5], "", "is cut off or damaged: its zstd"),
    "zstd of a few bytes": ("feed.csv", zstd(FEED.encode())[:6], "", "is cut off or damaged: its zstd"),
    "Parquet without a footer": (
        "feed.parquet",
        parquet()[:-60],
        "",
        "cannot be read as Parquet .*may be cut off",
    ),
    "Parquet of its first bytes": ("feed.parquet", parquet()[:4], "", "cannot be read as Parquet"),
    "a last line cut in a value": (
        "feed.csv",
        (FEED + line(4)[:12]).encode(),
        "line 5",
        "has 2 values where .* 6 columns; .* may be cut off",
    ),
    "a last line cut in quotes": (
        "feed.csv",
        (FEED + line(4, '"n')[:-1]).encode(),
        "line 5",
        "a quote opens a value and is never closed; .* cut off",
    ),
    "too few values": (
        "feed.csv",
        (HEADER + line(1) + "2,2026-03-01\n" + line(3)).encode(),
        "line 3",
        "has 2 values where the header has 6",
    ),
    "too few values and blank lines": (
        "feed.csv",
        ("\n\n" + HEADER + line(1) + "\n2,x\n").encode(),
        "line 6",
        "has 2 values where the header has 6",
    ),
    "too many values": (
        "feed.csv",
        (HEADER + line(1) + line(2, "a,b")).encode(),
        "line 3",
        "has 7 values .*; quote a value that holds the separator",
    ),
    "too many values after lines within quotes": (
        "feed.csv",
        (HEADER + line(1, '"a\r\nb"') + line(2, "a,b")).encode(),
        "line 4",
        "has 7 values",
    ),
    "text after a closing quote": (
        "feed.csv",
        (HEADER + line(1) + line(2, '"a"b') + line(3)).encode(),
        "line 3",
        "text follows a closing quote",
    ),
    "a space after a closing quote": (
        "feed.csv",
        (HEADER + line(1, '"a" ') + line(2)).encode(),
        "line 2",
        "text follows a closing quote",
    ),
    "a quote with a backslash": (
        "feed.csv",
        (HEADER + line(1) + line(2, r'"a \"b\" c"')).encode(),
        "line 3",
        "a quote within a value is written twice",
    ),
    "a quote that is not closed": (
        "feed.csv",
        (HEADER + line(1) + line(2, '"n') + line(3)).encode(),
        "line 3",
        "is never closed",
    ),
    "a quote that is not closed before others": (
        "feed.csv",
        (HEADER + line(1, '"n') + line(2, '"n"')).encode(),
        "line 3",
        "begins on line 2",
    ),
    "two stray quotes around a row": (
        "feed.csv",
        (HEADER + line(1, '"n') + line(2) + line(3, 'n"')).encode(),
        "line 3",
        "looks like a row, but",
    ),
    "two stray quotes around no row": (
        "feed.csv",
        (HEADER + line(1, '"n') + line(2, 'n"') + line(3)).encode(),
        "line 3",
        "looks like a row, but",
    ),
    "two stray quotes, and a third": (
        "feed.csv",
        (HEADER + line(1, '"n') + line(2, 'n"') + line(3, 'x"x')).encode(),
        "line 3",
        "looks like a row, but",
    ),
    "a NUL byte": ("feed.csv", (HEADER + line(1) + line(2, "\0")).encode(), "line 3", "holds a NUL byte"),
    "UTF-16 without a BOM": ("feed.csv", FEED.encode("utf-16-le"), "line 1", 'encoding = "utf-16-le"'),
    "a byte of Latin-1": (
        "feed.csv",
        (FEED + line(4, "é")).encode("latin-1"),
        "line 5",
        r'0xe9 is not UTF-8; set encoding .*"cp1252" or "latin-1"',
    ),
    "a byte of Latin-1 between CRs": (
        "feed.csv",
        (HEADER + line(1, "é")).replace("\n", "\r").encode("cp1252"),
        "line 2",
        "0xe9 is not UTF-8",
    ),
    "a doubled header name": (
        "feed.csv",
        FEED.replace("NOTE", "ID").encode(),
        "",
        "has more than one column 'ID'",
    ),
    "doubled header names with spaces": (
        "feed.csv",
        FEED.replace("NOTE", " CARD ").encode(),
        "",
        "has more than one column 'CARD'",
    ),
    "no header": (
        "feed.csv",
        FEED.removeprefix(HEADER).encode(),
        "",
        "are missing; there are 1, 2026-03-01 .*the first line should be a header",
    ),
    "no header, one row": ("feed.csv", line(1).encode(), "", "the first line should be a header"),
    "a separator that nobody announced": (
        "feed.csv",
        FEED.replace(",", "^").encode(),
        "",
        r"there are ID\^WHEN.*first line such as sep=\^",
    ),
    "blank lines only": ("feed.csv", b"\n \r\n", "", "is empty, without even a header"),
    "sep= only": ("feed.csv", b"sep=;\n", "", "is empty, without even a header"),
    "nothing in gzip": ("feed.csv.gz", gzip.compress(b""), "", "is empty, without even a header"),
    "a spreadsheet": (
        "feed.csv",
        b"PK\x03\x04 and so on",
        "",
        "is a zip archive or a spreadsheet; export it as CSV or Parquet",
    ),
    "a database": ("feed.csv", b"SQLite format 3\0", "", "is a SQLite database"),
    "a packing that cannot be read": (
        "feed.csv.zip",
        b"PK\x03\x04",
        "",
        "ends in .zip cannot be read; unpack it",
    ),
    "an encrypted table": ("feed.csv.gpg", b"\x85\x01", "", "ends in .gpg cannot be read"),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_a_file_that_cannot_be_read_right_is_refused_with_its_place(tmp_path: Path, shape: str) -> None:
    name, content, place, about = REFUSED[shape]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=about) as refused:
        ids(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / name}{f', {place}' if place else ''}: ")
    assert "\n" not in str(refused.value)


def test_twenty_rows_between_two_quotes_do_not_vanish(tmp_path: Path) -> None:
    rows = [line(number) for number in range(1, 31)]
    rows[4], rows[24] = line(5, '"n'), line(25, 'n"')
    (tmp_path / "feed.csv").write_text(HEADER + "".join(rows))
    with pytest.raises(
        SourceError,
        match=(
            r"feed\.csv, line 7: looks like a row, but is inside a quoted value of the row that begins on"
            r" line 6"
        ),
    ):
        ids(tmp_path)


@pytest.mark.parametrize(
    "note", ["n", '"n"', '5" n']
)  # for Arrow; for Arrow and its quotes; for the strict reader
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_value_that_cannot_be_read_has_its_line(tmp_path: Path, note: str, end: str) -> None:
    rows = ["", HEADER, line(1, '"a\n\nb"'), "\n", line(2, note).replace("2.25", "two"), line(3)]
    (tmp_path / "feed.csv").write_bytes("".join(rows).replace("\n", end).encode())
    malformed = (
        FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS))
        .rows("transactions", DAY, DAY)["malformed"]
        .to_pylist()
    )
    assert [Malformed.decode(text).place if text else None for text in malformed] == [
        None,
        "feed.csv, line 6",
        None,
    ]


def test_a_value_that_cannot_be_read_has_its_row_in_parquet(tmp_path: Path) -> None:
    (tmp_path / "feed.parquet").write_bytes(parquet(AMOUNT=["1.25", "two", "3.25"]))
    malformed = (
        FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS))
        .rows("transactions", DAY, DAY)["malformed"]
        .to_pylist()
    )
    assert [Malformed.decode(text).place if text else None for text in malformed] == [
        None,
        "feed.parquet, row 2",
        None,
    ]


# Parquet


@pytest.mark.parametrize(
    "kind",
    [
        pa.float64(),
        pa.int8(),
        pa.bool_(),
        pa.decimal128(5, 2),
        pa.null(),
        pa.string(),
        pa.date32(),
        pa.list_(pa.int8()),
    ],
    ids=str,
)
def test_parquet_without_rows_has_none_whatever_its_types(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(
        pa.schema([(name, kind) for name in COLUMNS.values()]).empty_table(), tmp_path / "2026-03-01.parquet"
    )
    assert ids(tmp_path) == []


INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
OTHERS = [
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.decimal32(5, 0),
    pa.decimal64(9, 2),
    pa.decimal128(20, 0),
    pa.decimal256(40, 3),
]


@pytest.mark.parametrize("kind", INTEGERS + OTHERS, ids=str)
def test_ids_and_amounts_may_be_of_any_numeric_type(tmp_path: Path, kind: pa.DataType) -> None:
    exact = [Decimal(number) if pa.types.is_decimal(kind) else number for number in (1, 2, 100)]
    numbers = pa.array(np.array(exact, np.float16) if kind == pa.float16() else exact, kind)
    (tmp_path / "feed.parquet").write_bytes(parquet(ID=numbers, CARD=numbers, SHOP=numbers, AMOUNT=numbers))
    rows = FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS)).rows("transactions", DAY, DAY)
    for name in ("transaction_id", "customer_id", "merchant_id"):
        assert rows[name].to_pylist() == ["1", "2", "100"]
    assert rows["amount"].to_pylist() == [1.0, 2.0, 100.0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_unit_are_found_on_their_day(tmp_path: Path, unit: str) -> None:
    times = pa.array([datetime(2026, 3, 1, 10)] * 3, pa.timestamp("us")).cast(pa.timestamp(unit))
    (tmp_path / "feed.parquet").write_bytes(parquet(WHEN=times))
    assert ids(tmp_path) == ["1", "2", "3"]
