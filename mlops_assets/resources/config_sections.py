"""The sections of a configuration file as values, each key with its default and the reason for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mlops_assets.core.judging.costs import GivenCosts
from mlops_assets.core.judging.gate_thresholds import Gate
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.search_budget import Tuning
from mlops_assets.core.watching.drift_thresholds import DriftThresholds
from mlops_assets.core.watching.guard import Guard
from serving.contract.bounds import TimeBounds

Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Time:
    """The days of the platform: arrival days from `start` to `end`, both included; as-of days a day later."""

    start: date = date(2026, 1, 1)
    end: date | None = None

    def __post_init__(self) -> None:
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end = {self.end} is before start = {self.start}")


@dataclass(frozen=True)
class Storage:
    """The place of the lake."""

    lake: str = ""  # An fsspec address such as s3://bucket/prefix. Empty: the folder lake/ of the home


@dataclass(frozen=True)
class Ingest:
    """What a day of a feed has to look like before anything is made from it."""

    # Above this share the feed is broken, and everything downstream waits
    max_quarantined_share: Share = 0.05
    # A day's rows are compared with the median of this many days before it
    volume_window_days: Annotated[int, Ge(1)] = 14
    # A feed that broke off in its first hours is below this ratio. A quiet Sunday is above it
    min_volume_ratio: Annotated[float, Ge(0)] = 0.1
    # A feed that was delivered several times exceeds this ratio. A busy Saturday does not
    max_volume_ratio: Annotated[float, Ge(1)] = 5.0
    # Ids are compared, and labels are accepted, for events of so many days. Labels rarely come later
    horizon_days: Annotated[int, Ge(1)] = 120


@dataclass(frozen=True)
class Verdicts:
    """When an event without a label counts as negative."""

    # An event that has no label after so many days counts as negative
    maturity_days: Annotated[int, Ge(0)] = 7


@dataclass(frozen=True)
class Model:
    """Which days a version learns from, and which days it is measured on."""

    holdout_days: Annotated[int, Ge(1)] = 7
    train_days: Annotated[int, Ge(2)] = 90
    # No version learns from the platform's first days, because their windows are emptier than all later
    # windows
    warm_up_days: Annotated[int, Ge(0)] = 14
    seed: Annotated[int, Ge(0)] = 7
    # Events that a team can review in a day, as in the published measure precision@100
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

    # As-of days between two retrainings that drift asks for. With 0, drift could ask for one day twice
    cooldown_days: int = 3

    def __post_init__(self) -> None:
        if self.cooldown_days < 1:
            raise ValueError(
                f"cooldown_days of {self.cooldown_days}: at least one day is needed between two retrainings"
            )


@dataclass(frozen=True)
class Business:
    """When the business report asks a person to look."""

    # Of the value of the positives, on the newest mature day. A person should look at a smaller share
    min_caught_share: Share = 0.5


@dataclass(frozen=True)
class Serving:
    """What `mlops serve` does with a home whose newest day is far from the service's clock."""

    # After so many days without an event most windows are empty, and the model never learnt such events
    far_days: int = 30
    when_far: Literal["refuse", "warn"] = "refuse"  # "warn" is for a person who continues after a long pause

    def __post_init__(self) -> None:
        if self.far_days < 1:
            raise ValueError(f"far_days = {self.far_days}: at least 1, as the lake's newest day is yesterday")


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
