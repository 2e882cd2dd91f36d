"""Feeds of files, good and bad, one fault a test."""

from __future__ import annotations

import gzip
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from payment_feeds import (
    RAW_LABELS,
    RAW_TRANSACTIONS,
    TRANSACTION_KEY,
    TRANSACTION_ORDER,
    TRANSACTION_PREFER,
    FilesConfig,
    LabelsConfig,
    transactions_schema,
)
from pydantic import ValidationError

from mlops_assets.core.data.base import Malformed, SourceError, by_day
from mlops_assets.core.data.validation import Validation, validate
from mlops_assets.sources.feed_folder import Folder
from mlops_assets.sources.file_source import FileSource
from mlops_assets.sources.formats.content import Raw
from mlops_assets.sources.listing import DataFile

D1, D2, D3 = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)
COLUMNS = {
    "transaction_id": "ID",
    "event_timestamp": "WHEN",
    "customer_id": "CARD",
    "merchant_id": "SHOP",
    "amount": "AMOUNT",
}
HEADER = "ID,WHEN,CARD,SHOP,AMOUNT,FRAUD\n"


def table(day: date = D1, first_id: int = 1, rows: int = 3, **columns: Any) -> pa.Table:
    base: dict[str, object] = {
        "ID": list(range(first_id, first_id + rows)),
        "WHEN": [datetime(day.year, day.month, day.day, 10, minute) for minute in range(rows)],
        "CARD": [7] * rows,
        "SHOP": [9] * rows,
        "AMOUNT": [10.5 + i for i in range(rows)],
        "FRAUD": [1] + [0] * (rows - 1),
    }
    return pa.table({name: values for name, values in {**base, **columns}.items() if values is not None})


def source(path: Path, **settings: object) -> FileSource:
    return FileSource(
        FilesConfig(
            path=str(path), columns=COLUMNS, labels=LabelsConfig(is_fraud="FRAUD", delay_days=7)
        ).model_copy(update=settings)
    )


def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []
    original = Folder._read

    def noted(folder: Folder, file: DataFile) -> Raw:
        names.append(Path(file.path).name)
        return original(folder, file)

    monkeypatch.setattr(Folder, "_read", noted)
    return names


def validated(raw: pa.Table, day: date) -> Validation:
    frame = by_day(raw, day, day)[day.isoformat()].to_pandas()
    return validate(
        frame,
        transactions_schema(day),
        key=TRANSACTION_KEY,
        order=TRANSACTION_ORDER,
        prefer=TRANSACTION_PREFER,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, day in enumerate((D1, D2, D3)):
        pq.write_table(table(day, first_id=1 + 3 * i), tmp_path / f"{day}.parquet")
    return tmp_path


def test_a_feed_comes_under_canonical_names_with_fixed_types(folder: Path) -> None:
    rows = source(folder).rows("transactions", D1, D3)
    assert rows.schema.equals(RAW_TRANSACTIONS)
    assert rows["transaction_id"].to_pylist() == [str(i) for i in range(1, 10)]
    assert rows["event_timestamp"][0].as_py().isoformat() == "2026-03-01T10:00:00+00:00"
    assert set(rows["is_declined"].to_pylist()) == {False}


def test_without_a_created_column_a_row_is_known_when_it_happened(folder: Path) -> None:
    rows = source(folder).rows("transactions", D1, D3)
    assert rows["created_timestamp"].equals(rows["event_timestamp"])


def test_only_the_files_of_the_range_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = files_read(monkeypatch)
    assert source(folder).rows("transactions", D2, D2).num_rows == 3
    assert read == [f"{D2}.parquet"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_of_other_days_are_found_whatever_the_name_of_their_file_says(
    tmp_path: Path, suffix: str
) -> None:
    mixed = table(D1, WHEN=[datetime(2026, 3, 1, 10), datetime(2026, 3, 3, 1), datetime(2026, 3, 2, 5)])
    if suffix == "csv":
        mixed.to_pandas().to_csv(tmp_path / f"{D1}.csv", index=False)
    else:
        pq.write_table(mixed, tmp_path / f"{D1}.parquet")
    feed = source(tmp_path)
    assert [feed.rows("transactions", day, day)["transaction_id"].to_pylist() for day in (D1, D2, D3)] == [
        ["1"],
        ["3"],
        ["2"],
    ]


def test_a_late_row_comes_on_its_day_of_arrival(tmp_path: Path) -> None:
    late = table(D1, CREATED=[datetime(2026, 3, 1, 10), datetime(2026, 3, 3, 4), datetime(2026, 3, 1, 10, 2)])
    pq.write_table(late, tmp_path / "all.parquet")
    feed = source(tmp_path, columns={**COLUMNS, "created_timestamp": "CREATED"})
    assert feed.rows("transactions", D1, D1)["transaction_id"].to_pylist() == ["1", "3"]
    assert feed.rows("transactions", D3, D3)["transaction_id"].to_pylist() == ["2"]


def test_a_row_without_a_created_time_in_a_feed_that_has_them_is_quarantined(tmp_path: Path) -> None:
    pq.write_table(
        table(D1, CREATED=[datetime(2026, 3, 1, 10), None, datetime(2026, 3, 1, 11)]),
        tmp_path / f"{D1}.parquet",
    )
    outcome = validated(
        source(tmp_path, columns={**COLUMNS, "created_timestamp": "CREATED"}).rows("transactions", D1, D1), D1
    )
    assert outcome.reasons == {"created_timestamp: missing": 1}


def test_one_file_for_everything_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.concat([table(day, first_id=10 * i).to_pandas() for i, day in enumerate((D1, D2, D3))]).to_csv(
        tmp_path / "feed.csv", index=False
    )
    read = files_read(monkeypatch)
    feed = source(tmp_path / "feed.csv")
    assert [feed.rows("transactions", day, day).num_rows for day in (D1, D2, D3)] == [3, 3, 3]
    assert read == ["feed.csv"]


def test_a_file_that_is_replaced_is_read_anew(folder: Path) -> None:
    feed = source(folder)
    assert feed.rows("transactions", D2, D2).num_rows == 3
    pq.write_table(table(D2, first_id=4, rows=5), folder / f"{D2}.parquet")
    assert feed.rows("transactions", D2, D2).num_rows == 5


def test_a_day_without_a_file_has_no_rows(folder: Path) -> None:
    assert source(folder).rows("transactions", date(2026, 4, 1), date(2026, 4, 2)).num_rows == 0


def test_the_split_by_day_has_every_day_and_loses_nothing(folder: Path) -> None:
    days = by_day(source(folder).rows("transactions", D1, date(2026, 3, 4)), D1, date(2026, 3, 4))
    assert {day: rows.num_rows for day, rows in days.items()} == {
        "2026-03-01": 3,
        "2026-03-02": 3,
        "2026-03-03": 3,
        "2026-03-04": 0,
    }
    assert "arrival_day" not in days["2026-03-01"].column_names


def test_compressed_csv_and_a_memory_filesystem_are_read_as_well(tmp_path: Path) -> None:
    import fsspec

    text = HEADER + "1,2026-03-01 10:00:00,7,9,5.25,0\n"
    (tmp_path / "feed.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert source(tmp_path).rows("transactions", D1, D1)["amount"].to_pylist() == [5.25]
    fsspec.filesystem("memory").pipe_file("/a-feed/2026-03-01.csv", text.encode())
    assert (
        FileSource(FilesConfig(path="memory://a-feed", columns=COLUMNS)).rows("transactions", D1, D1).num_rows
        == 1
    )


def test_a_row_without_a_readable_time_arrives_with_the_row_above_it(tmp_path: Path) -> None:
    times = ["n/a", "2010-01-01 00:00:00", "2026-03-01 10:00:00", "10 Uhr", "2026-03-02 10:00:00", "-"]
    (tmp_path / "all.csv").write_text(
        HEADER + "".join(f"{n},{when},7,9,5,0\n" for n, when in enumerate(times))
    )
    feed = source(tmp_path)
    assert feed.rows("transactions", date(2010, 1, 1), date(2010, 1, 1))["transaction_id"].to_pylist() == [
        "0",
        "1",
    ]
    assert feed.rows("transactions", D1, D1)["transaction_id"].to_pylist() == ["2", "3"]
    assert feed.rows("transactions", date(2026, 3, 2), date(2026, 3, 9))["transaction_id"].to_pylist() == [
        "4",
        "5",
    ]


# Labels


def test_a_reported_fraud_is_a_label_a_delay_after_its_transaction_and_a_zero_is_none(folder: Path) -> None:
    labels = source(folder).rows("labels", date(2026, 3, 8), date(2026, 3, 9))
    assert labels.schema.equals(RAW_LABELS)
    assert labels["transaction_id"].to_pylist() == ["1", "4"]
    assert labels["label_timestamp"][0].as_py().isoformat() == "2026-03-08T10:00:00+00:00"
    assert source(folder).rows("labels", D1, date(2026, 3, 7)).num_rows == 0


def test_a_zero_is_a_label_where_the_feed_says_so(folder: Path) -> None:
    labels = source(folder, labels=LabelsConfig(is_fraud="FRAUD", delay_days=7, legitimate=True)).rows(
        "labels", date(2026, 3, 8), date(2026, 3, 8)
    )
    assert labels["is_fraud"].to_pylist() == [True, False, False]


def test_the_label_of_a_late_row_is_not_known_before_the_row(tmp_path: Path) -> None:
    pq.write_table(table(D1, rows=1, CREATED=[datetime(2026, 3, 20, 4)]), tmp_path / "all.parquet")
    feed = source(tmp_path, columns={**COLUMNS, "created_timestamp": "CREATED"})
    assert feed.rows("labels", date(2026, 3, 1), date(2026, 3, 19)).num_rows == 0
    assert feed.rows("labels", date(2026, 3, 20), date(2026, 3, 20))["transaction_id"].to_pylist() == ["1"]


@pytest.mark.parametrize("legitimate", [False, True])
def test_a_payment_that_was_never_reported_needs_no_time_of_a_label(tmp_path: Path, legitimate: bool) -> None:
    header = HEADER.strip() + ",REPORTED\n"
    (tmp_path / "a.csv").write_text(header + "1,2026-03-01 10:00:00,7,9,5,,\n")
    (tmp_path / "b.csv").write_text(
        header + "2,2026-03-01 10:00:00,7,9,5,1,2026-03-03 10:00:00\n3,2026-03-01 10:00:00,7,9,5,maybe,\n"
    )
    labels = LabelsConfig(is_fraud="FRAUD", label_timestamp="REPORTED", legitimate=legitimate)
    feed = source(tmp_path, labels=labels)
    assert feed.rows("labels", D1, date(2026, 3, 9))["transaction_id"].to_pylist() == ["2", "3"]
    (tmp_path / "c.csv").write_text(
        header + "4,2026-03-01 10:00:00,7,9,5,0,\n5,2026-03-01 10:00:00,7,9,5,1,\n"
    )
    with pytest.raises(
        SourceError,
        match=(
            r"c\.csv: no value of column 'REPORTED' is a time, so its rows belong to no day; the first is"
            r" missing"
        ),
    ):
        feed.rows("labels", D1, D1)


def test_a_label_that_cannot_be_read_is_kept_for_quarantine(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(
        HEADER + "1,2026-03-01 10:00:00,7,9,5,maybe\n2,2026-03-01 10:00:00,7,9,5,\n"
    )
    labels = source(tmp_path).rows("labels", date(2026, 3, 8), date(2026, 3, 8))
    (unread,) = [Malformed.decode(text).unread for text in labels["malformed"].to_pylist()]
    assert {name: value.text for name, value in unread.items()} == {"is_fraud": "maybe"}


def test_labels_in_files_of_their_own_are_taken_as_they_are(folder: Path) -> None:
    own = folder / "labels"
    own.mkdir()
    (own / "chargebacks.csv").write_text("tx,at\n4,2026-03-05T09:00:00Z\n")
    labels = LabelsConfig(path=str(own), transaction_id="tx", label_timestamp="at")
    rows = FileSource(FilesConfig(path=str(folder / f"{D1}.parquet"), columns=COLUMNS, labels=labels)).rows(
        "labels", D1, date(2026, 3, 9)
    )
    assert rows.select(["transaction_id", "is_fraud"]).to_pylist() == [
        {"transaction_id": "4", "is_fraud": True}
    ]


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"path": "x", "colums": {}}, "colums"),
        ({"path": "x", "columns": {"amuont": "A"}}, "amuont"),
        ({"path": "x", "labels": {"is_fraud": "F"}}, "delay_days"),
        ({"path": "x", "labels": {"path": "y", "delay_days": 7}}, "delay_days"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(settings: dict[str, object], about: str) -> None:
    with pytest.raises(ValidationError, match=about):
        FilesConfig.model_validate(settings)


# Bad files


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        source(tmp_path / "nowhere").rows("transactions", D1, D1)


def test_a_folder_without_any_feed_is_named(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(SourceError, match=r"holds no file that ends in \.parquet"):
        source(tmp_path).rows("transactions", D1, D1)


@pytest.mark.parametrize("name", ["2026-03-02.parquet", "2026-03-02.csv"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SourceError, match=rf"{name}: is empty"):
        source(tmp_path).rows("transactions", D2, D2)


def test_a_file_with_a_header_only_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "2026-03-02.csv").write_text(HEADER)
    pq.write_table(table(rows=1).slice(0, 0), tmp_path / "2026-03-03.parquet")
    assert source(tmp_path).rows("transactions", D1, D3).num_rows == 0


def test_a_truncated_file_is_named_on_its_day_and_does_not_stop_the_others(folder: Path) -> None:
    path = folder / f"{D2}.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SourceError, match=rf"{D2}\.parquet: cannot be read as Parquet"):
        source(folder).rows("transactions", D1, D3)
    assert source(folder).rows("transactions", D3, D3).num_rows == 3


def test_a_truncated_file_whose_name_says_no_day_stops_every_day(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "feed.parquet")
    (tmp_path / "feed.parquet").write_bytes((tmp_path / "feed.parquet").read_bytes()[:100])
    with pytest.raises(SourceError, match=r"feed\.parquet"):
        source(tmp_path).rows("transactions", D3, D3)


@pytest.mark.parametrize("gone", ["ID", "WHEN", "CARD", "SHOP", "AMOUNT"])
def test_a_missing_or_renamed_column_is_named_with_those_that_are_there(tmp_path: Path, gone: str) -> None:
    renamed = table().rename_columns([name if name != gone else "X_" + name for name in table().column_names])
    pq.write_table(renamed, tmp_path / f"{D1}.parquet")
    with pytest.raises(
        SourceError, match=rf"{D1}\.parquet: column '{gone}' is missing; there are .*X_{gone}"
    ):
        source(tmp_path).rows("transactions", D1, D1)


def test_a_column_that_the_configuration_names_has_to_be_there(folder: Path) -> None:
    with pytest.raises(SourceError, match="'REFUSED' is missing"):
        source(folder, columns={**COLUMNS, "is_declined": "REFUSED"}).rows("transactions", D1, D1)


def test_extra_columns_are_ignored(tmp_path: Path) -> None:
    pq.write_table(table(NOTE=["a", "b", "c"]), tmp_path / "feed.parquet")
    assert source(tmp_path).rows("transactions", D1, D1).schema.equals(RAW_TRANSACTIONS)


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / f"{D1}.csv").write_bytes(
        (HEADER + "1,2026-03-01 10:00:00,7,9,5,0\n").encode() + b"2,2026-03-01 10:00:00,caf\xe9,9,5,0\n"
    )
    with pytest.raises(SourceError, match=rf"{D1}\.csv, line 3: the byte 0xe9 is not UTF-8; set encoding"):
        source(tmp_path).rows("transactions", D1, D1)


def test_a_row_of_too_few_values_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{D1}.csv").write_text(HEADER + "1,2026-03-01 10:00:00,7\n")
    with pytest.raises(SourceError, match=rf"{D1}\.csv, line 2: has 3 values where the header has 6 columns"):
        source(tmp_path).rows("transactions", D1, D1)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("AMOUNT", [[1.0], [2.0], [3.0]]),
        ("WHEN", [1, 2, 3]),
        ("CARD", [True, False, True]),
        ("AMOUNT", [True, True, False]),
    ],
)
def test_a_column_of_a_type_that_cannot_be_converted_is_named(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    pq.write_table(table(D1, 1, 3, **{column: values}), tmp_path / f"{D1}.parquet")
    with pytest.raises(
        SourceError, match=rf"{D1}\.parquet: column '{column}' is of type .*, which cannot be read as"
    ):
        source(tmp_path).rows("transactions", D1, D1)


def test_numbers_as_text_are_read_and_those_that_are_none_are_quarantined_with_what_stood_there(
    tmp_path: Path,
) -> None:
    pq.write_table(table(AMOUNT=["10.5", "1,5", "12"]), tmp_path / f"{D1}.parquet")
    outcome = validated(source(tmp_path).rows("transactions", D1, D1), D1)
    assert outcome.accepted["amount"].tolist() == [10.5, 12.0]
    assert outcome.quarantined[["transaction_id", "amount"]].to_numpy().tolist() == [["2", "1,5"]]
    assert outcome.reasons == {"amount: not a number": 1}


def test_identifiers_never_become_decimals(tmp_path: Path) -> None:
    pq.write_table(table(CARD=pa.array([123.0, None, 5.0])), tmp_path / f"{D1}.parquet")
    outcome = validated(source(tmp_path).rows("transactions", D1, D1), D1)
    assert outcome.accepted["customer_id"].tolist() == ["123", "5"]
    assert outcome.reasons == {"customer_id: missing": 1}


def test_a_row_whose_time_cannot_be_read_is_quarantined_on_the_day_of_its_file(tmp_path: Path) -> None:
    (tmp_path / f"{D2}.csv").write_text(
        HEADER + "1,2026-03-02 10:00:00,7,9,5,0\n2,yesterday,7,9,5,0\n3,1970-01-01 00:00:00,7,9,5,0\n"
    )
    outcome = validated(source(tmp_path).rows("transactions", D2, D2), D2)
    assert outcome.counts == {"received": 3, "accepted": 1, "duplicate": 0, "quarantined": 2}
    assert sorted(outcome.quarantined["event_timestamp"]) == ["1970-01-01T00:00:00.000000Z", "yesterday"]
    assert outcome.reasons == {
        f"{time}: {what}": 1
        for time in ("event_timestamp", "created_timestamp")
        for what in ("before 2000-01-01", "not a time")
    }


def test_a_file_none_of_whose_rows_belongs_to_a_day_is_named(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(HEADER + "1,01/03/2026,7,9,5,0\n")
    with pytest.raises(
        SourceError,
        match=(
            r"feed\.csv: no value of column 'WHEN' is a time.* the first is \"01/03/2026\", not a time; write"
        ),
    ):
        source(tmp_path).rows("transactions", D1, D1)


def test_a_zone_is_minded_and_no_zone_is_utc(tmp_path: Path) -> None:
    rows = [
        "1,2026-03-29T02:30:00+02:00,7,9,5,0",
        "2,2026-03-29T02:30:00,7,9,5,0",
        "3,2026-03-29T00:30:00Z,7,9,5,0",
    ]  # an hour that Paris skips
    (tmp_path / "feed.csv").write_text(HEADER + "\n".join(rows) + "\n")
    day = date(2026, 3, 29)
    times = source(tmp_path).rows("transactions", day, day)["event_timestamp"].to_pylist()
    assert [time.hour for time in times] == [0, 2, 0]


def test_ten_times_the_usual_rows_are_all_delivered(tmp_path: Path) -> None:
    pq.write_table(table(D1, rows=50), tmp_path / f"{D1}.parquet")
    assert source(tmp_path).rows("transactions", D1, D1).num_rows == 50
