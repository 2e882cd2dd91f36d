"""The business report: the value caught and missed on served days with mature labels."""

from dataclasses import dataclass
from datetime import date

import pandas as pd

from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.judging.measuring.money import business_report
from mlops_assets.core.keys import BUSINESS_REPORT, PREDICTION_LOG, VERDICTS
from mlops_assets.core.learning.splits import Split
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, shift, to_frame, to_table

REPORTED_DAYS = 30  # served days in a business report


@dataclass(frozen=True)
class Matured:
    """The business report in the lake, with a row for each day.

    `newest` is the newest mature day. `share` is the share caught on that day, from 0 to 1; None without
    known positives.
    """

    manifest: Manifest
    by_day: pd.DataFrame
    newest: str | None
    share: float | None


def write_business_report(case: UseCase, lake: Lake, settings: Settings, as_of: str) -> Matured:
    """Write the business report of the served days that had matured before `as_of`."""
    by_day = worth_by_day(case, lake, settings, as_of)
    manifest = lake.write(BUSINESS_REPORT, as_of, to_table(by_day), validated=True)
    newest = by_day.iloc[-1] if len(by_day) else None
    share = None if newest is None or pd.isna(newest["caught_share"]) else float(newest["caught_share"])
    return Matured(manifest, by_day, None if newest is None else str(newest["day"]), share)


def worth_by_day(case: UseCase, lake: Lake, settings: Settings, as_of: str) -> pd.DataFrame:
    """The business report by served day, of the days that had matured before `as_of`."""
    split = Split(date.fromisoformat(as_of), settings.verdicts.maturity_days, 1, REPORTED_DAYS)
    first = max(split.train_first.isoformat(), settings.time.start.isoformat())
    made = lake.between(PREDICTION_LOG, first, shift(as_of, -1))
    served = [d for d in made if lake.manifests(PREDICTION_LOG, [d])[0].rows]
    days = served or made[-1:] or day_range(shift(as_of, -1), shift(as_of, -1))
    value = [case.decisions.value] if case.decisions.value else []
    columns = ["prediction_id", "kind", "event_timestamp", *value, "decision", case.score]
    log = to_frame(lake.read(PREDICTION_LOG, days, columns))
    log = log[
        (log["kind"] == case.event.noun)
        & (log["event_timestamp"] < pd.Timestamp(shift(split.last_mature_day.isoformat(), 1), tz="UTC"))
    ]
    verdicts = to_frame(lake.read(VERDICTS, lake.between(VERDICTS, first, shift(as_of, -1))))
    known = latest_verdicts(case, verdicts, pd.Timestamp(as_of, tz="UTC"))
    decisions = log.rename(columns={"prediction_id": case.event.id})
    return business_report(case, decisions, known, settings.costs.reviews_per_day)
