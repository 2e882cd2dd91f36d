"""The one place of the code location that reads the environment: where state lives, and the TOML file that configures everything else."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from mlops_assets.core.drift import DriftThresholds
from mlops_assets.core.guard import Guard
from mlops_assets.core.money import Costs
from mlops_assets.core.promotion import Gate
from mlops_assets.core.recipe import Recipe
from mlops_assets.core.tuning import Tuning
from serving.contract.believable import Bounds

T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file, the section and the key."""


@dataclass(frozen=True)
class Time:
    """The days that exist: arrival days from `start` to `end` (both included), as-of days from the day after to the day after."""

    start: date = date(2026, 1, 1)
    end: date | None = None


@dataclass(frozen=True)
class Storage:
    lake: str = ""  # an fsspec address such as s3://bucket/prefix; empty: the folder lake/ of the home


@dataclass(frozen=True)
class Ingest:
    max_quarantined_share: float = 0.05  # above it the feed itself is broken, and what is downstream must wait
    volume_window_days: int = 14  # a day's rows are compared with the median of this many days before it
    min_volume_ratio: float = 0.1  # a feed that broke off in the first hours, and no quiet Sunday
    max_volume_ratio: float = 5.0  # ten times the usual is a double delivery; a busy Saturday is not five times
    horizon_days: int = 120  # ids are compared, and labels taken, this far back: card schemes allow chargebacks for about as long


@dataclass(frozen=True)
class Verdicts:
    maturity_days: int = 7  # without a fraud label by then, a transaction counts as legitimate


@dataclass(frozen=True)
class Model:
    holdout_days: int = 7
    train_days: int = 90
    warm_up_days: int = 14  # of the platform's first days nothing is learnt: their windows are emptier than any will be again
    seed: int = 7
    card_k: int = 100  # cards that a team can look at in a day, as in the handbook's card precision@100


@dataclass(frozen=True)
class Retraining:
    cooldown_days: int = 3  # as-of days between two retrainings that drift asks for; from 1 on, so that a day is trained for once

    def __post_init__(self) -> None:
        if self.cooldown_days < 1:
            raise ValueError(f"cooldown_days of {self.cooldown_days}: at least one day is needed between two retrainings")


@dataclass(frozen=True)
class Business:
    min_caught_share: float = 0.5  # of fraud money, on the newest mature day: below it somebody should look


@dataclass(frozen=True)
class Serving:
    """What `mlops serve` does with a home whose newest day is far from the service's clock."""

    far_days: int = 30  # after as long without an event most windows are empty, and the model scores what it never saw
    when_far: Literal["refuse", "warn"] = "refuse"  # "warn" is for somebody who goes on after a long pause

    def __post_init__(self) -> None:
        if self.far_days < 1:
            raise ValueError(f"far_days = {self.far_days}: at least 1, as the lake's newest day is yesterday")


@dataclass(frozen=True)
class Settings:
    """Everything that a person may configure, checked. `source` is the use case's own and is checked by it."""

    home: Path
    use_case: str = "fraud"
    config_file: Path | None = None
    config_text: str = ""  # the file as it was read: what was trained with it must be told by it, whatever becomes of the file
    config_base: Path | None = None
    time: Time = field(default_factory=Time)
    source: Mapping[str, Any] = field(default_factory=lambda: {"kind": "simulator"})
    storage: Storage = field(default_factory=Storage)
    ingest: Ingest = field(default_factory=Ingest)
    bounds: Bounds = field(default_factory=Bounds)
    serving: Serving = field(default_factory=Serving)
    verdicts: Verdicts = field(default_factory=Verdicts)
    model: Model = field(default_factory=Model)
    recipe: Recipe = field(default_factory=Recipe)
    tuning: Tuning = field(default_factory=Tuning)
    costs: Costs = field(default_factory=Costs)
    gate: Gate = field(default_factory=Gate)
    guard: Guard = field(default_factory=Guard)
    drift: DriftThresholds = field(default_factory=DriftThresholds)
    retraining: Retraining = field(default_factory=Retraining)
    business: Business = field(default_factory=Business)

    @property
    def base(self) -> Path:
        """The folder that relative paths in the configuration start from: the file's own, unless `MLOPS_CONFIG_BASE` names another."""
        return self.config_base or (self.config_file.parent if self.config_file else Path.cwd())

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration file, or of nothing where the defaults rule."""
        return hashlib.sha256(self.config_text.encode()).hexdigest()

    @property
    def maturity(self) -> timedelta:
        return timedelta(days=self.verdicts.maturity_days)

    @property
    def lake_root(self) -> str:
        return self.storage.lake or str(self.home / "lake")

    @property
    def history_file(self) -> Path:
        return self.home / "history.jsonl"

    @property
    def serving_db(self) -> Path:
        return self.home / "serving" / "serving.db"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


def load_settings(config: str | os.PathLike[str] | None = None, home: str | os.PathLike[str] | None = None) -> Settings:
    """Read the configuration that `MLOPS_CONFIG` names (or `config`) and the state folder that `MLOPS_HOME` names (or `home`; `var` otherwise).

    For a copy of a configuration that must not touch what the original does, `MLOPS_LAKE` names another lake, and `MLOPS_CONFIG_BASE` the
    folder that its relative paths start from.
    """
    where = config or os.environ.get("MLOPS_CONFIG") or None
    root = Path(home or os.environ.get("MLOPS_HOME") or "var").absolute()
    lake = os.environ.get("MLOPS_LAKE") or ""
    if where is None:
        return Settings(home=root, storage=Storage(lake))
    path = Path(where).absolute()
    try:
        text = path.read_bytes().decode("utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: no such configuration file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{where}: {error}") from error
    sections: dict[str, Any] = {
        "time": Time,
        "storage": Storage,
        "ingest": Ingest,
        "bounds": Bounds,
        "serving": Serving,
        "verdicts": Verdicts,
        "model": Model,
        "recipe": Recipe,
        "tuning": Tuning,
        "costs": Costs,
        "gate": Gate,
        "guard": Guard,
        "drift": DriftThresholds,
        "retraining": Retraining,
        "business": Business,
    }
    known = {"use_case", "source", *sections}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    given = {name: read_section(sections[name], values[name], f"{where}: [{name}]") for name in sections if name in values}
    for name, kind in {"use_case": str, "source": dict}.items():
        if not isinstance(values.get(name, kind()), kind):
            raise ConfigError(f"{where}: {name} has to be {'a table' if kind is dict else 'a name'}, not {values[name]!r}")
    others = {name: values[name] for name in ("use_case", "source") if name in values}
    if lake:
        given["storage"] = Storage(lake)
    base = os.environ.get("MLOPS_CONFIG_BASE")
    return Settings(home=root, config_file=path, config_text=text, config_base=Path(base).absolute() if base else None, **others, **given)


def read_section(kind: type[T], values: object, where: str) -> T:
    """Build the dataclass `kind` from a table of a TOML file; an unknown key or a wrong type is a `ConfigError` that names it."""
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} has to be a table, not {values!r}")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where} unknown key {unknown[0]!r}; known are {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where} {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from error
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from error
