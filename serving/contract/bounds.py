"""What is believable of a payment: one declaration for validation, the ranges of features, the release
bundle, the service.

Features of training and serving would differ wherever one of them takes what the other refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_US, MINUTE_US = 86_400_000_000, 60_000_000
# of an amount: sums of squares of its hundredths stay inside the integers that the engine counts with
MOST = 1e10


@dataclass(frozen=True)
class Bounds:
    """The section `[bounds]` of the configuration, and what it was when a version was trained.

    `ValueError` names the key of a bound that cannot be meant.
    """

    # In the feed's currency. More is a fault of the feed, such as cents for euros, and no payment by card.
    max_amount: float = 1_000_000.0
    # how late a payment may come: windows, ids and pending verdicts are kept for this long
    lateness_days: int = 7
    ahead_minutes: float = 5.0  # of the wall clock: clocks of tills are minutes off, not hours
    ahead_days: float = 7.0  # of event time, which each payment turns: so far may one payment turn it
    label_ahead_days: float = 30.0  # of event time, which no label turns: one of a later day has a wrong date

    def __post_init__(self) -> None:
        if not 0 < self.max_amount <= MOST:
            raise ValueError(f"max_amount = {self.max_amount:.15g}: more than 0, at most {MOST:.15g}")
        if not 1 <= self.lateness_days <= 90:  # the longest window
            raise ValueError(f"lateness_days = {self.lateness_days}: from 1 to 90")
        if not 0 <= self.ahead_minutes <= 1_440:
            raise ValueError(f"ahead_minutes = {self.ahead_minutes:.15g}: from 0 to 1440, a day")
        if not 0 < self.ahead_days <= self.lateness_days:
            raise ValueError(
                f"ahead_days = {self.ahead_days:.15g}: more than 0, at most lateness_days ="
                f" {self.lateness_days}. With more, one payment with a wrong date would make all others too"
                " late"
            )

        if not 0 < self.label_ahead_days <= 365:
            raise ValueError(f"label_ahead_days = {self.label_ahead_days:.15g}: more than 0, at most 365")

    @property
    def amount_range(self) -> tuple[float, float]:
        """The smallest and the largest amount, both included."""
        return 0.0, self.max_amount

    @property
    def too_much(self) -> str:
        """Why an amount above the range is refused."""
        return f"above {self.max_amount:.15g}, the highest believable amount ([bounds] max_amount)"

    @property
    def lateness_us(self) -> int:
        return self.lateness_days * DAY_US

    @property
    def ahead_wall_us(self) -> int:
        return round(self.ahead_minutes * MINUTE_US)

    @property
    def ahead_event_us(self) -> int:
        return round(self.ahead_days * DAY_US)

    @property
    def ahead_label_us(self) -> int:
        return round(self.label_ahead_days * DAY_US)
