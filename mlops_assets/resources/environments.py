"""The settings of the platform. This module alone reads the environment of the code location.

The environment says where the state lives, and which TOML file configures everything else.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from mlops_assets.core.config_tables import nearest, read_table
from mlops_assets.core.data.base import SourceError
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.judging.measuring.money import GivenCosts
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.tuning import Tuning
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.drift import DriftThresholds
from mlops_assets.core.watching.guard import Guard
from mlops_assets.errors import PlatformError, listed
from mlops_assets.sources.listing import beside
from mlops_assets.sources.source_kinds import open_source
from serving.contract.bounds import MAX, Bounds, TimeBounds

_NO_PATH = re.compile(r"\?|%[0-9A-Fa-f]{2}")  # They have a meaning in the address of a database

Share = Annotated[float, Ge(0), Le(1)]


class ConfigError(PlatformError):
    """The configuration cannot be used. The message names file, section and key, one problem a line."""


@dataclass(frozen=True)
class Time:
    """The days that exist: arrival days from `start` to `end`, both included; as-of days a day later."""

    start: date = date(2026, 1, 1)
    end: date | None = None

    def __post_init__(self) -> None:
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end = {self.end} is before start = {self.start}")


@dataclass(frozen=True)
class Storage:
    """Where the lake is."""

    lake: str = ""  # An fsspec address such as s3://bucket/prefix. Empty: the folder lake/ of the home


@dataclass(frozen=True)
class Ingest:
    """What a day of a feed has to look like before anything is made of it."""

    # Above this share the feed itself is broken, and what is downstream must wait
    max_quarantined_share: Share = 0.05
    # A day's rows are compared with the median of this many days before it
    volume_window_days: Annotated[int, Ge(1)] = 14
    # Below it, a feed broke off in its first hours. A quiet Sunday stays above it
    min_volume_ratio: Annotated[float, Ge(0)] = 0.1
    # A feed delivered several times exceeds it. A busy Saturday does not
    max_volume_ratio: Annotated[float, Ge(1)] = 5.0
    # Ids are compared, and labels taken, this far back. Labels rarely come later
    horizon_days: Annotated[int, Ge(1)] = 120


@dataclass(frozen=True)
class Verdicts:
    """When silence counts as an answer."""

    # An event without a label by then counts as negative
    maturity_days: Annotated[int, Ge(0)] = 7


@dataclass(frozen=True)
class Model:
    """Which days a version learns from, and which it is measured on."""

    holdout_days: Annotated[int, Ge(1)] = 7
    train_days: Annotated[int, Ge(2)] = 90
    # Nothing is learnt from the platform's first days. Their windows are emptier than all later ones
    warm_up_days: Annotated[int, Ge(0)] = 14
    seed: Annotated[int, Ge(0)] = 7
    # What a team can look at in a day, as in the published card precision@100
    precision_k: Annotated[int, Ge(1)] = 100

    def __post_init__(self) -> None:
        if self.train_days <= self.holdout_days:
            raise ValueError(
                f"train_days of {self.train_days} leaves nothing to learn from before a holdout_days of"
                f" {self.holdout_days}"
            )


@dataclass(frozen=True)
class Retraining:
    """How often drift may ask for a retraining."""

    # As-of days between two retrainings that drift asks for. With 0, one day could be trained for twice
    cooldown_days: int = 3

    def __post_init__(self) -> None:
        if self.cooldown_days < 1:
            raise ValueError(
                f"cooldown_days of {self.cooldown_days}: at least one day is needed between two retrainings"
            )


@dataclass(frozen=True)
class Business:
    """When the business report asks a person to look."""

    # Of the value of positives, on the newest mature day. Below it a person should look
    min_caught_share: Share = 0.5


@dataclass(frozen=True)
class Serving:
    """What `mlops serve` does with a home whose newest day is far from the service's clock."""

    # After so long without an event most windows are empty, and the model scores what it was not trained on
    far_days: int = 30
    when_far: Literal["refuse", "warn"] = "refuse"  # "warn" is for a person who continues after a long pause

    def __post_init__(self) -> None:
        if self.far_days < 1:
            raise ValueError(f"far_days = {self.far_days}: at least 1, as the lake's newest day is yesterday")


@dataclass(frozen=True)
class Settings:
    """Everything that a person may configure, checked. The use case checks its own part, `source`."""

    home: Path
    use_case: str = "fraud"
    # What the file says where that is no name: a module, or a folder from `base`.
    case_from: str = ""
    config_file: Path | None = None
    # The text of the file as it was read. A version is recorded with it, however the file changes later
    config_text: str = ""
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
    costs: GivenCosts = field(default_factory=GivenCosts)
    gate: Gate = field(default_factory=Gate)
    guard: Guard = field(default_factory=Guard)
    drift: DriftThresholds = field(default_factory=DriftThresholds)
    retraining: Retraining = field(default_factory=Retraining)
    business: Business = field(default_factory=Business)

    @property
    def case_named(self) -> str:
        """The name, module or folder of the use case, as the configuration gives it."""
        return self.case_from or self.use_case

    @property
    def case_folder(self) -> Path | None:
        """The folder beside the configuration that holds the use case; None where it is no folder."""
        return (self.base / self.case_from).resolve() if self.case_from.startswith((".", "/")) else None

    @property
    def base(self) -> Path:
        """The folder where relative paths of the configuration start.

        It is the folder of the file, unless `MLOPS_CONFIG_BASE` names another.
        """
        return self.config_base or (self.config_file.parent if self.config_file else Path.cwd())

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration file, or of an empty text where there is no file."""
        return hashlib.sha256(self.config_text.encode()).hexdigest()

    @property
    def maturity(self) -> timedelta:
        """How long after its event a verdict is final."""
        return timedelta(days=self.verdicts.maturity_days)

    @property
    def lake_root(self) -> str:
        """The folder or fsspec address of the lake."""
        return self.storage.lake or str(self.home / "lake")

    @property
    def history_file(self) -> Path:
        """The history of decisions."""
        return self.home / "history.jsonl"

    @property
    def serving_db(self) -> Path:
        """The database of the service: its log and the online state."""
        return self.home / "serving" / "serving.db"

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow's database."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


# Keys that configurations of before may have, with their names of now.
FORMER_KEYS: Mapping[str, Mapping[str, str]] = {
    "costs": {"missed_fraud_share": "missed_share"},  # guard: ok
    "gate": {"max_amount_factor": "max_value_factor"},  # guard: ok
    "model": {"card_k": "precision_k"},  # guard: ok
}
SECTIONS: Mapping[str, type] = {
    "time": Time,
    "storage": Storage,
    "ingest": Ingest,
    "bounds": TimeBounds,
    "serving": Serving,
    "verdicts": Verdicts,
    "model": Model,
    "recipe": Recipe,
    "tuning": Tuning,
    "costs": GivenCosts,
    "gate": Gate,
    "guard": Guard,
    "drift": DriftThresholds,
    "retraining": Retraining,
    "business": Business,
}


FindCase = Callable[[str, Path], UseCase]


def load_settings(
    config: str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
    find_case: FindCase | None = None,
) -> Settings:
    """Read the configuration that `MLOPS_CONFIG` names (or `config`) and the state folder that `MLOPS_HOME`
    names (or `home`; `var` otherwise).

    All that is wrong is one `ConfigError`. `find_case` finds a use case by what the file says of it and the
    folder of the file. What `[source]` may hold only the use case knows: it is checked where `find_case` is
    given. For a copy of a configuration that must not touch what the original does, `MLOPS_LAKE` names
    another lake, and `MLOPS_CONFIG_BASE` the folder that its relative paths start from.
    """
    where = config or os.environ.get("MLOPS_CONFIG") or None
    root = Path(home or os.environ.get("MLOPS_HOME") or "var").absolute()
    if found := _NO_PATH.search(str(root)):
        why = (
            f"a home cannot have {found[0]!r} in its path, for the address of a database would mean another"
            " file"
        )
        raise ConfigError(f"{root}: {why}; rename the folder")
    lake = os.environ.get("MLOPS_LAKE") or ""
    if where is None:
        return Settings(home=root, storage=Storage(lake))
    path = Path(where).absolute()
    text, values = _read(path, os.fspath(where))
    given, problems = _sections(values)
    if lake:
        given["storage"] = Storage(lake)
    base = os.environ.get("MLOPS_CONFIG_BASE")
    settings = Settings(
        home=root,
        config_file=path,
        config_text=text,
        config_base=Path(base).absolute() if base else None,
        **given,
    )
    settings, wrong = _with_case(settings, find_case)
    if problems := problems + wrong:
        raise ConfigError(listed(os.fspath(where), problems))
    return settings


def _read(path: Path, where: str) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Some editors begin a file with a BOM
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such configuration file; {beside(path, '.toml')}") from None
    except IsADirectoryError:
        raise ConfigError(
            f"{where}: is a folder; name the TOML file in it: {beside(path / 'x', '.toml')}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{where}: line {line} holds the byte 0x{error.object[error.start]:02x}, which is not UTF-8; save"
            " it as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is no TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror})") from error


def _sections(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Each section of a file as its dataclass, and all problems of them and of the keys beside them.

    What cannot be used is left out.
    """
    known = sorted({"use_case", "source", *SECTIONS})
    home_of = {
        field.name: f"[{name}]" for name, kind in reversed(list(SECTIONS.items())) for field in fields(kind)
    }
    given, problems = dict[str, Any](), []
    for name in sorted(set(values) - set(known)):
        hint = f"it belongs to {home_of[name]}" if name in home_of else f"known are {', '.join(known)}"
        problems.append(f"unknown key {name!r}{nearest(name, known)}; {hint}")
    for name, kind in SECTIONS.items():
        if name in values:
            table = _by_present_names(name, values[name])
            read = _read_bounds if kind is TimeBounds else partial(read_table, kind)
            section, wrong = read(table, f"[{name}]", home_of)
            given |= {name: section} if section is not None else {}
            problems += wrong
    for name, kind in {"use_case": str, "source": dict}.items():
        if isinstance(value := values.get(name, kind()), kind):
            given |= {name: value} if name in values else {}
        else:
            problems.append(f"{name} has to be {'a table' if kind is dict else 'a name'}, not {value!r}")
    return given, problems


def former_keys(settings: Settings) -> list[str]:
    """A line for each key of the configuration that is read under its name of before."""
    given = tomllib.loads(settings.config_text)
    return [
        f"[{section}] {old}: is read as {new}, its name of now; rename it"
        for section, names in FORMER_KEYS.items()
        for old, new in names.items()
        if old in given.get(section, {})
    ]


def _read_bounds(values: Any, place: str, home_of: Mapping[str, str]) -> tuple[Bounds | None, list[str]]:
    """The times of `[bounds]`, and its `max_<column>`. Which columns there are only a use case knows."""
    values = values if isinstance(values, Mapping) else {"": values}
    highest = {name.removeprefix(MAX): value for name, value in values.items() if name.startswith(MAX)}
    rest = {name: value for name, value in values.items() if not name.startswith(MAX)}
    times, problems = read_table(TimeBounds, rest, place, home_of)
    problems += [
        f"{place} {MAX}{name} has to be a number, not {value!r}"
        for name, value in highest.items()
        if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    if times is None or problems:
        return None, problems
    try:
        return Bounds(**vars(times), highest={name: float(value) for name, value in highest.items()}), []
    except ValueError as error:
        return None, [f"{place} {error}"]


def _by_present_names(section: str, values: Any) -> Any:
    """A table whose keys of before have the names of now; a file that gives both keeps what it says."""
    if not isinstance(values, Mapping):
        return values
    names = FORMER_KEYS.get(section, {})
    return {(new if (new := names.get(key, key)) not in values else key): v for key, v in values.items()}


def _with_case(settings: Settings, find_case: FindCase | None) -> tuple[Settings, list[str]]:
    """The settings with the name of their use case, and what is wrong with it or with `[source]`."""
    if find_case is None:
        return settings, []
    try:
        case = find_case(settings.use_case, settings.base)
        open_source(case, settings.source, settings.base)
    except SourceError as error:
        return settings, list(error.problems)
    except PlatformError as error:
        return settings, [str(error)]
    problems = _unknown_bounds(case, settings.bounds)
    if case.name == settings.use_case:
        return settings, problems
    return replace(settings, use_case=case.name, case_from=settings.use_case), problems


def _unknown_bounds(case: UseCase, bounds: Bounds) -> list[str]:
    """The keys `max_<column>` of `[bounds]` whose column is no believable Number of the event."""
    believable = [f"{MAX}{name}" for name in case.event.believable]
    known = [*(one.name for one in fields(TimeBounds)), *believable]
    return [
        f"[bounds] unknown key {key!r}{nearest(key, known)}; known are {', '.join(known)}"
        for key in (f"{MAX}{name}" for name in bounds.highest)
        if key not in believable
    ]
