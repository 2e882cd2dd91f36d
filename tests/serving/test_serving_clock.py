"""A home and the clock of its service: what is believed of the time, and a home of another time."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from serving_kit import DAY_US, MINUTE_US, START_US, Bench, bounded, paid

from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import from_us
from serving.__main__ import main
from serving.clock import lake_end_us
from serving.contract.before_subjects import BEFORE
from serving.contract.bounds import Bounds
from serving.deciding.admission import Moment, check_event, learnt_us
from serving.home_check import check_home
from serving.messages import BadInput, Label, ReadyVector
from serving.releases import Champion
from serving.settings import BadSetting, ServingSettings
from serving.store.base import Position
from serving.store.sqlite.log_tables import SCHEMA_VERSION

TODAY_US = START_US + 3_000 * DAY_US
END_US = START_US + 10 * DAY_US  # midnight after the newest day of `historical`


@pytest.fixture
def historical(tmp_path: Path) -> Path:
    """A home with a lake of ten days, from 2018-04-01 to 2018-04-10."""
    for n in range(10):
        write_day(tmp_path, n, 20)
    return tmp_path


def write_day(home: Path, number: int, rows: int) -> None:
    day = f"{from_us(START_US + number * DAY_US):%Y-%m-%d}"
    Lake(home / "lake").write(
        "transactions", day, pa.table({"transaction_id": [f"{day}-{n}" for n in range(rows)]}), validated=True
    )


def too_late(bench: Bench, at_us: int) -> bool:
    try:
        bench.predict(replace(paid(0), id=f"at {at_us}", event_us=at_us))
    except BadInput as error:
        return error.kind == "late"
    return False


def refused_as_future(bench: Bench, at_us: int) -> None:
    with pytest.raises(BadInput, match="ahead of the service's clock") as caught:
        bench.predict(paid(900, at_us))
    assert caught.value.kind == "future"


# What one request can do to the clock.


def test_a_first_payment_of_today_does_not_turn_the_clock_of_a_historical_home(
    historical: Path, champion: Champion
) -> None:
    bench = Bench(historical, champion)
    refused_as_future(bench, TODAY_US)
    assert not too_late(bench, END_US + MINUTE_US)
    bench.plane.close()


def test_the_release_says_what_time_it_is_where_the_home_has_no_lake(
    tmp_path: Path, champion: Champion
) -> None:
    bench = Bench(
        tmp_path, replace(champion, release=replace(champion.release, facts={"as_of": "2018-04-11"}))
    )
    refused_as_future(bench, TODAY_US)
    assert not too_late(bench, END_US + MINUTE_US)
    bench.plane.close()


def test_a_state_that_no_request_has_touched_says_what_time_it_is_unless_too_few_of_its_events_do(
    bench: Bench, champion: Champion
) -> None:
    state, event = SqliteOnlineState(bench.connection, champion.release.plan), dict(paid(1).values)
    times = [
        START_US,
        START_US + 1,
        START_US + 2,
        TODAY_US,
        TODAY_US + 1,
    ]  # two were pushed with a wrong date
    state.load("transactions", ((f"p{n}", event, at_us, at_us) for n, at_us in enumerate(times)))
    refused_as_future(bench, TODAY_US)
    assert not too_late(bench, START_US + MINUTE_US)


@pytest.mark.parametrize("ahead_days", [1, 7])
def test_no_payment_that_is_accepted_makes_those_too_late_that_were_in_time(
    historical: Path, champion: Champion, ahead_days: int
) -> None:
    bench = Bench(historical, bounded(champion, ahead_days=ahead_days))
    bench.predict(paid(0, END_US + ahead_days * DAY_US))
    assert not too_late(bench, END_US)
    bench.plane.close()


def test_a_payment_that_was_known_late_does_not_let_the_next_one_turn_the_clock_further(
    historical: Path, champion: Champion
) -> None:
    bench = Bench(historical, champion)
    bench.predict(replace(paid(0, END_US), created_us=END_US + 7 * DAY_US))
    refused_as_future(bench, END_US + 14 * DAY_US)
    with pytest.raises(BadInput, match="more than 7 days ahead"):
        bench.predict(replace(paid(1, END_US), created_us=END_US + 14 * DAY_US))
    assert not too_late(bench, END_US)
    bench.plane.close()


def test_neither_a_created_timestamp_nor_a_label_nor_a_vector_turns_the_clock_further(
    historical: Path, champion: Champion
) -> None:
    bench = Bench(historical, champion)
    with pytest.raises(BadInput, match="more than 7 days ahead"):
        bench.predict(replace(paid(0, END_US), created_us=TODAY_US))
    with pytest.raises(BadInput, match="more than 30 days ahead"):
        bench.plane.add_labels([Label("t0", True, TODAY_US)])
    bench.plane.add_labels([Label("t0", True, END_US + 29 * DAY_US)])
    bench.predict(ReadyVector(dict.fromkeys(champion.release.features, 1.0), "v"))
    bench.predict(paid(1, END_US + MINUTE_US))
    arrived = bench.connection.execute("SELECT created_us FROM decisions ORDER BY seq").fetchall()
    assert arrived == [(END_US,), (END_US + MINUTE_US,)]
    bench.plane.close()


def test_before_any_payment_a_label_turns_no_clock(bench: Bench) -> None:
    bench.plane.add_labels([Label("t0", True, TODAY_US)])
    bench.predict(paid(0))
    assert bench.connection.execute("SELECT clock_us, newest_us FROM sequence").fetchone() == (
        START_US,
        START_US,
    )


def test_on_the_wall_clock_lateness_goes_by_the_machine_and_not_by_what_others_sent(
    tmp_path: Path, champion: Champion
) -> None:
    bench = Bench(tmp_path, champion, "wall")
    bench.now_us = TODAY_US
    assert too_late(bench, START_US)
    bench.predict(paid(1, TODAY_US))
    with pytest.raises(
        BadInput,
        match=(
            r"^2018-04-01 00:00:00\+00:00 is more than 7 days before now, .*--clock event replays past days"
        ),
    ):
        bench.predict(paid(2, START_US))
    bench.plane.close()


@pytest.mark.parametrize(
    ("clock", "event_us", "named"),
    [
        ("wall", START_US - 31 * DAY_US, r"more than 30 days before now, .*\[bounds\] lateness_days"),
        ("wall", START_US + 16 * MINUTE_US, r"more than 15 minutes ahead .*\[bounds\] ahead_minutes"),
        (
            "event",
            START_US - 31 * DAY_US,
            r"more than 30 days before the newest event, .*\[bounds\] lateness_days.*--now DAY",
        ),
        ("event", START_US + 15 * DAY_US, r"more than 14 days ahead .*\[bounds\] ahead_days.*--now DAY"),
    ],
)
def test_a_refusal_names_the_moment_the_bound_and_its_key(clock: str, event_us: int, named: str) -> None:
    bounds = Bounds(lateness_days=30, ahead_minutes=15, ahead_days=14)
    at = Moment(clock, Position(0, START_US, START_US), START_US, START_US, START_US)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=f"^{from_us(event_us):%Y-%m-%d}.* is {named}"):
        check_event(BEFORE.event, bounds, paid(0, event_us), at)
    late = paid(0, START_US - 29 * DAY_US)
    check_event(BEFORE.event, bounds, late, at)
    assert learnt_us(late, at) >= START_US


# A home of another time.


def test_a_historical_home_on_the_wall_clock_is_refused_with_both_moments_and_the_remedy(
    historical: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(historical)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"newest events of {historical} are of 2018-04-10, and the service's clock says"
        f" {datetime.now(UTC):%Y-%m-%d}" in line
    )
    assert "--clock event" in line
    assert "when_far" in line
    assert not (historical / "serving").exists()


def test_a_home_is_far_by_the_configured_days_and_may_be_warned_of_instead(
    historical: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServingSettings(historical)
    check_home(settings, END_US + 30 * DAY_US)
    for far in (END_US + 30 * DAY_US + 1, END_US - 31 * DAY_US):  # long ago, or of days to come
        with pytest.raises(BadSetting, match="2018-04-10"):
            check_home(settings, far)
    check_home(replace(settings, far_days=60), END_US + 60 * DAY_US)
    with caplog.at_level(logging.WARNING):
        check_home(replace(settings, when_far="warn"), TODAY_US)
    assert "2018-04-10" in caplog.text
    check_home(ServingSettings(historical / "empty"), TODAY_US)


def test_a_day_of_the_lake_that_only_a_row_or_two_have_reached_says_nothing(historical: Path) -> None:
    settings = ServingSettings(historical)
    assert lake_end_us(settings) == END_US
    write_day(historical, 2_999, 2)
    write_day(historical, 3_000, 0)
    assert lake_end_us(settings) == END_US
    write_day(historical, 2_999, 3)
    assert lake_end_us(settings) == TODAY_US
    assert lake_end_us(ServingSettings(historical / "empty")) == 0
    assert lake_end_us(ServingSettings(historical / "empty", lake=str(historical / "lake"))) == TODAY_US


def test_a_service_that_was_in_use_yesterday_starts_although_the_lake_is_behind(
    historical: Path, champion: Champion
) -> None:
    bench = Bench(historical, champion, "wall")
    for number in range(3):
        bench.now_us = TODAY_US + number
        with pytest.raises(BadSetting):
            check_home(bench.settings, TODAY_US + DAY_US)
        bench.predict(paid(number, TODAY_US + number))
    check_home(bench.settings, TODAY_US + DAY_US)
    bench.plane.close()


# A home that was blocked before there were bounds.


def blocked(home: Path, champion: Champion, payments: int) -> None:
    """As a payment or some of today left serving.db: its clock, its newest event, and the
    events themselves.
    """
    bench = Bench(home, champion)
    bench.turn(TODAY_US)
    for number in range(payments):
        bench.predict(paid(100 + number, TODAY_US + number))
    bench.plane.close()


@pytest.mark.parametrize("payments", [1, 5])
def test_a_blocked_home_goes_on_from_the_day_that_a_person_names_and_keeps_what_is_in_it(
    historical: Path, champion: Champion, payments: int, caplog: pytest.LogCaptureFixture
) -> None:
    blocked(historical, champion, payments)
    settings = ServingSettings(historical, clock="event")
    bench = Bench(historical, champion)
    assert too_late(bench, END_US + MINUTE_US)
    bench.plane.close()
    if payments == 1:
        with pytest.raises(
            BadSetting,
            match=(
                r"of 2018-04-10, .* says 2026-06-18 00:00: .*--clock event --now 2018-04-11 goes on from"
                r" there"
            ),
        ):
            check_home(settings, TODAY_US)
    with pytest.raises(BadSetting, match="--now 2018-04-10: the lake has events up to 2018-04-10"):
        check_home(replace(settings, now=date(2018, 4, 10)), TODAY_US)
    check_home(replace(settings, now=date(2018, 4, 11)), TODAY_US)
    assert "event time goes on from 2018-04-11; before, it stood at 2026-06-18" in caplog.text
    for _ in range(2):  # the next start needs no option
        bench = Bench(historical, champion)
        assert not too_late(bench, END_US + MINUTE_US)
        refused_as_future(bench, TODAY_US + MINUTE_US)
        assert bench.connection.execute("SELECT count(*) FROM decisions").fetchone() == (payments + 1,)
        bench.plane.close()
        check_home(settings, TODAY_US)


def test_the_day_also_takes_event_time_over_a_long_pause(historical: Path, champion: Champion) -> None:
    bench = Bench(historical, champion)
    after = END_US + 60 * DAY_US
    refused_as_future(bench, after)
    bench.plane.close()
    check_home(ServingSettings(historical, clock="event", now=from_us(after).date()), TODAY_US)
    bench = Bench(historical, champion)
    assert not too_late(bench, after)
    bench.plane.close()


def test_the_day_is_for_event_time_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--home", str(tmp_path), "--now", "2018-04-11"]) == 3
    assert "--now 2018-04-11: only with --clock event" in capsys.readouterr().err


def test_a_log_that_cannot_be_read_is_told_in_one_line_before_the_service_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "serving").mkdir()
    with sqlite3.connect(tmp_path / "serving" / "serving.db") as connection:
        connection.execute("PRAGMA user_version = 9")
    assert main(["--home", str(tmp_path)]) == 3
    assert (
        capsys.readouterr().err
        == f"error: serving.db has schema version 9, this platform knows {SCHEMA_VERSION}\n"
    )


def test_a_log_that_cannot_be_written_is_told_in_one_line_before_the_service_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "serving").write_text("where a folder should be")
    assert main(["--home", str(tmp_path)]) == 3
    line = capsys.readouterr().err
    assert line.startswith(
        f"error: {tmp_path / 'serving' / 'serving.db'} cannot be opened for writing ([Errno 17] File exists"
    )
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_amount": 0}, "max_amount = 0"),
        ({"max_amount": float("nan")}, "max_amount = nan"),
        ({"max_amount": 1e11}, "at most 10000000000"),
        ({"lateness_days": 0}, "lateness_days = 0"),
        ({"ahead_minutes": -1}, "ahead_minutes = -1"),
        ({"ahead_days": 8}, "one event with a wrong date would make all others too late"),
        ({"label_ahead_days": 0}, "label_ahead_days = 0"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused_with_their_key(given: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Bounds.from_dict(given)


def test_the_whole_of_a_configured_lateness_is_accepted(bench: Bench, champion: Champion) -> None:
    bench.champion = bounded(champion, lateness_days=30)
    bench.turn(START_US + 30 * DAY_US)
    assert not too_late(bench, START_US)
    assert too_late(bench, START_US - 1)
    assert timedelta(microseconds=bench.champion.release.bounds.lateness_us) == timedelta(days=30)
