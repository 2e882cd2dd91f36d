"""The believable values and times of an event.

Validation, feature ranges, bundle and service use the same bounds. Otherwise one of them would take an event
that another refuses, and the features of training and serving would differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from feature_repo.times import DAY_US, MINUTE_US
from serving.contract.subject import Number
from serving.contract.subject.event import LARGEST

MAX = "max_"  # Before a column's name: the key of the column's highest believable value.


@dataclass(frozen=True)
class TimeBounds:
    """How far from the service's clock an event or a label may lie.

    `ValueError` names the key of a bound that cannot be meant.
    """

    # How late an event may come: windows, ids and pending verdicts are kept for this long.
    lateness_days: int = 7
    ahead_minutes: float = 5.0  # Of the wall clock: the clocks of senders are minutes off, not hours.
    ahead_days: float = 7.0  # Of event time, which each event turns: one event may turn it this far.
    label_ahead_days: float = 30.0  # Of event time, which no label turns: a later label has a wrong date.

    def __post_init__(self) -> None:
        if not 1 <= self.lateness_days <= 90:  # The longest window has 90 days.
            raise ValueError(f"lateness_days = {self.lateness_days}: from 1 to 90")
        if not 0 <= self.ahead_minutes <= 1_440:
            raise ValueError(f"ahead_minutes = {self.ahead_minutes:.15g}: from 0 to 1440, a day")
        if not 0 < self.ahead_days <= self.lateness_days:
            raise ValueError(
                f"ahead_days = {self.ahead_days:.15g}: more than 0, at most lateness_days ="
                f" {self.lateness_days}. With more, one event with a wrong date would make all others too"
                " late"
            )
        if not 0 < self.label_ahead_days <= 365:
            raise ValueError(f"label_ahead_days = {self.label_ahead_days:.15g}: more than 0, at most 365")

    @property
    def lateness_us(self) -> int:
        """How late an event may come, in microseconds."""
        return self.lateness_days * DAY_US

    @property
    def ahead_wall_us(self) -> int:
        """How far an event may lie ahead of the wall clock, in microseconds."""
        return round(self.ahead_minutes * MINUTE_US)

    @property
    def ahead_event_us(self) -> int:
        """How far an event may lie ahead of the newest event, in microseconds."""
        return round(self.ahead_days * DAY_US)

    @property
    def ahead_label_us(self) -> int:
        """How far a label may lie ahead of the clock, in microseconds."""
        return round(self.label_ahead_days * DAY_US)


@dataclass(frozen=True)
class Bounds(TimeBounds):
    """The section `[bounds]` of the configuration, or of the configuration that a version was trained with.

    `highest` holds the highest believable value of the event's `believable` Numbers, by column. The key in
    the configuration is `max_<column>`. Any other Number has the range that its declaration gives.
    `ValueError` names the key of a bound that cannot be meant.
    """

    highest: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for column, most in self.highest.items():
            if not 0 < most <= LARGEST:
                raise ValueError(f"{MAX}{column} = {most:.15g}: more than 0, at most {LARGEST:.15g}")
        super().__post_init__()

    def range_of(self, number: Number) -> tuple[float, float]:
        """The smallest and the largest value of a Number, both included."""
        return number.low, self.highest.get(number.name, number.high)

    def too_much(self, number: Number) -> str:
        """Why a value above the range of a believable Number is refused."""
        _, high = self.range_of(number)
        return f"above {high:.15g}, the highest believable {number.name} ([bounds] {MAX}{number.name})"

    def to_dict(self) -> dict[str, Any]:
        """As in the configuration: the times by their names, and `max_<column>` for each of `highest`."""
        values = asdict(self)
        highest = values.pop("highest")
        return {**values, **{f"{MAX}{name}": most for name, most in highest.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bounds:
        """Bounds from what `to_dict` gave.

        `ValueError` for a bound that cannot be meant, `TypeError` for a key that is no bound.
        """
        times = {one.name for one in fields(TimeBounds)}
        if unknown := [key for key in values if key not in times and not key.startswith(MAX)]:
            raise TypeError(f"{unknown[0]!r} is no bound")
        highest = {key.removeprefix(MAX): most for key, most in values.items() if key not in times}
        return cls(highest=highest, **{key: value for key, value in values.items() if key in times})
