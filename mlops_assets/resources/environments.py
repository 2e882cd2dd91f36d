"""The settings of the platform. Only this module reads the environment of the code location.

The environment gives the folder of the state and the TOML file that configures everything else.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlops_assets.core.config_tables import nearest
from mlops_assets.core.data.base import SourceError
from mlops_assets.core.judging.costs import GivenCosts
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.search_budget import Tuning
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.drift_thresholds import DriftThresholds
from mlops_assets.core.watching.guard import Guard
from mlops_assets.errors import PlatformError, listed
from mlops_assets.resources.config_file import ConfigError, read_file, sections_of
from mlops_assets.resources.config_sections import (
    Business,
    Ingest,
    Model,
    Retraining,
    Serving,
    Storage,
    Time,
    Verdicts,
)
from mlops_assets.sources.source_kinds import open_source
from serving.contract.bounds import MAX, Bounds, TimeBounds

_NO_PATH = re.compile(r"\?|%[0-9A-Fa-f]{2}")  # Both have a meaning in the address of a database


@dataclass(frozen=True)
class Settings:
    """Everything that a person may configure, checked. Only the use case can check `source`."""

    home: Path
    use_case: str = "fraud"
    # The text of `use_case` in the file where it is no name: a module, or a folder from `base`
    case_from: str = ""
    config_file: Path | None = None
    # The text of the file when it was read. It is recorded with a version, so later changes do not matter
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
        """The folder of a use case that is a folder or a module; None for one of the platform's own."""
        if self.case_from.startswith((".", "/")):
            return (self.base / self.case_from).resolve()
        module = find_spec(self.case_from) if self.case_from else None
        return Path(module.origin).parent if module and module.origin else None

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
        """The time after an event when its verdict is final."""
        return timedelta(days=self.verdicts.maturity_days)

    @property
    def lake_root(self) -> str:
        """The folder or fsspec address of the lake."""
        return self.storage.lake or str(self.home / "lake")

    @property
    def history_file(self) -> Path:
        """The file of the history of decisions."""
        return self.home / "history.jsonl"

    @property
    def serving_db(self) -> Path:
        """The file of the service: its log and the online state."""
        return self.home / "serving" / "serving.db"

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow's database."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


FindCase = Callable[[str, Path], UseCase]


def load_settings(
    config: str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
    find_case: FindCase | None = None,
) -> Settings:
    """The settings from the configuration file and the environment.

    `config` or `MLOPS_CONFIG` names the file. `home` or `MLOPS_HOME` names the folder of the state, `var` by
    default. One `ConfigError` lists all problems. `find_case` finds a use case from the text of `use_case`
    and the folder of the file. Only the use case knows what `[source]` may hold, so `[source]` is checked
    where `find_case` is given. A copy of a configuration must not touch the state of the original:
    `MLOPS_LAKE` names another lake for it, and `MLOPS_CONFIG_BASE` the folder where its relative paths start.
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
    text, values = read_file(path, os.fspath(where))
    given, problems = sections_of(values)
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


def _with_case(settings: Settings, find_case: FindCase | None) -> tuple[Settings, list[str]]:
    """The settings with the name of their use case, and the problems of the use case and of `[source]`."""
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
