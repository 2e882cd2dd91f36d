"""The platform under `MLOPS_HOME` as every command finds it: whether anything was trained, which days there
are, and how a command says no or shows a table.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import ConfigError, Settings, load_settings
from mlops_assets.resources.home import DATABASE, bring_up
from mlops_assets.use_cases import USE_CASES

CHECKED_BYTES = 200_000_000


class CommandError(PlatformError):
    """What was asked for cannot be done; the message says what and where."""


def configured() -> Settings:
    """The settings of this command.

    All that is wrong with the configuration, the source's part included, is one `ConfigError`.
    """
    return load_settings(use_cases=USE_CASES)


def prepare(settings: Settings) -> None:
    """Load the definitions, so that what is wrong with the configuration is told before anything starts; then
    make the instance ready.
    """
    import mlops_assets.definitions  # noqa: F401
    from mlops_assets.cli.instance import prepare_instance

    check_writable(settings.home)
    prepare_instance(settings.home)


def check_writable(home: Path) -> None:
    """Whether a file can be written to the home, which is made; `CommandError` where it cannot, as on a full
    disk.
    """
    probe = home / f".probe.{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_text("writable")
    except OSError as error:
        raise CommandError(f"{home} cannot be written to ({error.strerror})") from error
    finally:
        with suppress(OSError):
            probe.unlink()  # on a full disk an empty one is left


def check_databases(home: Path) -> str:
    """How many databases of the home can be read, and whether preparing it was cut off.

    A damaged one is `CommandError`.
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
    """What SQLite finds wrong.

    Of a large file only the first page is read: going through all of it takes minutes.
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
    """Whether MLflow's database is there; asking MLflow itself would make one.

    Where it is gone although there are decisions on its versions, `CommandError`: a new one would count from
    version 1 again.
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
    """That nothing was trained, with what to do."""
    if not settings.home.exists():
        return f"nothing was trained in {settings.home}, which is not there: MLOPS_HOME names the home"
    return (
        f"nothing was trained in {settings.home}: `mlops train --as-of DAY` does, once `mlops backfill` has"
        " brought the days before it"
    )


def check_range(settings: Settings, first: str, last: str) -> None:
    """Whether the platform has the arrival days from `first` to `last`; `CommandError` where it has not."""
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
    """Whether these are as-of days of the platform; `CommandError` names the first that is none."""
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
    """What says that no day is earlier, or later."""
    if early:
        return f"[time] start = {settings.time.start} is the first arrival day"
    return (
        f"[time] end = {settings.time.end} is the last arrival day"
        if settings.time.end
        else "a day is there once it is over in UTC"
    )


def padded(lines: Sequence[Sequence[str]]) -> str:
    """A header and lines of cells as columns.

    Titles are broken to the width of what is below them; the last column is as wide as it is.
    """
    titles, *body = lines
    columns = list(zip(*body, strict=True)) or [()] * len(titles)
    widths = [max(map(len, [*column, *title.split()])) for title, column in zip(titles, columns, strict=True)]
    broken = zip_longest(
        *(wrap(title, width) for title, width in zip(titles, widths, strict=True)), fillvalue=""
    )
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in [*broken, *body]
    )
