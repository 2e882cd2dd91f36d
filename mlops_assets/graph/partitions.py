"""The two calendars of the graph, and how one looks at the other.

Arrival days partition what comes in; as-of day D partitions what is made of it and reads arrival days before
D and nothing else. Between arrival days the graph knows the same day only, although windows look back: in a
backfill of several assets Dagster would take every later day that looks back on the ones asked for. Readers
take what the lake has of the days before.
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

# Look-backs that start before the first day, and backfills in one run, are what this graph is built on; a
# user can do nothing about their being beta.
warnings.filterwarnings("ignore", category=BetaWarning)
warnings.filterwarnings("ignore", category=PreviewWarning)  # checks that have partitions
# The daily job mixes assets that take a range in one run with reports of one day; the minimum, which the
# warning announces, is what is wanted.
warnings.filterwarnings(
    "ignore",
    message="Asset job daily materializes assets with varying BackfillPolicies",
    category=UserWarning,
)

DAY_FORMAT = "%Y-%m-%d"
NO_RUN = "none"
ONE_RUN = BackfillPolicy.single_run()


def arrival_days(start: date, end: date | None) -> DailyPartitionsDefinition:
    """Days on which rows arrived (UTC), `end` included; without an end, every day that is over."""
    last = (end + timedelta(days=1)).strftime(DAY_FORMAT) if end else None
    return DailyPartitionsDefinition(start_date=start.strftime(DAY_FORMAT), end_date=last)


def as_of_days(start: date, end: date | None) -> DailyPartitionsDefinition:
    """Days as of which a model is made, from the first one with an arrival day before it; today's exists, for
    it reads up to yesterday.
    """
    last = (end + timedelta(days=2)).strftime(DAY_FORMAT) if end else None
    return DailyPartitionsDefinition(
        start_date=(start + timedelta(days=1)).strftime(DAY_FORMAT), end_date=last, end_offset=1
    )


def before_as_of(days: int) -> TimeWindowPartitionMapping:
    """The `days` arrival days before an as-of day, which itself is not among them."""
    return TimeWindowPartitionMapping(
        start_offset=-days, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )


def days_of(context: AssetExecutionContext) -> list[str]:
    """The partitions that this step is to make, in order: one day, or the range of a backfill in one run."""
    return sorted(context.partition_keys)


def run_of(context: AssetExecutionContext) -> str:
    """The id of the Dagster run; an asset that is called as a function has none."""
    try:
        return context.run.run_id
    except DagsterInvalidPropertyError:
        return NO_RUN
