"""The days for training and the days for measurement. They are mature, and they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from mlops_assets.errors import PlatformError


class BadSplit(PlatformError, ValueError):
    """A split with an impossible value. The message names it."""


@dataclass(frozen=True)
class Split:
    """The folds of one as-of day D. All bounds are days of the event in UTC, and are included.

    An event of day t has its verdict by t + maturity. The as-of day D reads what arrived before D. The last
    day whose verdicts are all known is therefore M = D - maturity - 1. Raises `BadSplit`.
    """

    as_of: date
    maturity_days: int
    holdout_days: int
    train_days: int
    not_before: date | None = None  # the first day for training, after the warm-up of features

    def __post_init__(self) -> None:
        if isinstance(self.as_of, datetime) or not isinstance(self.as_of, date):
            raise BadSplit(f"as of {self.as_of!r}: a date is needed")
        if self.maturity_days < 0:
            raise BadSplit(f"a maturity of {self.maturity_days} days: at least 0 is needed")
        if self.holdout_days < 1:
            raise BadSplit(f"a holdout of {self.holdout_days} days: at least 1 is needed")
        if self.train_days <= self.holdout_days:
            raise BadSplit(
                f"a training period of {self.train_days} days leaves nothing before a holdout of"
                f" {self.holdout_days} days"
            )

    @property
    def last_mature_day(self) -> date:
        """M: the last day whose verdicts are all known."""
        return self.as_of - timedelta(days=self.maturity_days + 1)

    @property
    def train_first(self) -> date:
        """The first day of both fits."""
        first = self.last_mature_day - timedelta(days=self.train_days - 1)
        return max(first, self.not_before or first)

    @property
    def evaluation_last(self) -> date:
        """The last day of the evaluation fit. The release fit uses the days up to M."""
        return self.last_mature_day - timedelta(days=self.holdout_days)

    @property
    def holdout_first(self) -> date:
        """The first day of the holdout."""
        return self.evaluation_last + timedelta(days=1)

    @property
    def holdout_last(self) -> date:
        """The last day of the holdout, M."""
        return self.last_mature_day

    @property
    def has_training_days(self) -> bool:
        """Whether any day is left for the evaluation fit."""
        return self.train_first <= self.evaluation_last

    def label(self, days: pd.Series) -> pd.Series:
        """The fold of each day or timestamp: "train", "holdout" or None.

        Both fits use "train". The evaluation fit is measured on "holdout", and the release fit uses it too.
        """
        utc = utc_days(days)
        fold = np.full(len(utc), None, dtype=object)  # In a Series, pandas would turn None into NaN.
        fold[
            ((utc >= pd.Timestamp(self.train_first)) & (utc <= pd.Timestamp(self.evaluation_last))).to_numpy()
        ] = "train"
        fold[
            ((utc >= pd.Timestamp(self.holdout_first)) & (utc <= pd.Timestamp(self.holdout_last))).to_numpy()
        ] = "holdout"
        return pd.Series(fold, index=days.index, dtype=object)


class NothingToLearn(BadSplit):
    """There is no training day as of a day.

    The message says how the arrival days are used, and names the first as-of day with a training day.
    """

    def __init__(self, split: Split, start: date, there: Sequence[str], end: date | None = None) -> None:
        """`start` and `end` are the first and the last arrival day of the platform.

        `there` are the materialized arrival days before the as-of day.
        """
        warm_up = (split.not_before - start).days if split.not_before else 0
        first = start + timedelta(days=warm_up + split.holdout_days + split.maturity_days + 1)
        kept = (
            (f"the first {warm_up}", "warm-up", "[model] warm_up_days", warm_up),
            (
                f"the last {split.maturity_days}",
                "without mature labels",
                "[verdicts] maturity_days",
                split.maturity_days,
            ),
            (
                f"the {split.holdout_days} before those",
                "held out",
                "[model] holdout_days",
                split.holdout_days,
            ),
        )
        days = (
            f"the lake has arrival days {min(there)} to {max(there)}"
            if there
            else "the lake has no arrival day yet"
        )
        whats = ", ".join(f"{which} are {what} ({key})" for which, what, key, number in kept if number)
        late = (
            f". That is after [time] end = {end}: lower one of the three"
            if end and first > end + timedelta(days=1)
            else ""
        )
        super().__init__(
            f"as of {split.as_of}: nothing to learn from; {days}. Of the days from {start} on, {whats}. The"
            f" first as-of day with a training day is {first}{late}"
        )


def utc_days(times: pd.Series) -> pd.Series:
    """The UTC day of dates, ISO strings or timestamps, as midnight without a zone.

    A time without a zone counts as UTC.
    """
    stamps = pd.to_datetime(times, utc=True)
    return stamps.dt.tz_localize(None).dt.normalize()
