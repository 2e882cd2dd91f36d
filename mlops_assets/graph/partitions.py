"""The two calendars of the graph, and the mapping between them.

Arrival days partition ingested data and features. As-of days partition the model assets. As-of day D reads
the arrival days before D and nothing else. Between assets with arrival days, the graph maps a day to the same
day only, although windows look back. With a wider mapping, Dagster would add to a backfill every later day
that looks back on its days. Readers take the earlier days from the lake.
"""

import warnings
from datetime import date, timedelta

from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    BetaWarning,
    DailyPartitionsDefinition,
    TimeWindowPartitionMapping,
)
from dagster._core.errors import DagsterInvalidPropertyError
from dagster._utils.warnings import PreviewWarning

# The graph needs look-backs before the first day, and backfills in one run. Both are in beta, and a user can
# do nothing about that.
warnings.filterwarnings("ignore", category=BetaWarning)
warnings.filterwarnings("ignore", category=PreviewWarning)  # checks that have partitions
# The daily job mixes assets that make a range in one run with reports of one day. The warning announces the
# smaller of both policies, which is wanted here.
warnings.filterwarnings(
    "ignore",
    message="Asset job daily materializes assets with varying BackfillPolicies",
    category=UserWarning,
)

DAY_FORMAT = "%Y-%m-%d"
NO_RUN = "none"
ONE_RUN = BackfillPolicy.single_run()


def arrival_days(start: date, end: date | None) -> DailyPartitionsDefinition:
    """The arrival days (UTC) from `start` to `end`, both included. Without an end, every day that is over."""
    last = (end + timedelta(days=1)).strftime(DAY_FORMAT) if end else None
    return DailyPartitionsDefinition(start_date=start.strftime(DAY_FORMAT), end_date=last)


def as_of_days(start: date, end: date | None) -> DailyPartitionsDefinition:
    """The as-of days, from the day after the first arrival day on.

    Today is among them, because it reads the days up to yesterday.
    """
    last = (end + timedelta(days=2)).strftime(DAY_FORMAT) if end else None
    return DailyPartitionsDefinition(
        start_date=(start + timedelta(days=1)).strftime(DAY_FORMAT), end_date=last, end_offset=1
    )


def before_as_of(days: int) -> TimeWindowPartitionMapping:
    """The `days` arrival days before an as-of day, without that day."""
    return TimeWindowPartitionMapping(
        start_offset=-days, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )


def days_of(context: AssetExecutionContext) -> list[str]:
    """The partitions of this step in order: one day, or the range of a backfill in one run."""
    return sorted(context.partition_keys)


def run_of(context: AssetExecutionContext) -> str:
    """The id of the Dagster run, or `NO_RUN` for an asset that is called as a function."""
    try:
        return context.run.run_id
    except DagsterInvalidPropertyError:
        return NO_RUN
