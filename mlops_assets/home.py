"""The platform under `MLOPS_HOME` as every command finds it: whether anything was trained, which days there are, and how a command says no."""

from __future__ import annotations

from pathlib import Path

from mlops_assets.resources.environments import ConfigError, Settings


class CommandError(Exception):
    """What was asked for cannot be done; the message says what and where."""


def registry_exists(settings: Settings) -> bool:
    """Whether MLflow's database is there; asking MLflow itself would make one."""
    return Path(settings.tracking_uri.removeprefix("sqlite:///")).exists()


def check_range(settings: Settings, first: str, last: str) -> None:
    """Whether the platform has the arrival days from `first` to `last`; `CommandError` where it has not."""
    from mlops_assets.partitions import arrival_days

    if first > last:
        raise CommandError(f"from {first} to {last}: the first day is after the last one")
    days = arrival_days(settings.time.start, settings.time.end)
    low, high = days.get_first_partition_key(), days.get_last_partition_key()
    if low is None or high is None:
        raise ConfigError(f"[time] start = {settings.time.start}: no day is over yet")
    if outside := [day for day in (first, last) if not low <= day <= high]:
        raise CommandError(f"{outside[0]}: the platform's arrival days are {low} to {high}")
