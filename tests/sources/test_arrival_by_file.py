"""`arrival = "file"`: the day in a file's name is when its rows arrived, whatever the times in them say."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pytest
from payment_feeds import (
    LABEL_KEY,
    LABEL_ORDER,
    TRANSACTION_KEY,
    TRANSACTION_ORDER,
    TRANSACTION_PREFER,
    FilesConfig,
    LabelsConfig,
    labels_schema,
    transactions_schema,
)
from pydantic import ValidationError

from mlops_assets.core.data.base import SourceError, by_day
from mlops_assets.core.data.validation import Validation, validate
from mlops_assets.sources.feed_folder import Folder
from mlops_assets.sources.file_source import FileSource
from mlops_assets.sources.listing import named_day

D1, D2, D3, D9 = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 9)
HEADER = "transaction_id,event_timestamp,customer_id,merchant_id,amount,is_fraud\n"


def write(path: Path, *rows: tuple[str, str], fraud: int = 0) -> None:
    """Rows of an id and an event time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(f"{number},{time},7,9,5.5,{fraud}\n" for number, time in rows))


def source(path: Path, **settings: object) -> FileSource:
    return FileSource(FilesConfig.model_validate({"path": str(path), "arrival": "file", **settings}))


def transactions_of(feed: FileSource, day: date) -> Validation:
    frame = by_day(feed.rows("transactions", day, day), day, day)[day.isoformat()].to_pandas()
    return validate(
        frame,
        transactions_schema(day),
        key=TRANSACTION_KEY,
        order=TRANSACTION_ORDER,
        prefer=TRANSACTION_PREFER,
    )


def labels_of(feed: FileSource, day: date) -> Validation:
    frame = by_day(feed.rows("labels", day, day), day, day)[day.isoformat()].to_pandas()
    return validate(frame, labels_schema(day), key=LABEL_KEY, order=LABEL_ORDER)


def test_a_later_file_with_rows_of_days_before_arrives_on_its_own_day(tmp_path: Path) -> None:
    write(tmp_path / "2026-03-01.csv", ("1", "2026-03-01 10:00"), ("2", "2026-03-01 11:00"))
    write(tmp_path / "2026-03-03.csv", ("3", "2026-03-01 12:00"), ("4", "2026-03-03 09:30"))
    by_rows = source(tmp_path, arrival="rows")
    assert [by_rows.rows("transactions", day, day)["transaction_id"].to_pylist() for day in (D1, D3)] == [
        ["1", "2", "3"],
        ["4"],
    ]
    feed = source(tmp_path)
    assert [feed.rows("transactions", day, day)["transaction_id"].to_pylist() for day in (D1, D2, D3)] == [
        ["1", "2"],
        [],
        ["3", "4"],
    ]


def test_a_row_is_known_from_the_first_moment_of_its_files_day_that_is_not_before_its_event(
    tmp_path: Path,
) -> None:
    write(tmp_path / "2026-03-03.csv", ("3", "2026-03-01 12:00"), ("4", "2026-03-03 09:30"))
    accepted = transactions_of(source(tmp_path), D3).accepted
    assert [time.isoformat() for time in accepted["created_timestamp"]] == [
        "2026-03-03T00:00:00+00:00",
        "2026-03-03T09:30:00+00:00",
    ]
    assert [time.isoformat() for time in accepted["event_timestamp"]] == [
        "2026-03-01T12:00:00+00:00",
        "2026-03-03T09:30:00+00:00",
    ]


def test_an_event_after_the_files_day_is_quarantined(tmp_path: Path) -> None:
    write(tmp_path / "2026-03-02.csv", ("1", "2026-03-02 23:59:59.999999"), ("2", "2026-03-03 00:00"))
    outcome = transactions_of(source(tmp_path), D2)
    assert outcome.accepted["transaction_id"].tolist() == ["1"]
    assert set(outcome.reasons) == {
        "event_timestamp: after its day of arrival",
        "created_timestamp: after its day of arrival",
    }


def test_a_feeds_own_created_time_is_kept_where_it_lies_on_the_files_day(tmp_path: Path) -> None:
    header = HEADER.replace("is_fraud", "created_timestamp")
    times = ("2026-03-02 06:00", "2026-03-01 23:00", "2026-03-03 01:00", "")
    rows = "".join(f"{number},2026-03-01 10:00,7,9,5.5,{time}\n" for number, time in enumerate(times))
    (tmp_path / "2026-03-02.csv").write_text(header + rows)
    outcome = transactions_of(source(tmp_path), D2)
    created = dict(
        zip(outcome.accepted["transaction_id"], outcome.accepted["created_timestamp"], strict=True)
    )
    assert {number: time.isoformat() for number, time in created.items()} == {
        "0": "2026-03-02T06:00:00+00:00",
        "1": "2026-03-02T00:00:00+00:00",
    }
    assert outcome.reasons == {
        "created_timestamp: after its day of arrival": 1,
        "created_timestamp: missing": 1,
    }


def test_rows_whose_time_cannot_be_read_are_quarantined_on_the_files_day(tmp_path: Path) -> None:
    write(tmp_path / "2026-03-02.csv", ("1", "yesterday"), ("2", "1970-01-01"), ("3", ""))
    assert transactions_of(source(tmp_path), D2).counts == {
        "received": 3,
        "accepted": 0,
        "duplicate": 0,
        "quarantined": 3,
    }


@pytest.mark.parametrize("name", ["feed.csv", "2026-13-01.csv", "2026.csv", "01-03-2026.csv"])
def test_a_file_without_a_day_in_its_name_is_refused_whatever_its_modification_time(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path / name, ("1", "2026-03-01 10:00"))
    write(tmp_path / "2026-03-01.csv", ("2", "2026-03-01 10:00"))
    with pytest.raises(
        SourceError,
        match=rf'{name}: its name holds no day, and arrival = "file" .*name it like 2026-03-01\.csv',
    ):
        source(tmp_path).rows("transactions", D1, D1)


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("2026-03-01.csv", D1),
        ("tx_20260301.csv.gz", D1),
        ("2026/03/01/part-0.parquet", D1),
        ("day=2026-03-01/part-0.parquet", D1),
        ("tx-20260301T0615.csv", D1),
        ("tx-20260301061500.csv", D1),
        ("2026-03-01_to_2026-03-03.csv", D3),
        ("export-2026-03-02/tx-2026-03-01.csv", D1),
        ("2026-02-30.csv", None),
        ("account-20260301999.csv", None),
    ],
)
def test_the_last_day_in_a_path_counts(path: str, day: date | None) -> None:
    assert named_day(path) == day


def test_only_the_file_of_the_day_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (D1, D2, D3):
        write(tmp_path / f"{day}.csv", (str(day.day), f"{D1} 10:00"))
    (tmp_path / f"{D2}.csv").write_text("cut o")
    opened: list[str] = []
    original = Folder._read
    monkeypatch.setattr(
        Folder, "_read", lambda folder, file: opened.append(file.name) or original(folder, file)
    )
    assert source(tmp_path).rows("transactions", D3, D3)["transaction_id"].to_pylist() == ["3"]
    assert opened == [f"{D3}.csv"]
    with pytest.raises(SourceError, match=rf"{D2}\.csv: .* are missing"):
        source(tmp_path).rows("transactions", D1, D3)


# Labels


def test_labels_in_the_transactions_files_are_due_after_the_delay_but_not_before_their_file(
    tmp_path: Path,
) -> None:
    write(tmp_path / "2026-03-03.csv", ("1", "2026-03-01 12:00"), ("2", "2026-03-03 09:30"), fraud=1)
    feed = source(tmp_path, labels={"delay_days": 1})
    assert labels_of(feed, D3).accepted["label_timestamp"].tolist() == [
        datetime.fromisoformat("2026-03-03T00:00:00+00:00")
    ]
    assert labels_of(feed, date(2026, 3, 4)).accepted["transaction_id"].tolist() == ["2"]


def test_label_files_may_say_their_day_in_their_name_only(tmp_path: Path) -> None:
    write(tmp_path / "tx" / "2026-03-01.csv", ("1", "2026-03-01 10:00"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "chargebacks-20260309.csv").write_text("transaction_id\n1\n2\n")
    feed = source(
        tmp_path / "tx", arrival="rows", labels={"path": str(tmp_path / "labels"), "arrival": "file"}
    )
    assert labels_of(feed, D9).accepted.to_dict("records") == [
        {
            "transaction_id": number,
            "is_fraud": True,
            "label_timestamp": datetime.fromisoformat("2026-03-09T00:00:00+00:00"),
        }
        for number in ("1", "2")
    ]
    assert feed.rows("labels", D1, D3).num_rows == 0


def test_a_label_is_known_on_its_files_day_at_the_earliest_and_never_after_it(tmp_path: Path) -> None:
    write(tmp_path / "tx" / "2026-03-01.csv", ("1", "2026-03-01 10:00"))
    (tmp_path / "labels").mkdir()
    rows = "1,2026-03-05 08:00\n2,2026-03-09 08:00\n3,2026-03-10 08:00\n4,soon\n"
    (tmp_path / "labels" / "2026-03-09.csv").write_text("transaction_id,label_timestamp\n" + rows)
    outcome = labels_of(
        source(tmp_path / "tx", labels={"path": str(tmp_path / "labels"), "arrival": "file"}), D9
    )
    assert [time.isoformat() for time in outcome.accepted["label_timestamp"]] == [
        "2026-03-09T00:00:00+00:00",
        "2026-03-09T08:00:00+00:00",
    ]
    assert outcome.reasons == {
        "label_timestamp: after its day of arrival": 1,
        "label_timestamp: not a time": 1,
    }


def test_labels_in_the_transactions_files_have_no_arrival_of_their_own() -> None:
    with pytest.raises(ValidationError, match="`arrival` is for label files of their own"):
        LabelsConfig(delay_days=7, arrival="file")


def test_a_preview_says_the_days_of_all_files_and_opens_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (D1, D2, D3):
        write(tmp_path / f"{day}.csv", ("1", f"{D1} 10:00"), ("2", f"{D1} 11:00"))
    opened: list[str] = []
    original = Folder._read
    monkeypatch.setattr(
        Folder, "_read", lambda folder, file: opened.append(file.name) or original(folder, file)
    )
    preview = source(tmp_path).preview("transactions", rows=1)
    assert (preview.days, preview.unread, opened) == ((D1, D3), 0, [f"{D1}.csv"])
    assert preview.rows["transaction_id"].to_pylist() == ["1"]
    assert (
        preview.mapping["created_timestamp"]
        == "missing, event_timestamp, not before the day in the file's name"
    )
    by_rows = source(tmp_path, arrival="rows").preview("transactions")
    assert (by_rows.days, by_rows.unread, by_rows.rows.num_rows) == ((D1, D1), 2, 2)
