"""The platform that a command works on: its settings, its use case, and the condition of its home."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import PlatformError
from mlops_assets.resources.config_file import ConfigError, former_keys
from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.resources.home import DATABASE, bring_up
from mlops_assets.resources.home_owner import Owner
from mlops_assets.use_cases import find_use_case

CHECKED_BYTES = 200_000_000


class CommandError(PlatformError):
    """The platform cannot do what was asked for. The message says what and where."""


def configured() -> Settings:
    """The settings of this command.

    One `ConfigError` lists every problem of the configuration, those of the source included. `ForeignHome`
    where the home belongs to another use case. A key that has another name today is read, with a line on
    stderr.
    """
    settings = load_settings(find_case=find_use_case)
    for line in former_keys(settings.config_text):
        print(f"mlops: {settings.config_file}: {line}", file=sys.stderr)
    Owner.of(case_of(settings)).check(settings.home)
    return settings


def case_of(settings: Settings) -> UseCase:
    """The use case that the configuration names."""
    return find_use_case(settings.case_named, settings.base)


def pipeline() -> Any:
    """The definitions of the code location. A wrong configuration fails here, before anything is started."""
    from mlops_assets.definitions import defs

    return defs


def prepare(settings: Settings) -> None:
    """Make Dagster's instance, and note whose home it is.

    The definitions are loaded first, so that a wrong configuration changes nothing.
    """
    from mlops_assets.cli.instance import prepare_instance

    pipeline()
    check_writable(settings.home)
    prepare_instance(settings.home)
    Owner.of(case_of(settings)).claim(settings.home)


def check_writable(home: Path) -> None:
    """Make the home and write a file to it. `CommandError` where that fails, as on a full disk."""
    probe = home / f".probe.{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_text("writable")
    except OSError as error:
        raise CommandError(f"{home} cannot be written to ({error.strerror})") from error
    finally:
        with suppress(OSError):
            probe.unlink()  # A full disk leaves an empty file


def check_databases(home: Path) -> str:
    """How many databases of the home can be read, in words, and whether its preparation was interrupted.

    `CommandError` names a damaged database.
    """
    bring_up(home)
    dagster = Path(os.environ.get("DAGSTER_HOME") or home / "dagster")
    places = [home / DATABASE, home / "serving" / "serving.db", dagster / "schedules" / "schedules.db"]
    places += [dagster / "history" / "runs.db", dagster / "history" / "runs" / "index.db"]
    found = [place for place in places if place.exists()]
    for place in found:
        if damage := _damage(place):
            raise CommandError(
                f"{place} is damaged ({damage}): restore it from the backup, or make it again as"
                " docs/operations.md says"
            )
    cut_off = [dagster / ".preparing", *(home / DATABASE).parent.glob(f".{DATABASE.name}.*")]
    mended = (
        "; preparing the home was cut off: the next command that needs it does it again"
        if any(map(Path.exists, cut_off))
        else ""
    )
    return f"{len(found)} can be read{mended}"


def _damage(database: Path) -> str | None:
    """The damage that SQLite finds in a database; None for a sound database.

    Only the first page of a large file is read, because reading all of it takes minutes.
    """
    question = "PRAGMA quick_check(1)" if database.stat().st_size < CHECKED_BYTES else "PRAGMA schema_version"
    try:
        with closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            answer = connection.execute(question).fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" or isinstance(answer, int) else " ".join(str(answer).split())


def registry_exists(settings: Settings) -> bool:
    """Whether MLflow's database exists. MLflow would make a database when it is asked.

    `CommandError` where the database is missing and the history has decisions on its versions. A new database
    would count from version 1 again.
    """
    database, history = Path(settings.tracking_uri.removeprefix("sqlite:///")), settings.history_file
    if database.exists() and database.stat().st_size:
        return True
    if history.exists() and history.stat().st_size:
        raise CommandError(
            f"{database} is {'empty' if database.exists() else 'missing'}, and {history} has decisions on its"
            " versions: restore it from the backup"
        )
    return False


def untrained(settings: Settings) -> str:
    """The message that nothing was trained, with the remedy."""
    if not settings.home.exists():
        return f"nothing was trained in {settings.home}, which does not exist; MLOPS_HOME names the home"
    return (
        f"nothing was trained in {settings.home}: `mlops train --as-of DAY` does, once `mlops backfill` has"
        " brought the days before it"
    )


def check_range(settings: Settings, first: str, last: str) -> None:
    """`CommandError` unless the platform has the arrival days from `first` to `last`, both included."""
    from mlops_assets.graph.partitions import arrival_days

    if first > last:
        raise CommandError(
            f"from {first} to {last}: the first day is after the last one; give them the other way round"
        )
    days = arrival_days(settings.time.start, settings.time.end)
    low, high = days.get_first_partition_key(), days.get_last_partition_key()
    if low is None or high is None:
        raise ConfigError(f"[time] start = {settings.time.start}: no day is over yet; set an earlier one")
    if outside := [day for day in (first, last) if not low <= day <= high]:
        raise CommandError(
            f"{outside[0]}: the platform's arrival days are {low} to {high};"
            f" {_bound(settings, outside[0] < low)}"
        )


def check_as_of(settings: Settings, *days: str) -> None:
    """`CommandError` names the first of `days` that is no as-of day of the platform."""
    from mlops_assets.graph.partitions import as_of_days

    known = as_of_days(settings.time.start, settings.time.end)
    low, high = known.get_first_partition_key(), known.get_last_partition_key()
    if low is None or high is None:
        raise ConfigError(f"[time] start = {settings.time.start}: no day is over yet; set an earlier one")
    if outside := [day for day in days if not low <= day <= high]:
        raise CommandError(
            f"as of {outside[0]}: the platform's as-of days are {low} to {high};"
            f" {_bound(settings, outside[0] < low)}"
        )


def _bound(settings: Settings, early: bool) -> str:
    """Why there is no earlier day, or no later day."""
    if early:
        return f"[time] start = {settings.time.start} is the first arrival day"
    return (
        f"[time] end = {settings.time.end} is the last arrival day"
        if settings.time.end
        else "a day is there once it is over in UTC"
    )
