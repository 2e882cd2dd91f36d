"""Where a feed's columns are found: composed ids, times since a moment, and what is said of a column that is
nowhere.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed_kit import COLUMNS, DAY, FEED, HEADER, ids, line, parquet
from payment_feeds import FilesConfig
from pydantic import ValidationError

from mlops_assets.core.data.base import Malformed, SourceError
from mlops_assets.sources.file_source import FileSource


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_all_missing_columns_are_named_at_once_with_the_nearest_names(tmp_path: Path, suffix: str) -> None:
    names = ["Id", "WHEN", "card_no", "SHOP", "AMOUNTS", "NOTE"]
    if suffix == "csv":
        (tmp_path / "feed.csv").write_text(FEED.replace(HEADER, ",".join(names) + "\n"))
    else:
        pq.write_table(pa.table({name: ["1"] for name in names}), tmp_path / "feed.parquet")
    with pytest.raises(SourceError) as refused:
        ids(tmp_path)
    said = str(refused.value)
    assert (
        "columns 'ID', 'CARD', 'AMOUNT' are missing; there are Id, WHEN, card_no, SHOP, AMOUNTS, NOTE" in said
    )
    assert "the nearest to 'ID' is 'Id'" in said
    assert "the nearest to 'CARD' is 'card_no'" in said
    assert "the nearest to 'AMOUNT' is 'AMOUNTS'" in said


def test_an_id_is_composed_of_the_same_parts_from_text_and_from_parquet(tmp_path: Path) -> None:
    columns = {**COLUMNS, "transaction_id": {"columns": ["ID", "AMOUNT", "CARD"], "separator": "/"}}
    (tmp_path / "feed.csv").write_text(FEED.replace("2.25", "2.0").replace("c3", ""))
    pq.write_table(
        pa.table(
            {
                "ID": [1.0, 2.0, 3.0],
                "AMOUNT": [1.25, 2.0, 1e17],
                "CARD": ["c1", "c2", "c3"],
                "SHOP": ["s"] * 3,
                "WHEN": [datetime(2026, 3, 1)] * 3,
            }
        ),
        tmp_path / "feed.parquet",
    )
    found = [
        FileSource(FilesConfig(path=str(tmp_path / name), columns=columns)).rows("transactions", DAY, DAY)
        for name in ("feed.csv", "feed.parquet")
    ]
    assert [table["transaction_id"].to_pylist() for table in found] == [
        ["1/1.25/c1", "2/2/c2", None],
        ["1/1.25/c1", "2/2/c2", None],
    ]
    assert found[0]["malformed"].null_count == 3  # a part is missing
    assert (
        Malformed.decode(found[1]["malformed"][2].as_py()).unread["transaction_id"].text == "3/1e+17/c3"
    )  # a part has lost digits


@pytest.mark.parametrize("kind", [pa.string(), pa.float64(), pa.float32(), pa.decimal128(10, 2)], ids=str)
def test_an_amount_is_the_same_part_of_an_id_whatever_holds_it(tmp_path: Path, kind: pa.DataType) -> None:
    amounts = pa.array(["6.50", "6.10", "-0.25", "7.00"]).cast(kind)
    whole = {name: ["x"] * 4 for name in ("CARD", "SHOP")} | {"WHEN": ["2026-03-01"] * 4}
    pq.write_table(
        pa.table({"ID": ["a", "b", "c", "d"], "AMOUNT": amounts, **whole}), tmp_path / "feed.parquet"
    )
    feed = FileSource(
        FilesConfig(path=str(tmp_path), columns={**COLUMNS, "transaction_id": {"columns": ["ID", "AMOUNT"]}})
    )
    assert feed.rows("transactions", DAY, DAY)["transaction_id"].to_pylist() == [
        "a-6.5",
        "b-6.1",
        "c--0.25",
        "d-7",
    ]


@pytest.mark.parametrize(
    ("unit", "number", "since", "time"),
    [
        ("hours", "25", "2026-02-28", "2026-03-01T01:00:00+00:00"),
        ("seconds", "0.25", "2026-03-01T10:00:00+02:00", "2026-03-01T08:00:00.250000+00:00"),
        ("minutes", "-30", "2026-03-02", "2026-03-01T23:30:00+00:00"),
        ("days", "59", "2026-01-01", "2026-03-01T00:00:00+00:00"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_time_may_be_units_since_a_moment(
    tmp_path: Path, suffix: str, unit: str, number: str, since: str, time: str
) -> None:
    if suffix == "csv":
        (tmp_path / "feed.csv").write_text((HEADER + line(1)).replace("2026-03-01 10:00:00", number))
    else:
        (tmp_path / "feed.parquet").write_bytes(parquet(WHEN=[float(number)] * 3))
    columns = {**COLUMNS, "event_timestamp": {"column": "WHEN", "unit": unit, "since": since}}
    rows = FileSource(FilesConfig.model_validate({"path": str(tmp_path), "columns": columns})).rows(
        "transactions", DAY, DAY
    )
    assert rows["event_timestamp"][0].as_py().isoformat() == time


@pytest.mark.parametrize("number", ["1e18", "soon", ""])
def test_a_number_of_units_that_is_no_time_is_kept_for_quarantine(tmp_path: Path, number: str) -> None:
    (tmp_path / "2026-03-01.csv").write_text((HEADER + line(1)).replace("2026-03-01 10:00:00", number))
    columns = {**COLUMNS, "event_timestamp": {"column": "WHEN", "unit": "hours", "since": date(2026, 3, 1)}}
    rows = FileSource(FilesConfig.model_validate({"path": str(tmp_path), "columns": columns})).rows(
        "transactions", DAY, DAY
    )
    assert rows["event_timestamp"].to_pylist() == [None]
    assert [
        Malformed.decode(text).unread["event_timestamp"].text
        for text in rows["malformed"].to_pylist()
        if text
    ] == [number] * bool(number)


@pytest.mark.parametrize(
    ("columns", "about"),
    [
        ({"amount": {"columns": ["A", "B"]}}, "`columns.amount` is no id, and cannot be composed"),
        ({"amount": {"column": "A", "unit": "hours", "since": "2026-01-01"}}, "`columns.amount` is no time"),
        (
            {"event_timestamp": {"column": "A", "unit": "weeks", "since": "2026-01-01"}},
            "'seconds', 'minutes', 'hours' or 'days'",
        ),
        ({"event_timestamp": {"column": "A", "unit": "hours"}}, "since"),
        ({"transaction_id": {"columns": ["A"]}}, "at least 2 items"),
        ({"transaction_id": 7}, "valid string"),
    ],
)
def test_a_column_that_cannot_be_had_so_is_named(columns: dict[str, object], about: str) -> None:
    with pytest.raises(ValidationError, match=about):
        FilesConfig.model_validate({"path": "feed", "columns": columns})


@pytest.mark.parametrize("encoding", ["latin-l", "base64"])
def test_an_encoding_that_nobody_knows_is_named(encoding: str) -> None:
    with pytest.raises(
        ValidationError, match=f"'{encoding}' is no text encoding; usual ones are utf-8, cp1252"
    ):
        FilesConfig(path="feed", encoding=encoding)
