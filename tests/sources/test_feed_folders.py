"""Which files of a folder are the feed."""

from __future__ import annotations

from pathlib import Path

import pytest
from feed_kit import COLUMNS, DAY, FEED, HEADER, ids, line
from payment_feeds import FilesConfig

from mlops_assets.core.data.base import SourceError
from mlops_assets.sources.file_source import FileSource


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    for number, name in ((1, "a/one.csv"), (2, "a/deep/two.csv"), (3, "b/three.csv")):
        (tmp_path / "outside" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "outside" / name).write_text(HEADER + line(number))
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "folder").symlink_to(tmp_path / "outside" / "a")
    (feed / "2026-03-01.csv").symlink_to(tmp_path / "outside" / "b" / "three.csv")
    assert sorted(ids(feed)) == ["1", "2", "3"]
    assert sorted(ids(feed / "folder")) == ["1", "2"]


def test_a_file_that_is_reached_twice_counts_once_under_its_own_name(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    (feed / "days").mkdir(parents=True)
    (feed / "days" / "2026-03-01.csv").write_text(FEED)
    (feed / "0-latest.csv").symlink_to("days/2026-03-01.csv")
    (feed / "again").symlink_to("days")
    source = FileSource(FilesConfig(path=str(feed), columns=COLUMNS))
    assert source.rows("transactions", DAY, DAY).num_rows == 3
    assert source.preview("transactions").files == (str(feed / "days" / "2026-03-01.csv"),)


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "feed" / "deep").mkdir(parents=True)
    (tmp_path / "feed" / "deep" / "up").symlink_to(tmp_path / "feed")
    (tmp_path / "feed" / "deep" / "feed.csv").write_text(FEED)
    (tmp_path / "way in").symlink_to(tmp_path / "feed" / "deep")
    assert ids(tmp_path / "feed") == ids(tmp_path / "way in") == ["1", "2", "3"]
    (tmp_path / "feed" / "a.csv").symlink_to(tmp_path / "feed" / "b.csv")
    (tmp_path / "feed" / "b.csv").symlink_to(tmp_path / "feed" / "a.csv")
    with pytest.raises(SourceError, match=r"a\.csv: cannot be opened"):
        ids(tmp_path / "feed")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(FEED)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(SourceError, match=r"gone\.csv: cannot be opened"):
        ids(tmp_path)


HIDDEN = (
    ".feed.csv",
    "_feed.csv",
    "~feed.csv",
    "~$feed.csv",
    "_temporary/0/feed.parquet",
    ".cache/feed.csv",
    "feed.csv.tmp",
    "feed.csv.part",
    "feed.csv~",
)


def test_hidden_and_temporary_names_stay_out(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(FEED)
    for name in HIDDEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half a fi")
    assert ids(tmp_path) == ["1", "2", "3"]
    assert FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS)).preview("transactions").left_out == ()


def test_what_is_no_table_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "feed.csv").write_text(FEED)
    (tmp_path / "notes.docx").write_text("what the columns mean")
    source = FileSource(FilesConfig(path=str(tmp_path), columns=COLUMNS))
    for _ in range(2):
        assert source.rows("transactions", DAY, DAY).num_rows == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"left out, because its name is not the name of a table: {tmp_path / 'notes.docx'}"
    ]
    assert source.preview("transactions").left_out == (str(tmp_path / "notes.docx"),)
