"""What a value means: the table of docs/data.md, each rule by real files, as CSV and as Parquet."""

from __future__ import annotations

import csv
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from payment_feeds import FilesConfig, LabelsConfig
from pydantic import ValidationError

from mlops_assets.core.data.base import Malformed, SourceError
from mlops_assets.sources.file_source import FileSource

EVER = (date(2000, 1, 1), date(2099, 12, 31))
ROW = {
    "transaction_id": "t1",
    "event_timestamp": "2026-03-01 10:00:00",
    "created_timestamp": "2026-03-01 10:00:00",
    "customer_id": "c1",
    "merchant_id": "m1",
    "amount": "10",
    "is_declined": "0",
}
ID, NUMBER, TIME, FLAG = "customer_id", "amount", "event_timestamp", "is_declined"
TOO_LARGE, RUINED, FRACTION = (
    "a float of this size skips integers",
    "a spreadsheet took it for a number",
    "it has a fraction",
)
HINT = r'a bare number counts as a time only with epoch = "s", "ms" or "us" under \[source\]'
WRONG_UNIT = r"is another unit meant\?"
BERLIN, MS = {"timezone": "Europe/Berlin"}, {"epoch": "ms"}
POINTS, COMMAS = {"decimal": ",", "thousands": "."}, {"thousands": ","}
JA_NEIN = {"flags": {"true": ["J", "Fraud"], "false": ["Genuine", "-1"]}}


class Bad(NamedTuple):
    """The value is quarantined, and `why` is found in its reason."""

    why: str


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def read(
    folder: Path, suffix: str, column: str, cell: Any, settings: dict[str, Any]
) -> tuple[Any, Malformed | None]:
    """One row in a file of its own, with this cell: its typed value, and what could not be read."""
    path = folder / f"2026-03-01.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([list(ROW), list({**ROW, column: cell}.values())])
    else:
        whole = {name: pa.array([text]) for name, text in ROW.items()}
        pq.write_table(
            pa.table({**whole, column: cell if isinstance(cell, pa.Array) else pa.array([cell])}), path
        )
    config = FilesConfig.model_validate(
        {
            "path": str(path),
            "columns": {"is_declined": "is_declined", "created_timestamp": "created_timestamp"},
        }
        | settings
    )
    rows = FileSource(config).rows("transactions", *EVER)
    assert rows.num_rows == 1
    (malformed,) = rows["malformed"].to_pylist()
    return rows[column][0].as_py(), malformed and Malformed.decode(malformed)


def check(folder: Path, suffix: str, column: str, cell: Any, settings: dict[str, Any], expected: Any) -> None:
    value, malformed = read(folder, suffix, column, cell, settings)
    if not isinstance(expected, Bad):
        assert (value, malformed) == (expected, None)
        return
    assert value is None
    assert malformed is not None
    assert re.search(expected.why, malformed.unread[column].why)
    if isinstance(cell, str):
        assert malformed.unread[column].text == cell


TEXT = [
    # Ids keep what a person sees.
    (ID, "007", {}, "007"),
    (ID, " c 1\u00a0", {}, "c 1"),
    (ID, "5.0", {}, "5"),
    (ID, "-12345.00", {}, "-12345"),
    (ID, "007.0", {}, "007.0"),
    (ID, "10.1", {}, "10.1"),
    (ID, "5.", {}, "5."),
    (ID, "9007199254740991.0", {}, "9007199254740991"),
    (ID, "9007199254740993.0", {}, Bad(TOO_LARGE)),
    (ID, "12345678901234567890.0", {}, Bad(TOO_LARGE)),
    (ID, "12345678901234567890", {}, "12345678901234567890"),
    (ID, "4.1E+15", {}, Bad(RUINED)),
    (ID, "4,12e+15", {}, Bad(RUINED)),
    (ID, "4E+15", {}, Bad(RUINED)),
    (ID, "4E15", {}, "4E15"),
    (ID, "12E+45", {}, "12E+45"),
    # Missing.
    *(
        (ID, word, {}, None)
        for word in ("", "  ", "NULL", "null", "\\N", "nan", "NaN", "NaT", "<NA>", "#N/A", "N/A", "None", "-")
    ),
    *((NUMBER, word, {}, None) for word in ("", "NULL", "nan", "-")),
    *((TIME, word, {}, None) for word in ("", "None", "NaT")),
    *((FLAG, word, {}, None) for word in ("", "\\N", "#N/A")),
    (ID, "NA", {}, "NA"),
    (ID, "0", {}, "0"),
    (ID, "?", {"missing": ["?", "0000"]}, None),
    (ID, "0000", {"missing": ["?", "0000"]}, None),
    (ID, "", {"missing": ["?"]}, None),
    (ID, "-", {"missing": ["?"]}, "-"),
    (NUMBER, "NULL", {"missing": ["?"]}, Bad("not a number")),
    # Numbers.
    *(
        (NUMBER, text, {}, value)
        for text, value in (
            (".5", 0.5),
            ("5.", 5.0),
            ("+5", 5.0),
            ("-5", -5.0),
            ("1e3", 1000.0),
            ("12.34", 12.34),
        )
    ),
    (NUMBER, "12,50", {}, Bad(r'with a decimal comma set decimal = "," under \[source\]$')),
    (
        NUMBER,
        "1,234.50",
        {},
        Bad(r'with commas between thousands set decimal = "\." and thousands = "," under'),
    ),
    (NUMBER, "1.234,50", {}, Bad(r'with a decimal comma set decimal = "," and thousands = "\." under')),
    (NUMBER, "1,234", {}, Bad(r"with a decimal comma .* or with commas between thousands")),
    (NUMBER, "1'234.50", {}, Bad("with apostrophes between thousands")),
    *((NUMBER, text, {}, Bad("^not a number$")) for text in ("12 EUR", ".", "1e", "--5", "٣")),
    *((NUMBER, text, {}, Bad("it is not finite")) for text in ("inf", "-Infinity", "1e400")),
    *(
        (NUMBER, text, COMMAS, value)
        for text, value in (
            ("1,234.50", 1234.5),
            ("1,234,567", 1234567.0),
            ("1234.5", 1234.5),
            ("12,34,567.5", 1234567.5),
        )
    ),
    *((NUMBER, text, COMMAS, Bad("not a number")) for text in ("12,50", "1,2345", ",123", "1,234,5")),
    *(
        (NUMBER, text, POINTS, value)
        for text, value in (("1.234,50", 1234.5), ("12,5", 12.5), ("-1.234.567", -1234567.0), (",5", 0.5))
    ),
    *((NUMBER, text, POINTS, Bad("not a number")) for text in ("12.50", "1,234.50")),
    (NUMBER, "12.50", {"decimal": ","}, Bad(r'with a decimal point set decimal = "\."')),
    *((NUMBER, text, {"thousands": " "}, 1234.5) for text in ("1 234.5", "1\u00a0234.5", "1\u202f234.5")),
    *((NUMBER, text, {"thousands": "'"}, 1234.5) for text in ("1'234.5", "1\u2019234.5")),
    # Flags.
    *((FLAG, text, {}, True) for text in ("1", "1.0", "1.", "true", "True", "TRUE", "t", "Y", "yes")),
    *((FLAG, text, {}, False) for text in ("0", "0.0", "0.00", "false", "False", "F", "N", "no")),
    *(
        (FLAG, text, {}, Bad(r"use 0 or 1, or list it under \[source\.flags\]"))
        for text in ("J", "2", "yes?", "10", "0.5")
    ),
    *(
        (FLAG, text, JA_NEIN, value)
        for text, value in (
            ("j", True),
            ("FRAUD", True),
            ("genuine", False),
            ("-1", False),
            ("yes", True),
            ("0", False),
        )
    ),
    (FLAG, "1", {"flags": {"false": ["1"], "true": ["0"]}}, False),
    (FLAG, "0.0", {"flags": {"false": ["1"], "true": ["0"]}}, True),
    # Times.
    *(
        (TIME, text, {}, at("2026-03-01 10:00"))
        for text in ("2026-03-01 10:00:00", "2026-03-01T10:00", "2026-03-01 10", "2026-03-01 10:00:00.000")
    ),
    *(
        (TIME, f"2026-03-01 10:00:00{zone}", {}, at("2026-03-01 10:00"))
        for zone in ("Z", " UTC", "UTC", " GMT", "+00", "+00:00", "-00:00", " +0000")
    ),
    *(
        (TIME, f"2026-03-01T10:00:00{zone}", {}, at("2026-03-01 08:00"))
        for zone in ("+02", "+0200", "+02:00", " +02:00")
    ),
    *(
        (TIME, f"2026-03-01 10:00:00.25{zone}", {}, at("2026-03-01 15:30:00.25"))
        for zone in ("-05:30", "-0530")
    ),
    (TIME, "2026-03-01", {}, at("2026-03-01")),
    (TIME, "2024-02-29", {}, at("2024-02-29")),
    (TIME, "2026-03-01 10:00:00.123456789", {}, at("2026-03-01 10:00:00.123456")),
    (TIME, "2026-03-01 10:00:00.9999999Z", {}, at("2026-03-01 10:00:00.999999")),
    *(
        (TIME, text, {}, Bad("write times as 2026-03-01 10:00:00"))
        for text in ("01/03/2026", "2026-02-30", "2026-03-01 24:00", "2026-13-01Z", "soon")
    ),
    *((TIME, text, {}, Bad("write times as")) for text in ("2026-03-01 10:00 CET", "2026-03-01 10:00+24:00")),
    *((TIME, text, {}, Bad(HINT)) for text in ("1772359200", "1772359200000", "20260301", "46082.5")),
    *(
        (TIME, text, {"epoch": "s"}, at("2026-03-01 10:00"))
        for text in ("1772359200", "1772359200.0", "+1772359200")
    ),
    (TIME, "1772359200.25", {"epoch": "s"}, at("2026-03-01 10:00:00.25")),
    (TIME, "1772359200250", MS, at("2026-03-01 10:00:00.25")),
    (TIME, "1772359200000.5", MS, at("2026-03-01 10:00:00.0005")),
    (TIME, "1772359200000001", {"epoch": "us"}, at("2026-03-01 10:00:00.000001")),
    (TIME, "1772359200000000", {"epoch": "us"}, at("2026-03-01 10:00")),
    (TIME, "2026-03-01 10:00:00+02", MS, at("2026-03-01 08:00")),
    *(
        (TIME, text, {"epoch": "s"}, Bad(WRONG_UNIT))
        for text in ("1772359200000", "-1", "99999999999999999999")
    ),
    *(
        (TIME, text, BERLIN, value)
        for text, value in (
            ("2026-03-01 10:00", at("2026-03-01 09:00")),
            ("2026-07-01 10:00:00", at("2026-07-01 08:00")),
        )
    ),
    (TIME, "2026-07-01", BERLIN, at("2026-06-30 22:00")),
    *(
        (TIME, text, BERLIN, at("2026-10-25 01:30"))
        for text in ("2026-10-25 02:30:00+01:00", "2026-10-25 01:30Z")
    ),
    *(
        (TIME, text, BERLIN, Bad("Europe/Berlin shows it twice"))
        for text in ("2026-10-25 02:00:00", "2026-10-25T02:59:59.999")
    ),
    *(
        (TIME, text, BERLIN, Bad("Europe/Berlin shows it never"))
        for text in ("2026-03-29 02:00:00", "2026-03-29 02:30")
    ),
    (
        TIME,
        "2026-04-24",
        {"timezone": "Africa/Cairo"},
        at("2026-04-23 22:00"),
    ),  # daylight saving begins at midnight: the day begins at 01:00
    (
        TIME,
        "2026-11-01",
        {"timezone": "America/Havana"},
        at("2026-11-01 04:00"),
    ),  # it ends at 01:00: the first of two midnights
    (TIME, "2026-04-24 00:30", {"timezone": "Africa/Cairo"}, Bad("Africa/Cairo shows it never")),
    (TIME, "2026-10-25 03:00:00", BERLIN, at("2026-10-25 02:00")),
    (TIME, "1772359200", BERLIN | {"epoch": "s"}, at("2026-03-01 10:00")),
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("column", "text", "settings", "expected"), TEXT, ids=lambda value: str(value)[:60])
def test_text_means_the_same_in_csv_and_parquet(
    tmp_path: Path, suffix: str, column: str, text: str, settings: dict[str, Any], expected: Any
) -> None:
    check(tmp_path, suffix, column, text, settings, expected)


def stamp(text: str, unit: str, zone: str | None = None, extra: int = 0) -> pa.Array:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return pa.array([int(at(text).timestamp()) * per_second + extra], pa.timestamp(unit, zone))


DAY = date(2026, 3, 1)
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary(3),
    pa.dictionary(pa.int8(), pa.string()),
]
ARROW = [
    *((ID, pa.array([5], kind), {}, "5") for kind in INTEGERS),
    (ID, pa.array([2**64 - 1], pa.uint64()), {}, "18446744073709551615"),
    *((ID, pa.array([5.0], kind), {}, "5") for kind in (pa.float32(), pa.float64())),
    (ID, pa.array([np.float16(5)]), {}, "5"),
    (ID, pa.array([np.float16(2048)]), {}, Bad(TOO_LARGE)),
    (FLAG, pa.array([np.float16(1)]), {}, True),
    (NUMBER, pa.array([np.float16(0.5)]), {}, 0.5),
    *((ID, pa.array([None, 5.0], kind).slice(0, 1), {}, None) for kind in (pa.float64(), pa.int64())),
    *((ID, pa.array([value]), {}, Bad(FRACTION)) for value in (5.5, Decimal("5.50"))),
    *(
        (ID, pa.array([value], kind), {}, Bad(TOO_LARGE))
        for value, kind in ((2.0**53, pa.float64()), (2.0**24, pa.float32()), (4.1e15 * 1e3, pa.float64()))
    ),
    (ID, pa.array([float("inf")]), {}, Bad("neither text nor a whole number")),
    *(
        (ID, pa.array([Decimal("12345678901234567890")]).cast(kind), {}, "12345678901234567890")
        for kind in (pa.decimal128(38, 0), pa.decimal256(60, 10))
    ),
    *((ID, pa.array(["0a7"]).cast(kind), {}, "0a7") for kind in TEXTS),
    *((ID, pa.array(["-"]).cast(kind), {}, None) for kind in (pa.large_string(), pa.binary())),
    (ID, pa.array([5]).dictionary_encode(), {}, "5"),
    *((ID, pa.array([raw]), {}, Bad("its bytes are not UTF-8")) for raw in (b"caf\xe9", b"\xff")),
    *((NUMBER, pa.array([5], kind), {}, 5.0) for kind in INTEGERS),
    *(
        (NUMBER, pa.array([Decimal("4.35")]).cast(kind), {}, 4.35)
        for kind in (pa.decimal128(18, 2), pa.decimal128(38, 10), pa.decimal256(50, 4))
    ),
    *((NUMBER, pa.array([0.5], kind), {}, 0.5) for kind in (pa.float32(), pa.float64())),
    *(
        (NUMBER, pa.array(["1.234,50"]).cast(kind), POINTS, 1234.5)
        for kind in (pa.large_string(), pa.binary())
    ),
    (NUMBER, pa.array([float("nan")]), {}, None),
    (NUMBER, pa.array([1234.5]), POINTS, 1234.5),
    *(
        (FLAG, pa.array([1]).cast(kind), {}, True)
        for kind in (*INTEGERS, pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(24, 2))
    ),
    *((FLAG, pa.array([0]).cast(kind), {}, False) for kind in (pa.int64(), pa.float64(), pa.bool_())),
    *((FLAG, pa.array([value]), {}, Bad("use 0 or 1")) for value in (2, 0.5)),
    *(
        (TIME, stamp("2026-03-01 10:00", unit, zone), {}, at("2026-03-01 10:00"))
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "Asia/Tokyo")
    ),
    *(
        (TIME, stamp("2026-03-01 10:00", "ns", zone, 1_999), {}, at("2026-03-01 10:00:00.000001"))
        for zone in (None, "UTC")
    ),
    *((TIME, pa.array([DAY], kind), {}, at("2026-03-01")) for kind in (pa.date32(), pa.date64())),
    *((TIME, pa.array([DAY], kind), BERLIN, at("2026-02-28 23:00")) for kind in (pa.date32(), pa.date64())),
    *((TIME, stamp("2026-03-01 10:00", unit), BERLIN, at("2026-03-01 09:00")) for unit in ("ms", "us", "ns")),
    (TIME, stamp("2026-03-01 10:00", "us", "UTC"), BERLIN, at("2026-03-01 10:00")),
    (TIME, pa.array([date(2026, 4, 24)]), {"timezone": "Africa/Cairo"}, at("2026-04-23 22:00")),
    (TIME, stamp("2026-10-25 02:30", "us"), BERLIN, Bad("Europe/Berlin shows it twice")),
    (TIME, stamp("2026-03-29 02:30", "us"), BERLIN, Bad("Europe/Berlin shows it never")),
    *(
        (TIME, pa.array([1772359200]).cast(kind), {"epoch": "s"}, at("2026-03-01 10:00"))
        for kind in (pa.int64(), pa.uint32(), pa.float64(), pa.decimal128(24, 2))
    ),
    (TIME, pa.array([1772359200000.5]), MS, at("2026-03-01 10:00:00.0005")),
    (TIME, pa.array([1772359200000]), MS | BERLIN, at("2026-03-01 10:00")),
    *(
        (TIME, pa.array([value], kind), {"epoch": "s"}, Bad(WRONG_UNIT))
        for value, kind in ((-1, pa.int64()), (1772359200000, pa.int64()), (2**64 - 1, pa.uint64()))
    ),
    (TIME, pa.array([float("inf")]), {"epoch": "s"}, Bad("not a time")),
]


@pytest.mark.parametrize(
    ("column", "cell", "settings", "expected"), ARROW, ids=lambda v: str(getattr(v, "type", v))[:60]
)
def test_a_value_of_parquet_means_what_its_text_means(
    tmp_path: Path, column: str, cell: pa.Array, settings: dict[str, Any], expected: Any
) -> None:
    check(tmp_path, "parquet", column, cell, settings, expected)


@pytest.mark.parametrize(
    ("column", "cell", "why"),
    [
        (TIME, pa.array([1772359200]), f"of type int64, which cannot be read as a time; {HINT}"),
        (TIME, pa.array([1772359200.0]), f"of type double, which cannot be read as a time; {HINT}"),
        (TIME, pa.array([True]), "of type bool, which cannot be read as a time$"),
        (ID, pa.array([True]), "of type bool, which cannot be read as an identifier$"),
        (
            ID,
            stamp("2026-03-01 10:00", "us"),
            r"of type timestamp\[us\], which cannot be read as an identifier$",
        ),
        (NUMBER, pa.array([True]), "of type bool, which cannot be read as a number$"),
        (
            FLAG,
            stamp("2026-03-01 10:00", "us"),
            r"of type timestamp\[us\], which cannot be read as true or false$",
        ),
    ],
    ids=lambda v: str(getattr(v, "type", v))[:60],
)
def test_a_column_whose_type_holds_no_such_value_is_refused_with_its_name(
    tmp_path: Path, column: str, cell: pa.Array, why: str
) -> None:
    with pytest.raises(SourceError, match=rf"2026-03-01\.parquet: column '{column}' is {why}"):
        read(tmp_path, "parquet", column, cell, {})


def test_a_frame_means_the_same_whether_pandas_writes_it_as_csv_or_as_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({name: [value] * 4 for name, value in ROW.items()}).assign(
        transaction_id=[7.0, 1e15, None, 12345.0],
        customer_id=pd.array([5, None, 2**60, 7], "Int64"),
        event_timestamp=pd.date_range("2026-03-01", periods=4, freq="7h", tz="Europe/Berlin")
        + pd.Timedelta("1ms"),
        created_timestamp=pd.date_range("2026-03-02", periods=4, freq="D"),
        amount=[1.1, 2.0, None, 1e-7],
        is_declined=[1.0, 0.0, None, 1.0],
    )
    frame.to_csv(tmp_path / "feed.csv", index=False)
    frame.to_parquet(tmp_path / "feed.parquet")
    columns = {"created_timestamp": "created_timestamp", "is_declined": "is_declined"}
    tables = [
        FileSource(FilesConfig(path=str(tmp_path / name), columns=columns)).rows("transactions", *EVER)
        for name in ("feed.csv", "feed.parquet")
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["transaction_id"].to_pylist() == ["7", "1000000000000000", None, "12345"]
    assert tables[0]["customer_id"].to_pylist() == ["5", None, str(2**60), "7"]


def test_days_of_a_local_zone_are_found_although_the_footer_counts_in_local_days(tmp_path: Path) -> None:
    local = [datetime(2026, 3, 2, 0, 30), datetime(2026, 3, 2, 12)]  # the first is still 1 March in UTC
    rows = {name: [text] * 2 for name, text in ROW.items()} | {
        "event_timestamp": local,
        "created_timestamp": local,
    }
    pq.write_table(pa.table(rows), tmp_path / "feed.parquet")
    feed = FileSource(
        FilesConfig(
            path=str(tmp_path), columns={"created_timestamp": "created_timestamp"}, timezone="Europe/Berlin"
        )
    )
    counts = [
        feed.rows("transactions", DAY + timedelta(days=n), DAY + timedelta(days=n)).num_rows
        for n in (-1, 0, 1, 2)
    ]
    assert counts == [0, 1, 1, 0]


# The labels of another system.


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_placeholder_and_a_time_in_another_unit_spoil_their_own_rows_only(
    tmp_path: Path, unit: str, timezone: str
) -> None:
    per_second = {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
    real, first = (
        1_772_362_800 * per_second,
        -62_135_596_800 * per_second,
    )  # .NET's and Java's "no time" is 0001-01-01
    wrong = 2**52 if unit == "s" else 2**62
    whole = {name: pa.array([text] * 4) for name, text in ROW.items() if name != "created_timestamp"}
    times = pa.array([real, first, wrong, -wrong], pa.timestamp(unit))
    pq.write_table(pa.table({**whole, "event_timestamp": times}), tmp_path / "2026-03-01.parquet")
    rows = FileSource(FilesConfig(path=str(tmp_path), timezone=timezone)).rows("transactions", *EVER)
    assert rows.column("malformed").is_valid().to_pylist() == [False, False, True, True]
    assert rows.column("event_timestamp")[1].as_py() == at("0001-01-01")
    assert (
        "(timestamp[" in Malformed.decode(rows.column("malformed")[2].as_py()).unread["event_timestamp"].text
    )


def test_label_files_of_their_own_may_write_otherwise_and_the_rest_is_as_in_the_source(
    tmp_path: Path,
) -> None:
    (tmp_path / "tx.csv").write_text(
        "transaction_id,event_timestamp,customer_id,merchant_id,amount\n?,2026-07-01 10:00,c,m,5\n"
    )
    (tmp_path / "labels.csv").write_text(
        "transaction_id,is_fraud,label_timestamp\nt1,J,1772359200\n?,N,2026-07-01 10:00\nt2,X,1772359200\n"
    )
    labels = LabelsConfig(
        path=str(tmp_path / "labels.csv"), is_fraud="is_fraud", epoch="s", flags={"true": ["J"]}
    )  # type: ignore[arg-type]
    feed = FileSource(
        FilesConfig(path=str(tmp_path / "tx.csv"), missing=("?",), timezone="Europe/Berlin", labels=labels)
    )
    assert feed.rows("transactions", *EVER)["transaction_id"].to_pylist() == [None]
    rows = feed.rows("labels", *EVER)
    assert rows["transaction_id"].to_pylist() == ["t1", None, "t2"]
    assert rows["is_fraud"].to_pylist() == [True, False, None]
    assert rows["label_timestamp"].to_pylist() == [
        at("2026-03-01 10:00"),
        at("2026-07-01 08:00"),
        at("2026-03-01 10:00"),
    ]
    unread = Malformed.decode(rows["malformed"][2].as_py()).unread["is_fraud"]
    assert (unread.text, unread.why) == (
        "X",
        "not true or false; use 0 or 1, or list it under [source.labels.flags]",
    )


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"timezone": "Europe/Berln"}, 'timezone = "Europe/Berln": no such zone'),
        ({"labels": {"path": "y", "timezone": "Mars"}}, 'labels: timezone = "Mars": no such zone'),
        ({"decimal": ";"}, 'decimal = ";": the decimal mark is'),
        ({"thousands": "."}, r'thousands = "\.": the decimal mark is the same; set decimal = ","'),
        ({"thousands": "x"}, 'thousands = "x": between thousands stands one of'),
        ({"epoch": "ns"}, "epoch"),
        ({"flags": {"true": ["a"], "false": ["A"]}}, 'flags: "a" is listed as true and as false'),
        ({"flags": {"tru": ["a"]}}, "tru"),
        (
            {"labels": {"is_fraud": "f", "delay_days": 1, "decimal": ","}},
            "`decimal` is for label files of their own",
        ),
        (
            {"labels": {"is_fraud": "f", "delay_days": 1, "transaction_id": "pay"}},
            "`transaction_id` is for label files of their own",
        ),
        ({"labels": {"is_fraud": "f", "delay_days": 1e9}}, "less than or equal to 3650"),
        ({"path": ""}, "at least 1 character"),
        ({"labels": {"path": ""}}, "at least 1 character"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_be_is_named_when_the_configuration_is_read(
    settings: dict[str, Any], about: str
) -> None:
    with pytest.raises(ValidationError, match=about):
        FilesConfig.model_validate({"path": "x", **settings})
