"""The weeks of a walk-forward: each version on the days that it would have served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta

import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.past_quality import (
    CAPACITY,
    OWN,
    Caught,
    Quality,
    Scored,
    by_thresholds,
    caught,
    policies,
    quality,
    stored_names,
)
from mlops_assets.errors import PlatformError
from serving.contract.subject import Subject

UNCHANGED = "never_retrained"


class BadWalk(PlatformError, ValueError):
    """Days or a step that define no walk. The message names them."""


OUTCOMES = tuple(field.name for field in fields(Caught))
COUNTS = ("reviews", "blocked", "insulted")


@dataclass(frozen=True)
class Week:
    """One version on the days from its as-of day to the day before the next as-of day.

    `days` is the number of these days in the lake, and `last_day` the last of them. `rows` events arrived on
    them. `positives` of the events are known to be positive, and `unknown` have no verdict that counts.
    `unchanged` is the quality of the first version of the walk on the same events. `policies` is empty where
    no event is mature.
    """

    as_of: str
    last_day: str | None
    version: str
    days: int
    rows: int
    positives: int
    unknown: int
    quality: Quality
    unchanged: Quality
    policies: Mapping[str, Caught]


def steps(first: str, last: str, step: int) -> list[str]:
    """The as-of days of a walk: every `step` days from `first` to `last`.

    Raises `BadWalk`.
    """
    begin, end = _day(first), _day(last)
    if begin > end:
        raise BadWalk(f"from {first} to {last}: the first day is after the last one")
    if step < 1:
        raise BadWalk(f"a step of {step} days: at least 1 is needed")
    return [(begin + timedelta(days=n)).isoformat() for n in range(0, (end - begin).days + 1, step)]


def week(
    subject: Subject,
    as_of: str,
    version: str,
    days: Sequence[str],
    rows: pd.DataFrame,
    own: Scored,
    first: Scored,
    costs: AppliedCosts,
    k: int,
) -> Week:
    """Measure a version (`own`) and the first version of the walk (`first`) on the rows of `with_verdicts`.

    The rows arrived on the `days`.
    """
    return Week(
        as_of=as_of,
        last_day=days[-1] if days else None,
        version=version,
        days=len(days),
        rows=len(rows),
        positives=int(rows[subject.labels.name].sum()),
        unknown=int(rows[subject.labels.name].isna().sum()),
        quality=quality(subject, rows, own.scores, k),
        unchanged=quality(subject, rows, first.scores, k),
        policies={
            **policies(subject, rows, own, costs),
            UNCHANGED: caught(
                subject, rows, by_thresholds(subject, rows, first, costs.reviews_per_day), costs
            ),
        }
        if rows["mature"].any()
        else {},
    )


def table(subject: Subject, weeks: Sequence[Week]) -> pd.DataFrame:
    """A row for each week. The results of a policy are in columns such as `at_capacity.cost`.

    Undefined numbers are null.
    """
    names = stored_names(subject)
    single = [name for name in Week.__dataclass_fields__ if name not in ("quality", "unchanged", "policies")]
    rows = []
    for one in weeks:
        row = {names.get(name, name): getattr(one, name) for name in single}
        row |= {
            **one.quality.stored(subject),
            f"{UNCHANGED}.average_precision": one.unchanged.average_precision,
        }
        row |= {
            f"{policy}.{names.get(name, name)}": getattr(one.policies.get(policy), name, None)
            for policy in (OWN, CAPACITY, UNCHANGED)
            for name in OUTCOMES
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    told = {names.get(name, name) for name in single}
    numbers = [str(name) for name in frame if name not in told]
    return frame.astype(
        {name: "Int64" if name.rpartition(".")[2] in COUNTS else "float64" for name in numbers}
    )


def means(frame: pd.DataFrame) -> dict[str, float | None]:
    """The mean of each number of `table` over the weeks that define it. Null where no week does."""
    found = frame.select_dtypes("number").mean()
    return {str(name): None if pd.isna(value) else float(value) for name, value in found.items()}


def _day(text: str) -> date:
    try:
        if (day := date.fromisoformat(text)).isoformat() == text:
            return day
    except ValueError:
        pass
    raise BadWalk(f"{text!r} is not a day such as 2018-05-23")
