"""A file with rows of days that are made or have not come, a feed of labels that fits no transaction: told,
with what to do, and mended by it.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from payment_feeds import PAYMENTS, REPORTS, FilesConfig, LabelsConfig
from world import World, at, checks, metadata, served

from mlops_assets.resources.config_sections import Time, Verdicts
from mlops_assets.resources.environments import Settings
from mlops_assets.sources.feed_folder import Folder
from mlops_assets.sources.file_source import FileSource
from mlops_assets.steps.ingest.feed_checks import Behind, behind, last_to_come, look
from mlops_assets.use_cases.fraud.case import FRAUD

DAYS = ["2025-03-05", "2025-03-06", "2025-03-07"]
PAID = "transaction_id,event_timestamp,created_timestamp,customer_id,merchant_id,amount"


def source(folder: Path) -> FileSource:
    """As a process of its own would open it: nothing of the files is remembered."""
    labels = LabelsConfig(path=str(folder / "labels"), is_fraud="is_fraud", label_timestamp="label_timestamp")
    return FileSource(FilesConfig(path=str(folder / "paid"), labels=labels))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("paid", "labels"):
        (tmp_path / name).mkdir()
    for day in DAYS:
        paid(tmp_path, f"{day}.csv", (f"{day}-{n}" for n in range(4)), day)
        reported(tmp_path, f"{day}.csv", [f"{day}-0"], day)
    return tmp_path


@pytest.fixture
def endless(settings: Settings) -> Settings:
    return replace(settings, time=Time(settings.time.start))


def paid(folder: Path, name: str, ids: Iterable[str], day: str) -> None:
    lines = [f"{one},{day}T08:00:00Z,{day}T08:00:01Z,c{n},m1,{n + 1}" for n, one in enumerate(ids)]
    (folder / "paid" / name).write_text("\n".join([PAID, *lines, ""]))


def reported(folder: Path, name: str, ids: Iterable[str], day: str) -> None:
    (folder / "labels" / name).write_text(
        "\n".join(
            ["transaction_id,is_fraud,label_timestamp", *(f"{one},1,{day}T20:00:00Z" for one in ids), ""]
        )
    )


@pytest.mark.slow
def test_rows_of_days_that_are_made_fail_the_check_until_the_days_are_made_again(
    settings: Settings, folder: Path
) -> None:
    world = World(settings, source(folder))
    world.ingest(DAYS[0], DAYS[1])
    paid(folder, "again.csv", ("late-1", "late-2", "late-3"), DAYS[0])
    reported(folder, "again.csv", ("late-1",), DAYS[1])
    later = World(settings, source(folder))
    left = checks(later.make("raw_transactions", DAYS[2]))["nothing_left_behind"]
    assert not left.passed
    assert metadata(left, "rows") == 3
    assert metadata(left, "days") == "2025-03-05: 3 more than were ingested"
    assert f"`mlops backfill --from {DAYS[0]} --to {DAYS[2]}`" in metadata(left, "what to do")
    assert 'arrival = "file"' in metadata(left, "what to do")
    assert (
        metadata(checks(later.make("raw_labels", DAYS[2]))["nothing_left_behind"], "days")
        == "2025-03-06: 1 more than were ingested"
    )

    mended = World(settings, source(folder))
    assert checks(mended.make("raw_transactions", DAYS[0], DAYS[2]))["nothing_left_behind"].passed
    mended.ingest(DAYS[0], DAYS[2])
    assert checks(mended.make("raw_labels", DAYS[1]))["nothing_left_behind"].passed
    whole = World(replace(settings, home=folder / "other"), source(folder))
    whole.ingest(DAYS[0], DAYS[2])
    datasets = ("transactions", "labels", "verdicts")
    assert mended.digests(DAYS[0], DAYS[2], *datasets) == whole.digests(DAYS[0], DAYS[2], *datasets)
    assert "late-1" in {row["transaction_id"] for row in mended.rows("verdicts", *DAYS)}


def test_only_new_and_changed_files_are_read_again(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    World(settings, source(folder)).ingest(DAYS[0], DAYS[1])
    paid(folder, f"{DAYS[1]}.csv", [f"{DAYS[1]}-{n}" for n in range(6)], DAYS[1])  # it grew
    paid(folder, "new.csv", ["new"], DAYS[0])
    read: list[str] = []
    reads = Folder._read
    monkeypatch.setattr(
        Folder, "_read", lambda self, file: read.append(Path(file.path).name) or reads(self, file)
    )
    left = checks(World(settings, source(folder)).make("raw_transactions", DAYS[2]))["nothing_left_behind"]
    assert metadata(left, "rows") == 3
    assert sorted(read) == [f"{DAYS[1]}.csv", f"{DAYS[2]}.csv", "new.csv"]


def test_a_day_that_the_service_served_is_none_of_the_files_business(
    settings: Settings, folder: Path
) -> None:
    world = World(settings, source(folder))
    served(world, "from_log", at(DAYS[0]), {})
    world.ingest(DAYS[0], DAYS[1])
    paid(folder, "again.csv", ("late",), DAYS[0])
    assert checks(World(settings, source(folder)).make("raw_transactions", DAYS[2]))[
        "nothing_left_behind"
    ].passed
    settings.serving_db.unlink()  # the lake knows by itself where a day came from
    assert checks(World(settings, source(folder)).make("raw_transactions", DAYS[2]))[
        "nothing_left_behind"
    ].passed


def test_a_file_that_was_tidied_away_is_to_be_put_back_before_its_day_is_made_again(
    settings: Settings, folder: Path
) -> None:
    World(settings, source(folder)).make("raw_transactions", DAYS[0], DAYS[1])
    (folder / "paid" / f"{DAYS[1]}.csv").unlink()
    paid(folder, "late.csv", ["late"], DAYS[0])
    left = checks(World(settings, source(folder)).make("raw_transactions", DAYS[2]))["nothing_left_behind"]
    assert metadata(left, "what to do").startswith(
        f"put back {folder}/paid/{DAYS[1]}.csv first: days are ingested from the files that exist; `mlops"
    )


@pytest.mark.parametrize("name", ["clock.csv", "later/clock.csv"])
def test_rows_of_days_that_have_not_come_fail_the_check_with_file_day_and_count(
    endless: Settings, folder: Path, name: str
) -> None:
    for feed, write in (("paid", paid), ("labels", reported)):
        (folder / feed / name).parent.mkdir(exist_ok=True)
        write(folder, name, ["ahead"], "2093-03-05")
    world = World(endless, source(folder))
    for raw in ("raw_transactions", "raw_labels"):
        left = checks(world.make(raw, DAYS[0], DAYS[2]))["nothing_left_behind"]
        assert not left.passed
        assert metadata(left, "rows of future days").endswith(f"{name}: 1 row of 2093-03-05")
        assert f"{name}, or move the file away" in metadata(left, "what to do")
        assert metadata(left, "rows") == 0
    (folder / "paid" / name).unlink()
    assert checks(World(endless, source(folder)).make("raw_transactions", DAYS[2]))[
        "nothing_left_behind"
    ].passed


def test_a_day_that_begins_elsewhere_and_the_days_of_a_calendar_with_an_end_are_not_ahead(
    endless: Settings, folder: Path
) -> None:
    paid(folder, "all.csv", ["ahead"], "2093-03-05")
    today, feed = date(2093, 3, 4), source(folder)
    world = World(endless, feed)
    world.make("raw_transactions", DAYS[0], DAYS[2])

    def left(settings: Settings, today: date) -> Behind:
        coming = last_to_come(settings, today)
        return behind(
            FRAUD,
            world.lake,
            settings,
            PAYMENTS,
            look(world.lake, PAYMENTS, feed, DAYS, coming),
            coming,
        )

    assert not left(endless, today)
    assert left(endless, today - timedelta(days=1)).ahead == {
        str(folder / "paid" / "all.csv"): {"2093-03-05": 1}
    }
    assert not left(replace(endless, time=Time(endless.time.start, date(2099, 1, 1))), date(2026, 1, 1))


def test_labels_that_become_due_later_are_not_ahead(endless: Settings, folder: Path) -> None:
    (folder / "paid" / "today.csv").write_text(
        f"{PAID},fraud\nfresh,{DAYS[2]}T08:00:00Z,{DAYS[2]}T08:00:00Z,c1,m1,1,1\n"
    )
    for day in DAYS:
        (folder / "paid" / f"{day}.csv").unlink()
    feed = FileSource(
        FilesConfig(path=str(folder / "paid"), labels=LabelsConfig(is_fraud="fraud", delay_days=7))
    )
    world = World(endless, feed)
    world.make("raw_labels", DAYS[0], DAYS[2])
    for today, ahead in ((date(2025, 3, 7), 0), (date(2025, 3, 5), 1)):
        coming = last_to_come(endless, today)
        found = behind(
            FRAUD, world.lake, endless, REPORTS, look(world.lake, REPORTS, feed, DAYS, coming), coming
        )
        assert len(found.ahead) == ahead


def test_rows_outside_of_the_calendar_are_told_where_their_file_has_others_too(
    settings: Settings, folder: Path
) -> None:
    lines = [
        f"r{n},{day}T08:00:00Z,{day}T08:00:01Z,c1,m1,1"
        for n, day in enumerate(["2010-01-01", *DAYS, "2025-04-01"])
    ]
    (folder / "paid" / "till.csv").write_text("\n".join([PAID, *lines, ""]))
    calendar = Time(date.fromisoformat(DAYS[0]), date.fromisoformat(DAYS[2]))
    left = checks(
        World(replace(settings, time=calendar), source(folder)).make("raw_transactions", DAYS[0], DAYS[2])
    )["nothing_left_behind"]
    assert left.passed
    assert metadata(left, "left out by [time]") == (
        f"{folder}/paid/till.csv: 1 row of 2010-01-01, before [time] start = 2025-03-05; "
        f"{folder}/paid/till.csv: 1 row of 2025-04-01, after [time] end = 2025-03-07"
    )


def test_a_served_day_is_made_without_the_files(settings: Settings, folder: Path) -> None:
    world = World(settings, FileSource(FilesConfig(path=str(folder / "nowhere"))))
    served(world, "from_log", at(DAYS[0]), {})
    world.make("prediction_log", DAYS[0])
    left = checks(world.make("raw_transactions", DAYS[0]))["nothing_left_behind"]
    assert [row["transaction_id"] for row in world.rows("raw_transactions", DAYS[0])] == ["from_log"]
    assert not left.passed
    assert "nowhere" in metadata(left, "files that cannot be read")


def test_a_later_file_that_cannot_be_read_is_told(settings: Settings, folder: Path) -> None:
    World(settings, source(folder)).ingest(DAYS[0], DAYS[1])
    (folder / "paid" / f"{DAYS[0]}-again.csv").write_bytes(b"")
    left = checks(World(settings, source(folder)).make("raw_transactions", DAYS[2]))["nothing_left_behind"]
    assert not left.passed
    assert f"{DAYS[0]}-again.csv" in metadata(left, "files that cannot be read")


@pytest.mark.parametrize(("written", "passes"), [("001001", False), ("1001", True)])
def test_labels_whose_ids_are_written_in_another_way_fail_a_check_that_shows_both(
    settings: Settings, tmp_path: Path, written: str, passes: bool
) -> None:
    for name in ("paid", "labels"):
        (tmp_path / name).mkdir()
    paid(tmp_path, "all.csv", (str(n) for n in range(1001, 1030)), DAYS[0])
    reported(tmp_path, "all.csv", [written.replace("1001", str(n)) for n in range(1001, 1012)], DAYS[1])
    world = World(replace(settings, verdicts=Verdicts(maturity_days=2)), source(tmp_path))
    world.ingest(DAYS[0], DAYS[1])
    outcome = world.make("labels", DAYS[1])
    found = checks(outcome)["ids_match"]
    assert found.passed == passes
    assert checks(outcome)["counts"].passed
    assert (metadata(found, "labels"), metadata(found, "of a known transaction")) == (11, 11 if passes else 0)
    if not passes:
        assert metadata(found, "ids in labels").startswith('"001001", ')
        assert metadata(found, "ids in transactions").startswith('"1001", ')
        assert "leading zeros" in metadata(found, "likely cause")
        assert metadata(outcome, "waiting for their transaction") == 11
